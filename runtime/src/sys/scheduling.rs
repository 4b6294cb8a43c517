//! Scheduler, I/O priority, memory policy and execution domain of the calling thread.

use libc::{c_int, c_ulong};
use nix::errno::Errno;

/// `struct sched_attr` in its first published size (sched_setattr(2)).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SchedulerAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    /// Nanoseconds, as the two that follow.
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// What set_mempolicy(2) takes: the mode with its flags, and a mask of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: c_int,
    pub(crate) nodes: [u64; 16],
}

pub(crate) fn set_scheduler(attributes: &SchedulerAttributes) -> nix::Result<()> {
    // SAFETY: the attributes carry their own size, and are only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            0,
            std::ptr::from_ref(attributes),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Class and level in one number.
pub(crate) fn set_io_priority(priority: c_int) -> nix::Result<()> {
    const WHO_PROCESS: c_int = 1;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    Errno::result(result).map(drop)
}

pub(crate) fn set_memory_policy(policy: &MemoryPolicy) -> nix::Result<()> {
    let is_empty = policy.nodes.iter().all(|word| *word == 0);
    let (mask, bits) = match is_empty {
        true => (std::ptr::null(), 0),
        // The kernel takes one bit less than it is told.
        false => (policy.nodes.as_ptr(), policy.nodes.len() * 64 + 1),
    };
    // SAFETY: the mask is null or as many bits long as announced; the last of them isn't read.
    let result =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, mask, bits as c_ulong) };
    Errno::result(result).map(drop)
}

pub(crate) fn set_personality(domain: u64) -> nix::Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}
