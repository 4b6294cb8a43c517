//! A process that we made: a container's first, or one that was put into a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::Error;
use crate::sys::process;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The code as shells and engines give it: 128 and the signal's number for one that was killed.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A child process. Dropping it leaves it running, unless it is part of a container that hasn't been
/// started yet.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    kill_on_drop: bool,
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill_on_drop {
            // One that is gone already is as wanted.
            let _killed = self.kill(Signal::SIGKILL).is_ok();
            let _reaped = self.wait().is_ok();
        }
    }
}

impl Child {
    /// A process that runs on its own.
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            console: None,
            kill_on_drop: false,
        }
    }

    /// A process that is being made: it is killed unless it is released.
    pub(crate) fn in_the_making(pid: Pid, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            console: None,
            kill_on_drop: true,
        }
    }

    /// From now on dropping it leaves it running.
    pub(crate) fn release(&mut self) {
        self.kill_on_drop = false;
    }

    pub(crate) fn set_console(&mut self, master: OwnedFd) {
        self.console = Some(master);
    }

    /// Its process id, as this process's pid namespace has it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable once the process has ended, for an event loop.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Sends a signal.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.kill_number(signal as i32)
    }

    /// Sends a signal by its number: real-time signals have no name.
    pub fn kill_number(&self, signal: i32) -> Result<(), Error> {
        process::send_signal_number(self.pidfd.as_fd(), signal).map_err(|errno| {
            let doing = format!("send signal {signal} to process {}", self.pid);
            Error::system("pidfd_send_signal", errno, doing)
        })
    }

    /// Waits for it to end and reaps it.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        match self.reap(true)? {
            Some(status) => Ok(status),
            // Can't be: without WNOHANG the call returns for a child that ended.
            None => Err(self.wait_error(Errno::ECHILD)),
        }
    }

    /// Reaps it if it has ended.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        self.reap(false)
    }

    /// Waits for it to end without reaping: for processes that aren't children of ours.
    pub fn wait_gone(&self) -> Result<(), Error> {
        while !self.poll(PollTimeout::NONE)? {}
        Ok(())
    }

    /// The same for so long; tells whether it has ended.
    pub fn wait_gone_within(&self, patience: Duration) -> Result<bool, Error> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if self.poll(timeout)? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Whether it has ended before the time was over, or a signal came.
    fn poll(&self, timeout: PollTimeout) -> Result<bool, Error> {
        let mut waits = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waits, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(Error::system("poll", errno, "wait for the process")),
        }
    }

    fn reap(&self, block: bool) -> Result<Option<ExitStatus>, Error> {
        let ended = process::wait_child(self.pidfd.as_fd(), block);
        Ok(ended
            .map_err(|errno| self.wait_error(errno))?
            .map(|(code, status)| match code {
                libc::CLD_EXITED => ExitStatus::Code(status),
                _ => ExitStatus::Signal(status),
            }))
    }

    fn wait_error(&self, errno: Errno) -> Error {
        Error::system("waitid", errno, format!("wait for process {}", self.pid))
    }
}
