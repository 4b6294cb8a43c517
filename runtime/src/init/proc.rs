//! Writing to /proc through a handle of our own.
//!
//! The container's /proc is a path in a tree that an image or volume has shaped; a write through it can
//! be led to any file of the host's procfs (CVE-2025-52881). A procfs mounted for this one purpose and
//! attached nowhere can't have been touched.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::step::{Failure, Step};
use crate::sys::mount::FsContext;

/// A procfs that nobody else sees.
pub(super) struct PrivateProc(OwnedFd);

impl PrivateProc {
    pub(super) fn open() -> nix::Result<Self> {
        FsContext::open(c"proc")?.mount(0).map(Self)
    }

    /// Writes a file below it.
    pub(super) fn write(&self, path: &CStr, value: &CStr) -> nix::Result<()> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            .resolve(resolve);
        let file = openat2(self.0.as_fd(), path, how)?;
        let bytes = value.to_bytes();
        match nix::unistd::write(&file, bytes)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(Errno::EIO),
        }
    }
}

/// Sets the kernel parameters of the container's namespaces.
pub(super) fn write_sysctls(sysctls: &[(CString, CString)]) -> Result<(), Failure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = PrivateProc::open().map_err(Failure::of(Step::Sysctl))?;
    for (index, (path, value)) in sysctls.iter().enumerate() {
        proc.write(path, value)
            .map_err(Failure::of_item(Step::Sysctl, index))?;
    }
    Ok(())
}
