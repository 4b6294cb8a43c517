//! The packet socket between parent and child, and passing descriptors over it.

use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::c_int;
use nix::errno::Errno;

use super::owned;

/// Room for one descriptor's control message, aligned as a header must be.
#[repr(C, align(8))]
struct ControlBuffer([u8; 24]);

/// Two connected packet sockets, closed by exec.
pub(crate) fn packet_pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
}

/// Ends what the peer can read: after the packets that are on their way it finds nothing more.
pub(crate) fn shut_down_writing(socket: BorrowedFd) -> nix::Result<()> {
    nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Write)
}

/// A socket to make interface requests on.
pub(crate) fn inet_datagram() -> nix::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_socket,
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        )
    })
}

/// Takes the next connection of a listening socket.
pub(crate) fn accept(listener: BorrowedFd) -> nix::Result<OwnedFd> {
    let null = std::ptr::null_mut::<libc::sockaddr>();
    // SAFETY: the peer's address is not asked for.
    owned(unsafe {
        libc::syscall(
            libc::SYS_accept4,
            listener.as_raw_fd(),
            null,
            null,
            libc::SOCK_CLOEXEC,
        )
    })
}

/// Sends one packet, with a descriptor if there is one. A closed peer is `EPIPE`, not a signal.
pub(crate) fn send(socket: BorrowedFd, bytes: &[u8], fd: Option<BorrowedFd>) -> nix::Result<()> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = ControlBuffer([0; 24]);
    // SAFETY: an all-zero message header is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        write_descriptor(&mut message, fd.as_raw_fd());
    }
    // SAFETY: the header points to a part and a control buffer that live through the call.
    let result =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    Errno::result(result).map(drop)
}

fn write_descriptor(message: &mut libc::msghdr, fd: RawFd) {
    // SAFETY: the control buffer is aligned and has room for one header and one descriptor
    // (CMSG_SPACE(4) is 24 bytes), so the first header is there.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(fd);
    }
}

/// Receives one packet and the descriptor that came with it; no bytes mean that the peer is gone.
pub(crate) fn receive(
    socket: BorrowedFd,
    buffer: &mut [u8],
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = ControlBuffer([0; 24]);
    // SAFETY: an all-zero message header is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    let length = loop {
        // SAFETY: the header points to a buffer and a control buffer that live through the call.
        let result =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(Errno::EMSGSIZE);
    }
    Ok((length as usize, read_descriptor(&message)))
}

fn read_descriptor(message: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: the kernel wrote valid headers into the buffer of the length it reports, and a
    // descriptor that comes with SCM_RIGHTS is ours alone.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_RIGHTS
        {
            return None;
        }
        let fd = libc::CMSG_DATA(header).cast::<c_int>().read_unaligned();
        Some(OwnedFd::from_raw_fd(fd))
    }
}
