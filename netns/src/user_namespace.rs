//! A user namespace of a task's own, with the network namespace that it owns.
//!
//! In a network namespace of the host's, root of a user namespace is nobody: no port below 1024, no ping, no sysfs. So
//! the two are made together. Who has the network namespace has the other, too (`NS_GET_USERNS` of ioctl_nsfs(2)).
//!
//! Its creator is the host's user that its root is. So what the kernel counts for a user beyond single processes
//! (pending signals, message queues, locked memory, and namespaces) is counted for a task by itself: were it the host's
//! root, as with other engines, a task could use up what all tasks have together.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::subordinate_ids::IdRange;
use crate::sys;
use crate::sysctls::SysctlTree;

/// Makes both, as for a task, and returns the network namespace. Its loopback link is up.
///
/// # Errors
///
/// The kernel's, for what it lacks or forbids: `EINVAL` without user namespaces, `ENOSPC` where `user.max_user_namespaces`
/// allows no more, `EPERM` where the caller may not give these ids; and what keeps a namespace's sysctls from being set.
pub fn make(range: IdRange) -> Result<OwnedFd> {
    let made = Namespace::create(Some(range), &SysctlTree::open()?, false)?;
    Ok(made.into())
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
