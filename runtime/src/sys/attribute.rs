//! Extended attributes of open files, which cgroups have too.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Sets an attribute that isn't there yet: `EEXIST` if it is.
pub(crate) fn create(file: BorrowedFd, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: the name is a C string, and the value is as long as is said; both are only read.
    let result = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            libc::XATTR_CREATE,
        )
    };
    Errno::result(result).map(drop)
}

/// Reads an attribute into the buffer, and tells how long it is.
pub(crate) fn read(file: BorrowedFd, name: &CStr, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the name is a C string, and the buffer is ours and as long as is said.
    let result = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    let length = Errno::result(result)?;
    usize::try_from(length).map_err(|_| Errno::EOVERFLOW)
}
