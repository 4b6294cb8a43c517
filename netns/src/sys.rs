//! The one door to what has no safe wrapper: every `unsafe` of this crate is in this file.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;

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

/// The number of a socket's network namespace, which no other has during a boot (Linux 5.14).
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the descriptor is open for the duration of the borrow; the pointers are to `cookie` and its length, which
    // outlive the call, and the kernel writes no more than that length.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if outcome == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes an instance of procfs that is mounted nowhere. Names are looked up from its descriptor (fsopen(2),
/// Linux 5.8 for an instance of one's own).
pub(crate) fn new_procfs() -> io::Result<OwnedFd> {
    const CLOSE_ON_EXEC: libc::c_uint = 1;
    const CREATE: libc::c_uint = 6;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the name is a constant that ends in a zero, which the kernel reads; the result is checked.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), CLOSE_ON_EXEC) })?;
    // SAFETY: the descriptor is open, and this command takes neither a key nor a value.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CREATE,
            none,
            none,
            0,
        )
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsmount takes no pointers, and the descriptor is open.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOSE_ON_EXEC, 0) })
}

fn owned(outcome: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(outcome) {
        // SAFETY: the kernel has just returned it as a new descriptor, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

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

/// The user namespace that owns a namespace (ioctl_nsfs(2)).
pub(crate) fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for the duration of the borrow, and this request takes no argument.
    let outcome = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    owned(outcome.into())
}

/// Keeps netlink messages from a socket that are about what the socket with this number did: the kernel drops them
/// before they take room in the queue.
pub(crate) fn ignore_port(socket: BorrowedFd<'_>, port: u32) -> io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const KEEP: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const PORT_IN_HEADER: u32 = 12;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD_WORD, 0, PORT_IN_HEADER),
        // The load takes the bytes for big-endian.
        step(SKIP_UNLESS_EQUAL, 1, port.to_be()),
        step(KEEP, 0, 0),
        step(KEEP, 0, u32::MAX),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as libc::c_ushort,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open for the duration of the borrow; the pointer and the length describe `program`,
    // whose pointer and length describe `steps`, and both outlive the call; the kernel only reads them.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
