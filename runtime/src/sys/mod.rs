//! The one door to the kernel calls that neither `std` nor `nix` offers.
//!
//! All of this crate's `unsafe` is below this module, one file per kernel interface; every other
//! module forbids it. The functions are thin: they take descriptors and C strings, never allocate
//! (a child between clone and exec may call them all), and give the bare [`Errno`]. Their callers
//! add what they were doing.

pub(crate) mod attribute;
pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod credentials;
pub(crate) mod directory;
pub(crate) mod keyring;
pub(crate) mod mount;
pub(crate) mod netlink;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod scheduling;
pub(crate) mod seccomp;
pub(crate) mod socket;
pub(crate) mod terminal;

use std::os::fd::{FromRawFd, OwnedFd};

use libc::c_long;
use nix::errno::Errno;

/// Turns a system call's result into a descriptor that we own.
fn owned(result: c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
