//! Numbers that nobody else has.

use nix::errno::Errno;

/// Random bits of the kernel's.
pub(crate) fn bits() -> nix::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is ours and as long as is said.
    let result = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match Errno::result(result)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(Errno::EAGAIN),
    }
}
