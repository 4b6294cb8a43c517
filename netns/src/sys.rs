//! The one door to what has no safe wrapper: every `unsafe` of this crate is in this file.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks the kernel for its own words on why it refuses a netlink request.
pub(crate) fn enable_extended_acks(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the duration of the borrow, and the pointer and the length
    // describe `on`, which outlives the call; the kernel only reads it.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_EXT_ACK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
