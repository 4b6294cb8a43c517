//! Installing a compiled system call filter.

use std::os::fd::OwnedFd;

use libc::c_long;
use nix::errno::Errno;

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) operand: u32,
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub(crate) const MAX_INSTRUCTIONS: usize = 4096;

/// Puts this process under a filter, for good.
pub(crate) fn install(program: &[Instruction], flags: u32) -> nix::Result<()> {
    set_filter(program, flags).map(drop)
}

/// The same with a filter that notifies; returns where the notifications arrive.
pub(crate) fn install_with_listener(program: &[Instruction], flags: u32) -> nix::Result<OwnedFd> {
    super::owned(set_filter(program, flags)?)
}

fn set_filter(program: &[Instruction], flags: u32) -> nix::Result<c_long> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program is `len` instructions long, of the kernel's layout, and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    };
    Errno::result(result)
}

/// The instructions as the bytes in which they travel to the child.
pub(crate) fn as_bytes(program: &[Instruction]) -> &[u8] {
    // SAFETY: the structure has no padding (2 + 1 + 1 + 4 bytes), so all of its bytes are initialised.
    unsafe { std::slice::from_raw_parts(program.as_ptr().cast(), size_of_val(program)) }
}

/// The same, to be written.
pub(crate) fn as_bytes_mut(program: &mut [Instruction]) -> &mut [u8] {
    // SAFETY: as above, and every bit pattern is a valid instruction.
    unsafe { std::slice::from_raw_parts_mut(program.as_mut_ptr().cast(), size_of_val(program)) }
}
