//! The one door to what has no safe wrapper: every `unsafe` of this crate is in this module.

mod owner;
mod visit;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub(crate) use owner::NewOwner;
pub(crate) use visit::{Destination, Visit};

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

/// The network namespace of a socket (ioctl SIOCGSKNS, Linux 4.9).
pub(crate) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the descriptor is open for the duration of the borrow, and this request takes no argument.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    owned(outcome.into())
}

/// The index of a link in a socket's network namespace (netdevice(7)): it takes none of the locks that links are configured
/// under, nor a description of the link, which takes the longer the more namespaces there are. For one that is not there,
/// the kernel looks for a module of its name.
pub(crate) fn link_index(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 },
    };
    // With a zero at its end.
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: the descriptor is open for the duration of the borrow; the pointer is to `request`, which outlives the call,
    // and has the layout that the kernel reads and writes for this request.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this part of the union was initialised above, and any bytes are a number.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
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
