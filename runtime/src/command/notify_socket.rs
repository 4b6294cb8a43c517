//! Telling a service manager that the container is ready (sd_notify(3)).
//!
//! The manager listens to the processes of its service, of which the container's are none. So the
//! container gets a socket of ours, and its being ready is passed on; nothing else that it says is, since
//! it must not speak for the service. The socket's place is runc's, where programs look for it.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{Mount, Spec};

use super::state::StateDirectory;

/// Where the service manager is to be reached.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The directory with the container's socket: in its state, and in the container.
const OUTSIDE: &str = "notify";
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";

/// What a program says when it is ready. One message may say more, a line each.
const READY: &str = "READY=1";

/// Whether a service manager waits for one of its services to be ready.
pub(crate) fn is_asked_for() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Gives the container a socket, if a service manager waits for it to be ready.
pub(crate) fn announce(directory: &StateDirectory, spec: &mut Spec) -> Result<()> {
    if !is_asked_for() {
        return Ok(());
    }
    let outside = directory.path().join(OUTSIDE);
    fs::create_dir(&outside)
        .and_then(|()| fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("make {}", outside.display()))?;
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
    let mut mount = Mount::default();
    mount
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(outside))
        .set_destination(INSIDE.into())
        .set_options(Some(options.map(str::to_owned).to_vec()));
    spec.mounts_mut().get_or_insert_with(Vec::new).push(mount);
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_with(Vec::new);
        env.push(format!("{VARIABLE}={INSIDE}/{NAME}"));
    }
    Ok(())
}

/// Listens for a container that is about to be started, and that was created with a socket.
pub(crate) fn listen(directory: &StateDirectory) -> Result<Option<Relay>> {
    let outside = directory.path().join(OUTSIDE);
    let Some(manager) = std::env::var_os(VARIABLE).filter(|_| outside.exists()) else {
        return Ok(None);
    };
    let manager = PathBuf::from(manager);
    let address =
        address_of(&manager).with_context(|| format!("{VARIABLE}={}", manager.display()))?;
    let path = outside.join(NAME);
    let socket = UnixDatagram::bind(&path)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(|socket| {
            // Whoever the container's process is.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map(|()| socket)
        })
        .with_context(|| format!("listen on {}", path.display()))?;
    Ok(Some(Relay { socket, address }))
}

/// A socket's file, or with `@` its name in the kernel's own table.
fn address_of(manager: &Path) -> std::io::Result<SocketAddr> {
    match manager.as_os_str().as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(manager),
    }
}

/// The container's socket, and where what it says goes.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Relay {
    /// Readable when the container has said something.
    pub(crate) fn wait(&self) -> PollFd<'_> {
        PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)
    }

    /// Passes on what has arrived; tells whether that was that the container is ready. The manager
    /// learns of its process where that is not our child, which it would take for the service's.
    pub(crate) fn pass_on(&self, main_pid: Option<i32>) -> Result<bool> {
        let mut buffer = [0; 4096];
        let mut is_ready = false;
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("hear from the container's notify socket"),
            };
            let text = buffer.get(..length).unwrap_or_default();
            is_ready |= text
                .split(|byte| *byte == b'\n')
                .any(|line| line == READY.as_bytes());
        }
        if is_ready {
            let pid = main_pid.map(|pid| format!("MAINPID={pid}\n"));
            let message = format!("{}{READY}", pid.unwrap_or_default());
            UnixDatagram::unbound()
                .and_then(|socket| socket.send_to_addr(message.as_bytes(), &self.address))
                .with_context(|| format!("tell {VARIABLE} that the container is ready"))?;
        }
        Ok(is_ready)
    }

    /// Waits until the container is ready, or has ended.
    pub(crate) fn until_ready(&self, pidfd: BorrowedFd, pid: i32) -> Result<()> {
        loop {
            let mut waits = [PollFd::new(pidfd, PollFlags::POLLIN), self.wait()];
            match poll(&mut waits, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("poll"),
            }
            let [ended, _] = waits.map(|wait| wait.any().unwrap_or(false));
            if self.pass_on(Some(pid))? || ended {
                return Ok(());
            }
        }
    }
}
