//! Terminals: handing one to an engine, or relaying between it and our own.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Sends a terminal's master to whoever listens on a stream socket.
pub(crate) fn send(path: &Path, master: BorrowedFd) -> Result<()> {
    send_descriptor("--console-socket", path, "/dev/ptmx", master)
}

/// Sends a descriptor with a word of text; `option` named the socket.
pub(crate) fn send_descriptor(
    option: &str,
    path: &Path,
    text: &str,
    descriptor: BorrowedFd,
) -> Result<()> {
    let to = || format!("{option} {}", path.display());
    let connection = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(connection.as_raw_fd(), &UnixAddr::new(path)?).with_context(to)?;
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg::<()>(
        connection.as_raw_fd(),
        &text,
        &rights,
        MsgFlags::empty(),
        None,
    )
    .with_context(to)?;
    Ok(())
}

/// Carries text between our terminal, made raw for the time, and a container's.
pub(crate) struct Relay {
    master: std::fs::File,
    saved: Option<Termios>,
    input_open: bool,
}

impl Relay {
    pub(crate) fn start(master: OwnedFd) -> Result<Self> {
        let saved = tcgetattr(std::io::stdin()).ok();
        if let Some(ours) = &saved {
            let mut raw = ours.clone();
            cfmakeraw(&mut raw);
            tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        }
        let relay = Self {
            master: master.into(),
            saved,
            input_open: true,
        };
        relay.copy_size()?;
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    pub(crate) fn copy_size(&self) -> Result<()> {
        match self.saved {
            Some(_) => Ok(berth_runtime::copy_terminal_size(
                std::io::stdin().as_fd(),
                self.master.as_fd(),
            )?),
            None => Ok(()),
        }
    }

    pub(crate) fn waits(&self) -> Vec<PollFd<'_>> {
        let input = match self.input_open {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        };
        vec![
            PollFd::new(self.master.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin_fd(), input),
        ]
    }

    /// Moves what is there to be moved.
    pub(crate) fn pump(&mut self, ready: &[bool]) -> Result<()> {
        if ready.first() == Some(&true) {
            self.output()?;
        }
        if ready.get(1) == Some(&true) && self.input_open {
            let mut buffer = [0; 4096];
            match nix::unistd::read(stdin_fd(), &mut buffer) {
                Ok(0) | Err(Errno::EIO) => self.input_open = false,
                Ok(length) => self
                    .master
                    .write_all(buffer.get(..length).unwrap_or_default())?,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("read standard input"),
            }
        }
        Ok(())
    }

    /// Copies one piece of output; tells whether there was one.
    fn output(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let length = match self.master.read(&mut buffer) {
            // The other end is closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            other => other.context("read the container's terminal")?,
        };
        let mut output = std::io::stdout();
        output.write_all(buffer.get(..length).unwrap_or_default())?;
        output.flush()?;
        Ok(length > 0)
    }

    /// Copies what is left once the process has ended.
    pub(crate) fn drain(mut self) -> Result<()> {
        loop {
            let mut master = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = nix::poll::poll(&mut master, nix::poll::PollTimeout::ZERO)?;
            if ready == 0 || !self.output()? {
                return Ok(());
            }
        }
    }
}

fn stdin_fd() -> BorrowedFd<'static> {
    static STDIN: std::sync::OnceLock<std::io::Stdin> = std::sync::OnceLock::new();
    STDIN.get_or_init(std::io::stdin).as_fd()
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // A terminal that is gone needs no restoring.
            let _restored = tcsetattr(std::io::stdin(), SetArg::TCSANOW, saved).is_ok();
        }
    }
}
