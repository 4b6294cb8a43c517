//! User, groups, capabilities and the other things that decide what a process may do.
//!
//! The identity calls are made raw: the C library's wrappers signal every thread of the process, and
//! in a child cloned from a threaded process those threads don't exist.

use libc::{c_int, c_long, c_ulong};
use nix::errno::Errno;

/// The number of capability sets' words of version 3.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// A process's capability sets, as masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapabilityMasks {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

pub(crate) fn set_user(uid: u32) -> nix::Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

pub(crate) fn set_group(gid: u32) -> nix::Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

pub(crate) fn set_supplementary_groups(groups: &[u32]) -> nix::Result<()> {
    // SAFETY: the slice is `groups.len()` group ids long.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(result).map(drop)
}

/// That of CAP_SYS_ADMIN (capability.h).
pub(crate) const CAP_SYS_ADMIN: u64 = 1 << 21;

/// The permitted set of this process.
pub(crate) fn permitted() -> nix::Result<u64> {
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: header and data have the layout of version 3: two triples of words.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    Errno::result(result)?;
    let [[_, low, _], [_, high, _]] = data;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// Keeps what is permitted when this process executes a program, though it isn't root.
pub(crate) fn keep_through_exec() -> nix::Result<()> {
    let permitted = permitted()?;
    set_capabilities(&CapabilityMasks {
        effective: permitted,
        permitted,
        inheritable: permitted,
        ..Default::default()
    })?;
    set_ambient(permitted)
}

/// Sets the effective, permitted and inheritable sets.
pub(crate) fn set_capabilities(masks: &CapabilityMasks) -> nix::Result<()> {
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let half = |shift: u32| {
        [masks.effective, masks.permitted, masks.inheritable].map(|set| (set >> shift) as u32)
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout of version 3: two triples of words.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Drops every capability outside `mask` from the bounding set.
pub(crate) fn limit_bounding_set(mask: u64) -> nix::Result<()> {
    for capability in (0..64u32).filter(|capability| mask & (1 << capability) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0) {
            // The kernel knows no further capability.
            Err(Errno::EINVAL) => break,
            other => drop(other?),
        }
    }
    Ok(())
}

/// Sets the ambient set, which permitted and inheritable must cover already.
pub(crate) fn set_ambient(mask: u64) -> nix::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong,
        0,
    )?;
    for capability in (0..64u64).filter(|bit| mask & (1 << bit) != 0) {
        prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as c_ulong,
            capability as c_ulong,
        )?;
    }
    Ok(())
}

/// Keeps the permitted set while the user changes away from root.
pub(crate) fn keep_capabilities(keep: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, c_ulong::from(keep), 0).map(drop)
}

/// Nobody without CAP_SYS_PTRACE over us may trace us or read our /proc files any more.
pub(crate) fn set_undumpable() -> nix::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

pub(crate) fn set_no_new_privileges() -> nix::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Asks for a signal when the thread that cloned us dies.
pub(crate) fn set_parent_death_signal(signal: i32) -> nix::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as c_ulong, 0).map(drop)
}

fn prctl(option: c_int, first: c_ulong, second: c_ulong) -> nix::Result<c_long> {
    let zero: c_ulong = 0;
    // SAFETY: the options above take numbers, no pointers.
    let result = unsafe { libc::syscall(libc::SYS_prctl, option, first, second, zero, zero) };
    Errno::result(result)
}
