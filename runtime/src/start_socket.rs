//! Starting a container from another process than the one that created it.
//!
//! A created container listens on a packet socket in a directory that only root may enter. Connecting
//! starts it, and the connection tells how that went: it is closed by exec, or carries what failed.
//! A fifo, which runc uses for this, couldn't carry the error.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen as listen_on,
    socket,
};
use nix::sys::stat::Mode;

use crate::error::{Error, StartError};
use crate::failpoint;
use crate::launch::await_exec;

/// The socket's name in its directory.
pub const NAME: &str = "start.sock";

/// Makes the socket in `directory`, for [`CreateOptions::start_socket`](crate::CreateOptions).
pub fn listen(directory: &Path) -> Result<OwnedFd, Error> {
    let doing = || format!("listen on {}/{NAME}", directory.display());
    let failed = |call| move |errno| Error::system(call, errno, doing());
    let listener = new_socket().map_err(failed("socket"))?;
    with_address(directory, |address| bind(listener.as_raw_fd(), address))
        .map_err(failed("bind"))?;
    listen_on(&listener, Backlog::new(1).unwrap_or(Backlog::MAXCONN)).map_err(failed("listen"))?;
    Ok(listener)
}

/// Starts the container that listens in `directory`; `command` is its program, for messages.
pub fn start(directory: &Path, command: &str) -> Result<(), StartError> {
    let failed = |call| {
        move |errno| {
            Error::system(
                call,
                errno,
                "start the container: it is not waiting to be started",
            )
        }
    };
    let connection = new_socket().map_err(failed("socket"))?;
    with_address(directory, |address| {
        connect(connection.as_raw_fd(), address)
    })
    .map_err(failed("connect"))?;
    failpoint::pass("start-connected");
    await_exec(std::os::fd::AsFd::as_fd(&connection), command)
}

fn new_socket() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// A socket's address has room for 108 bytes, which a state directory's path can exceed: it is
/// reached through a descriptor.
fn with_address(
    directory: &Path,
    call: impl FnOnce(&UnixAddr) -> Result<(), Errno>,
) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd());
    call(&UnixAddr::new(path.as_str())?)
}
