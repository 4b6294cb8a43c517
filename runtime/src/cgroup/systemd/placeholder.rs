//! The process that a scope begins with.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid, pause};

use crate::sys::clone::{CloneArgs, clone3};
use crate::sys::{credentials, process};

/// A process that waits to be killed, which dropping it does. It dies with the calling thread, so that
/// a scope doesn't outlive a runtime that was killed.
#[derive(Debug)]
pub(crate) struct Placeholder {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Placeholder {
    pub(super) fn start() -> nix::Result<Self> {
        let parent = getpid();
        let args = CloneArgs {
            flags: CloneFlags::empty(),
            cgroup: None,
        };
        let child = clone3(&args, || {
            let dies = credentials::set_parent_death_signal(Signal::SIGKILL as i32);
            // A parent that died before that sends no signal any more.
            if dies.is_err() || credentials::set_undumpable().is_err() || getppid() != parent {
                return 1;
            }
            loop {
                pause();
            }
        })?;
        Ok(Self {
            pid: child.pid,
            pidfd: child.pidfd,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // It may be gone already; then it is reaped all the same.
        let _killed = process::send_signal(self.pidfd.as_fd(), Some(Signal::SIGKILL)).is_ok();
        let _reaped = process::wait_child(self.pidfd.as_fd(), true).is_ok();
    }
}
