//! Pseudoterminals, opened by descriptor so that no path below /dev/pts is trusted.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;
use nix::errno::Errno;

use super::owned;

/// Unlocks the terminal of a master opened from `ptmx`.
pub(crate) fn unlock(master: BorrowedFd) -> nix::Result<()> {
    let unlocked: c_int = 0;
    // SAFETY: the request reads one integer.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    Errno::result(result).map(drop)
}

/// Opens the other end of a master, whatever has been put at its path (CVE-2025-52565).
pub(crate) fn open_peer(master: BorrowedFd) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes flags, no pointer.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Makes the terminal the controlling one of this session.
pub(crate) fn take_control(terminal: BorrowedFd) -> nix::Result<()> {
    // SAFETY: the request takes a number.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets a terminal's size in characters.
pub(crate) fn set_size(terminal: BorrowedFd, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one `struct winsize`.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// Asks for a terminal's size: rows and columns.
pub(crate) fn size(terminal: BorrowedFd) -> nix::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request writes one `struct winsize`.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(result).map(|_| (size.ws_row, size.ws_col))
}
