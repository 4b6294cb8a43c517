//! Reading directories and copying files without allocating, for a child between clone and exec.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Where a `struct linux_dirent64` has its own length, and where its name begins (getdents64(2)).
const LENGTH_OFFSET: usize = 16;
const NAME_OFFSET: usize = 19;

/// The names in a directory, read piece by piece into a buffer of the caller's.
pub(crate) struct Entries<'a> {
    directory: BorrowedFd<'a>,
    buffer: &'a mut [u8],
    position: usize,
    filled: usize,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(directory: BorrowedFd<'a>, buffer: &'a mut [u8]) -> Self {
        Self {
            directory,
            buffer,
            position: 0,
            filled: 0,
        }
    }

    /// The next name, `.` and `..` among them; `None` at the end.
    pub(crate) fn next(&mut self) -> nix::Result<Option<&CStr>> {
        if self.position >= self.filled {
            self.filled = read_entries(self.directory, self.buffer)?;
            self.position = 0;
            if self.filled == 0 {
                return Ok(None);
            }
        }
        let filled = self.buffer.get(self.position..self.filled);
        let entry = filled.ok_or(Errno::EIO)?;
        let length = entry.get(LENGTH_OFFSET..LENGTH_OFFSET + 2);
        let length = length.and_then(|bytes| bytes.try_into().ok());
        let length = usize::from(u16::from_ne_bytes(length.ok_or(Errno::EIO)?));
        let name = entry.get(NAME_OFFSET..length).ok_or(Errno::EIO)?;
        self.position += length;
        CStr::from_bytes_until_nul(name)
            .map(Some)
            .map_err(|_| Errno::EIO)
    }
}

fn read_entries(directory: BorrowedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the buffer is as long as announced.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    Errno::result(result).map(|length| length as usize)
}

/// Copies all of a file's content to the position of another.
pub(crate) fn copy_content(from: BorrowedFd, to: BorrowedFd) -> nix::Result<()> {
    const AT_ONCE: usize = 1 << 30;
    loop {
        // SAFETY: without an offset the position of `from` is used and moved.
        let result = unsafe {
            libc::sendfile(
                to.as_raw_fd(),
                from.as_raw_fd(),
                std::ptr::null_mut(),
                AT_ONCE,
            )
        };
        match Errno::result(result) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
