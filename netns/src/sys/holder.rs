//! A process that holds new namespaces while others look at them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;

use super::owned;

/// A process that holds namespaces.
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Makes a process that enters new namespaces, says by four bytes whether it could (the error's number, or 0), and then
/// does nothing but wait for the other end of its socket to close, and end. It sends no signal then (clone(2)).
///
/// A user namespace among them is that of the host's user `owner`, so that what is counted for users is not counted
/// together with what others have, and what its creator may have at most is no limit that anybody set.
pub(crate) fn hold_namespaces(
    namespaces: CloneFlags,
    owner: u32,
    socket: BorrowedFd<'_>,
) -> io::Result<Holder> {
    let socket = socket.as_raw_fd();
    let flags = libc::c_long::from(libc::CLONE_PIDFD);
    let mut pidfd: libc::c_int = -1;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: without CLONE_VM the child has a copy of all memory, and its stack is this one's; `pidfd` outlives the
    // call, in which the kernel writes it. Other threads are not in the child, so there it makes nothing but system calls,
    // and does not return.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) };
    if pid == 0 {
        hold(namespaces, owner, socket);
    }
    let pid = i32::try_from(pid).unwrap_or(-1);
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pidfd = owned(pidfd.into())?;
    Ok(Holder { pid, pidfd })
}

/// What the child of [`hold_namespaces`] does: system calls alone, with no memory but its stack.
fn hold(namespaces: CloneFlags, owner: u32, socket: libc::c_int) -> ! {
    // SAFETY: the calls take numbers, and pointers to what is on this stack, of the size that is said; the last of them
    // does not return.
    unsafe {
        // The other end of the socket, and whatever others wait to see closed. Where that is refused, the end would never
        // be seen.
        let below = match socket {
            0 => 0,
            _ => libc::syscall(libc::SYS_close_range, 0, socket - 1, 0),
        };
        let above = libc::syscall(libc::SYS_close_range, socket + 1, libc::c_int::MAX, 0);
        let mut outcome = (below | above) as libc::c_int;
        if outcome == 0 {
            lift_limits();
            become_owner(owner);
            outcome = libc::syscall(libc::SYS_unshare, namespaces.bits()) as libc::c_int;
        }
        let error = if outcome == 0 {
            0
        } else {
            *libc::__errno_location()
        };
        let mut byte = 0u8;
        libc::syscall(
            libc::SYS_write,
            socket,
            &raw const error,
            size_of_val(&error),
        );
        // Only then is the end seen.
        if above == 0 && below == 0 {
            while libc::syscall(libc::SYS_read, socket, &raw mut byte, 1) > 0 {}
        }
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

/// Raises the calling process's limits of what a user has, as far as they go: a user namespace keeps those of its
/// creator, for all its users together (`set_userns_rlimit_max` in the kernel). What a process may is not raised by it.
fn lift_limits() {
    const OF_USERS: [libc::__rlimit_resource_t; 4] = [
        libc::RLIMIT_NPROC,
        libc::RLIMIT_MSGQUEUE,
        libc::RLIMIT_SIGPENDING,
        libc::RLIMIT_MEMLOCK,
    ];
    let none = std::ptr::null_mut::<libc::rlimit>();
    for resource in OF_USERS {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the pointers are null or to `limit`, which the kernel reads and writes in the call.
        unsafe {
            let set = |limit: &libc::rlimit| {
                let limit = std::ptr::from_ref(limit);
                libc::syscall(libc::SYS_prlimit64, 0, resource, limit, none) == 0
            };
            // Who may not go beyond the hard limit goes up to it. Limits that stay are some, as before.
            if !set(&limit)
                && libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut limit) == 0
            {
                limit.rlim_cur = limit.rlim_max;
                set(&limit);
            }
        }
    }
}

/// Makes the calling process effectively that user and group, with the capabilities that it has. Where that is refused
/// it stays who it is, as does what is counted for it.
///
/// Root has all capabilities in a user namespace that is its own, and in another's those that it has itself. To look at
/// the namespaces of processes there takes CAP_SYS_PTRACE: who lacks that has to be the owner.
fn become_owner(owner: u32) {
    const SYS_PTRACE: u32 = 1 << 19;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    // Twice effective, permitted, inheritable: the lower and the upper 32 capabilities (capset(2)).
    type Sets = [[u32; 3]; 2];
    const VERSION_3: u32 = 0x2008_0522;
    const SAME: u32 = u32::MAX;
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut sets: Sets = [[0; 3]; 2];
    // SAFETY: the pointers are to `header` and `sets`, which have the layout of this version and outlive the calls.
    unsafe {
        let known = libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) == 0;
        let [[effective, ..], _] = sets;
        if !known || effective & SYS_PTRACE == 0 {
            return;
        }
        libc::syscall(libc::SYS_setresgid, SAME, owner, SAME);
        libc::syscall(libc::SYS_setresuid, SAME, owner, SAME);
        // The change took them out of effect.
        libc::syscall(libc::SYS_capset, &raw mut header, &raw const sets);
    }
}
