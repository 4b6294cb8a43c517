//! What moving an interface needs of rtnetlink(7): requests that are answered, and lists.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Messages and attributes begin at multiples of this.
const ALIGNMENT: usize = 4;
/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// The kernel fills no more for a list.
const LONGEST_ANSWER: usize = 64 << 10;

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    kind: u16,
    flags: i32,
    content: Vec<u8>,
}

impl Request {
    /// One of this type, with the structure that such begin with.
    pub(crate) fn new(kind: u16, flags: i32, structure: &[u8]) -> Self {
        Self {
            kind,
            flags: flags | libc::NLM_F_REQUEST,
            content: structure.to_vec(),
        }
    }

    /// Adds an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.content.extend(length.to_ne_bytes());
        self.content.extend(kind.to_ne_bytes());
        self.content.extend(value);
        let aligned = self.content.len().next_multiple_of(ALIGNMENT);
        self.content.resize(aligned, 0);
        self
    }

    /// As it is sent. The kernel knows whom to answer, and we wait for each answer.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.content.len());
        bytes.extend(((HEADER + self.content.len()) as u32).to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags as u16).to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(&self.content);
        bytes
    }
}

/// A socket to the network namespace that this thread is in.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> nix::Result<Self> {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(Self)
    }

    /// Has something done.
    pub(crate) fn perform(&self, mut request: Request) -> nix::Result<()> {
        request.flags |= libc::NLM_F_ACK;
        self.ask(&request, |_| {})
    }

    /// Asks for something, and has `each` look at the content of each answer.
    pub(crate) fn ask(&self, request: &Request, mut each: impl FnMut(&[u8])) -> nix::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(
            self.0.as_raw_fd(),
            &request.bytes(),
            &kernel,
            MsgFlags::empty(),
        )?;
        let has_end = request.flags & (libc::NLM_F_ACK | libc::NLM_F_DUMP) != 0;
        loop {
            let mut buffer = vec![0; LONGEST_ANSWER];
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            let mut rest = buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
            while let Some((kind, content, next)) = split(rest) {
                match i32::from(kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => return result(content),
                    _ => each(content),
                }
                rest = next;
            }
            if !has_end {
                return Ok(());
            }
        }
    }
}

/// The first message's type and content, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.first_chunk().copied()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let content = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(ALIGNMENT)..);
    Some((kind, content, next.unwrap_or_default()))
}

/// What an answer that ends the others says: zero, or an error's negative number.
fn result(content: &[u8]) -> nix::Result<()> {
    match content.first_chunk().copied().map(i32::from_ne_bytes) {
        Some(0) | None => Ok(()),
        Some(errno) => Err(Errno::from_raw(-errno)),
    }
}

/// The attributes in a message's content, after the structure that it begins with.
pub(crate) fn attributes(content: &[u8], structure: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = content.get(structure.next_multiple_of(ALIGNMENT)..);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let length = usize::from(u16::from_ne_bytes(bytes.first_chunk().copied()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        rest = bytes.get(length.next_multiple_of(ALIGNMENT)..);
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let request = Request::new(16, 0, &[7; 16])
            .attribute(3, b"eth0\0")
            .attribute(28, &9u32.to_ne_bytes());
        let bytes = request.bytes();
        let (kind, content, rest) = split(&bytes).unwrap();
        assert_eq!((kind, rest.len()), (16, 0));
        let read: Vec<_> = attributes(content, 16).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (28, &9u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn what_is_cut_short_ends_the_reading() {
        for bytes in [&[][..], &[20, 0, 0, 0], &[255, 255, 255, 255, 1, 0, 0, 0]] {
            assert!(split(bytes).is_none());
        }
        assert_eq!(attributes(&[0, 0, 0, 0], 0).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1], 0).count(), 0);
    }
}
