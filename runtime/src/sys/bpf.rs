//! bpf(2), as far as a cgroup's device program needs it.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_long;
use nix::errno::Errno;

use super::owned;

const PROG_LOAD: c_long = 5;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const PROG_QUERY: c_long = 16;
/// As many as libbpf makes.
const LOAD_ATTEMPTS: u32 = 5;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// Programs of the cgroups above and below are asked too: any of them can refuse.
const ALLOW_MULTI: u32 = 2;
/// The program takes the place of another (Linux 5.6).
const REPLACE: u32 = 4;
/// More programs than anyone attaches to one cgroup: the kernel's own bound for one kind.
const MOST_PROGRAMS: usize = 64;
/// `BPF_OBJ_NAME_LEN`, of which the last byte is a null.
const NAME_LENGTH: usize = 16;

/// One instruction of eBPF, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LENGTH],
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
}

#[repr(C)]
struct FdByIdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of the kernel's `struct bpf_prog_info`, up to the name.
#[repr(C)]
struct ProgramInfo {
    before: [u64; 8],
    name: [u8; NAME_LENGTH],
}

/// Carries out a command of bpf(2).
///
/// # Safety
///
/// `T` must be the head of `union bpf_attr` for this command, and what it points to must live through
/// the call and be as long as it says.
unsafe fn bpf<T>(command: c_long, attr: &mut T) -> c_long {
    // SAFETY: the attributes live through the call, and their size is passed; the rest is the caller's.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    }
}

/// Loads a program that decides about a cgroup's access to devices.
pub(crate) fn load_device_program(name: &str, program: &[Instruction]) -> nix::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; NAME_LENGTH],
    };
    let room = attr.prog_name.iter_mut().take(NAME_LENGTH - 1);
    for (to, from) in room.zip(name.bytes()) {
        *to = from;
    }
    let mut load = || {
        // SAFETY: the attributes are this command's; instructions and license live through the call.
        owned(unsafe { bpf(PROG_LOAD, &mut attr) })
    };
    // The kernel breaks off when a signal comes, such as that of a child's end.
    let loaded = (1..LOAD_ATTEMPTS)
        .map(|_| load())
        .find(|loaded| !matches!(loaded, Err(Errno::EAGAIN)));
    loaded.unwrap_or_else(load)
}

/// Attaches a device program to a cgroup, which keeps it alive from then on; in place of `old`, if
/// there is one.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd,
    program: BorrowedFd,
    old: Option<BorrowedFd>,
) -> nix::Result<()> {
    let replace = old.map_or(0, |_| REPLACE);
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | replace,
        replace_bpf_fd: old.map_or(0, |old| old.as_raw_fd() as u32),
    };
    // SAFETY: the attributes are this command's and point to nothing.
    Errno::result(unsafe { bpf(PROG_ATTACH, &mut attr) }).map(drop)
}

/// Takes a device program off a cgroup.
pub(crate) fn detach_device_program(cgroup: BorrowedFd, program: BorrowedFd) -> nix::Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: the attributes are this command's and point to nothing.
    Errno::result(unsafe { bpf(PROG_DETACH, &mut attr) }).map(drop)
}

/// The ids of the device programs attached to a cgroup itself.
pub(crate) fn device_programs(cgroup: BorrowedFd) -> nix::Result<Vec<u32>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        reserved: 0,
    };
    // SAFETY: the attributes are this command's, and the array is as long as they say.
    Errno::result(unsafe { bpf(PROG_QUERY, &mut attr) })?;
    Ok(ids.into_iter().take(attr.prog_cnt as usize).collect())
}

/// Opens a loaded program.
pub(crate) fn open_program(id: u32) -> nix::Result<OwnedFd> {
    let mut attr = FdByIdAttr {
        prog_id: id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the attributes are this command's and point to nothing.
    owned(unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) })
}

/// The name that a program was loaded with.
pub(crate) fn program_name(program: BorrowedFd) -> nix::Result<String> {
    let mut info = ProgramInfo {
        before: [0; 8],
        name: [0; NAME_LENGTH],
    };
    let mut attr = InfoAttr {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the attributes are this command's; the kernel fills in as much of the information as there
    // is room for, and the zeros in it ask for no arrays.
    Errno::result(unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) })?;
    let name = info.name.iter().take_while(|byte| **byte != 0);
    Ok(name.map(|byte| char::from(*byte)).collect())
}
