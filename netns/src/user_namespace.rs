//! A user namespace of a task's own, with the network namespace that it owns.
//!
//! In a network namespace of the host's, root of a user namespace is nobody: no port below 1024, no ping, no sysfs. So
//! the two are made together, by a process that ends when they are kept. Who has the network namespace has the other,
//! too (`NS_GET_USERNS` of ioctl_nsfs(2)).
//!
//! Its creator is the host's user that its root is. So what the kernel counts for a user beyond single processes
//! (pending signals, message queues, locked memory, and namespaces) is counted for a task by itself: were it the host's
//! root, as with other engines, a task could use up what all tasks have together.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::error::{Error, Result};
use crate::subordinate_ids::IdRange;
use crate::sys;

/// Makes both, and returns the network namespace.
///
/// # Errors
///
/// The kernel's, for what it lacks or forbids: `EINVAL` without user namespaces, `ENOSPC` where `user.max_user_namespaces`
/// allows no more, `EPERM` where the caller may not give these ids.
pub fn make(range: IdRange) -> Result<OwnedFd> {
    const DOING: &str = "make a user namespace and a network namespace of its own";
    let (ours, its) = UnixStream::pair().map_err(|error| Error::io(DOING, error))?;
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
    let holder = sys::hold_namespaces(flags, range.first, its.as_fd());
    let holder = holder.map_err(|error| Error::io(DOING, error))?;
    drop(its);
    let kept = entered(&ours)
        .map_err(|error| Error::io(DOING, error))
        .and_then(|()| keep(holder.pid, range));
    drop(ours);
    // Without an exit signal it is no child for those who wait for any.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
    let ended = waitid(Id::PIDFd(holder.pidfd.as_fd()), flags);
    let namespace = kept?;
    ended.map_err(|errno| Error::io(DOING, errno))?;
    Ok(namespace)
}

/// Waits until the holder says that it is in its namespaces.
fn entered(mut socket: &UnixStream) -> io::Result<()> {
    let mut errno = [0; size_of::<i32>()];
    socket.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn keep(pid: i32, range: IdRange) -> Result<OwnedFd> {
    let of_holder = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    for name in ["uid_map", "gid_map"] {
        let path = of_holder(name);
        fs::write(&path, range.map()).map_err(|error| Error::file("write", &path, error))?;
    }
    let path = of_holder("ns/net");
    let namespace = File::open(&path).map_err(|error| Error::file("open", &path, error))?;
    Ok(namespace.into())
}

/// The user namespace that owns another namespace; its own for a user namespace.
///
/// # Errors
///
/// The kernel's (ioctl_nsfs(2)): `ENOTTY` for what is no namespace, `EPERM` for an owner that lies outside of the
/// caller's user namespace.
pub fn owner(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    sys::owner_of(namespace)
        .map_err(|error| Error::io("ask for the user namespace that owns another", error))
}
