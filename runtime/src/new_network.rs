//! A container's network namespace, made by a helper process while the parent prepares the rest.
//!
//! The kernel takes longer over it than over all else that a small container is made of. Made by the
//! container's clone, as it could be, it would hold up both sides. A thread instead of a process is
//! slower: each page that the parent writes to after a clone then interrupts the other processor.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::child::{Child, ExitStatus};
use crate::error::Error;
use crate::init;
use crate::sys::clone::{CloneArgs, Cloned, clone3};
use crate::sys::socket;

/// A namespace that is being made; given up when this is dropped.
#[derive(Debug)]
pub(crate) struct NewNetwork(Child);

impl NewNetwork {
    /// Begins to make one, which the container's process gets over the socket.
    pub(crate) fn begin() -> Result<(Self, OwnedFd), Error> {
        let (childs, helpers) = socket::packet_pair().map_err(failed("socketpair"))?;
        let args = CloneArgs {
            flags: CloneFlags::empty(),
            cgroup: None,
        };
        let Cloned { pid, pidfd } =
            clone3(&args, || init::make_network(helpers.as_fd())).map_err(failed("clone3"))?;
        Ok((Self(Child::in_the_making(pid, pidfd)), childs))
    }

    /// Waits until it is as it should be. The child has it before that.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let ended = self.0.wait()?;
        self.0.release();
        match ended {
            ExitStatus::Code(0) => Ok(()),
            ExitStatus::Code(errno) => Err(failed("ioctl SIOCSIFFLAGS lo")(Errno::from_raw(errno))),
            ExitStatus::Signal(_) => Err(failed("waitid")(Errno::EINTR)),
        }
    }
}

fn failed(call: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::system(call, errno, "make the container's network namespace")
}
