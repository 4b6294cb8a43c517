//! Session keyrings: what keeps a container from the keys of whoever started the runtime.

use std::ffi::CStr;

use libc::c_long;
use nix::errno::Errno;

const JOIN_SESSION_KEYRING: c_long = 1;
const SETPERM: c_long = 5;

/// What a new session keyring allows (everything to its possessors; to its user: view, read, link), and
/// search by its user: without that a process that enters the container later couldn't find it.
const PERMISSIONS: u32 = 0x3f00_0000 | 0x01_0000 | 0x02_0000 | 0x10_0000 | 0x08_0000;

/// Joins the session keyring of this name, which is made if there is none.
pub(crate) fn join_session(name: &CStr) -> nix::Result<()> {
    // SAFETY: the name is a C string that lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    let keyring = Errno::result(result)?;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, PERMISSIONS) };
    Errno::result(result).map(drop)
}
