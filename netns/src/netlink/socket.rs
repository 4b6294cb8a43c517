//! A netlink socket: sends requests and reads until each is answered.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::NetlinkError;
use super::frame::{Content, Frame, next_answer};

/// The kernel sends lists in parts of half as much, unless one link alone takes more: for one with hundreds of alternative
/// names, a few hundred bytes more.
const LARGEST_DATAGRAM: usize = 64 * 1024;

/// The kernel answers while a request is sent; this is only so that a mistake can't hang a caller.
const ANSWER_TIMEOUT: TimeVal = TimeVal::new(30, 0);

/// What all of a host's interfaces need at once, a few hundred bytes each, with much to spare. It is a limit, and no
/// memory is taken for it.
const LARGEST_REQUEST: usize = 64 * 1024 * 1024;

/// How much the kernel may have told of its own accord that nobody has read yet.
const LARGEST_BACKLOG: usize = 8 * 1024 * 1024;

/// A message of the kernel: its type, and what follows the header.
pub(crate) type Message = (u16, Vec<u8>);

/// A socket of one netlink family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    /// Room for what the kernel sends, from the first time that something is read.
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket for requests.
    pub(crate) fn open(family: SockProtocol) -> Result<Self, NetlinkError> {
        Self::subscribe(family, 0)
    }

    /// Opens a socket that also hears what happens, by the groups of the family.
    pub(crate) fn subscribe(family: SockProtocol, groups: u32) -> Result<Self, NetlinkError> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            family,
        )?;
        Self::prepare(fd, groups)
    }

    /// Makes a socket for requests of one that has just been opened, in whatever namespace.
    pub(crate) fn take(fd: OwnedFd) -> Result<Self, NetlinkError> {
        Self::prepare(fd, 0)
    }

    fn prepare(fd: OwnedFd, groups: u32) -> Result<Self, NetlinkError> {
        crate::sys::enable_extended_acks(fd.as_fd())?;
        setsockopt(&fd, ReceiveTimeout, &ANSWER_TIMEOUT)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        Ok(Self {
            fd,
            port,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// The number that the kernel gave the socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// A number that no other network namespace has during a boot, on kernels that have such.
    pub(crate) fn netns_cookie(&self) -> Option<u64> {
        crate::sys::netns_cookie(self.fd.as_fd()).ok()
    }

    /// Lets a datagram of requests be larger than the system's limit, some 200 KiB.
    pub(crate) fn allow_large_requests(&self) -> Result<(), NetlinkError> {
        Ok(setsockopt(&self.fd, SndBufForce, &LARGEST_REQUEST)?)
    }

    /// Lets the kernel tell a lot at once without that something is lost.
    pub(crate) fn allow_large_backlog(&self) -> Result<(), NetlinkError> {
        Ok(setsockopt(&self.fd, RcvBufForce, &LARGEST_BACKLOG)?)
    }

    /// Keeps away what the kernel tells of the doings of the socket with that number.
    pub(crate) fn ignore(&self, port: u32) -> Result<(), NetlinkError> {
        Ok(crate::sys::ignore_port(self.fd.as_fd(), port)?)
    }

    /// Sends requests in one datagram, which the kernel carries out in order, and returns what it
    /// sends back. The first refusal is the result, but the kernel has still tried the rest.
    pub(crate) fn request(&mut self, frames: &[Frame]) -> Result<Vec<Message>, NetlinkError> {
        loop {
            match self.request_once(frames) {
                // A list that changed while it was read. Only requests for lists end so.
                Err(error) if error == interrupted() => continue,
                outcome => return outcome,
            }
        }
    }

    fn request_once(&mut self, frames: &[Frame]) -> Result<Vec<Message>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(512);
        for frame in frames {
            self.sequence = self.sequence.wrapping_add(1);
            frame.write(self.sequence, &mut datagram);
        }
        let sent = send(self.fd.as_raw_fd(), &datagram, MsgFlags::empty())?;
        if sent != datagram.len() {
            return Err(Errno::EMSGSIZE.into());
        }
        self.read_answers(frames, first)
    }

    fn read_answers(&mut self, frames: &[Frame], first: u32) -> Result<Vec<Message>, NetlinkError> {
        let mut answers = Answers::new(frames, first);
        while !answers.complete() {
            let mut datagram = receive(&self.fd, &mut self.buffer)?;
            while let Some(answer) = next_answer(&mut datagram)? {
                answers.take(answer);
            }
        }
        match answers.refused {
            Some(refused) => Err(refused),
            None => Ok(answers.messages),
        }
    }

    /// Reads all that the kernel has sent of its own accord: whether anything is such, or may have been, where more was sent
    /// than there is room for.
    pub(crate) fn has_heard(
        &mut self,
        is_such: impl Fn(&Message) -> bool,
    ) -> Result<bool, NetlinkError> {
        /// Who sends faster than that has sent such, too, for all that is known.
        const MOST_AT_ONCE: u32 = 1000;
        let mut any = false;
        for _ in 0..MOST_AT_ONCE {
            match self.listen(Instant::now()) {
                Ok(messages) if messages.is_empty() => return Ok(any),
                Ok(messages) => any |= messages.iter().any(&is_such),
                // The kernel says so again only when all that it had room for is read.
                Err(error) if error.errno == Errno::ENOBUFS => any = true,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next messages that the kernel sends of its own accord, or nothing when the time is up.
    pub(crate) fn listen(&mut self, deadline: Instant) -> Result<Vec<Message>, NetlinkError> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last millisecond is not spent in a busy loop.
        let left = left + Duration::from_millis(u64::from(!left.is_zero()));
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut datagram = receive(&self.fd, &mut self.buffer)?;
        let mut messages = Vec::new();
        while let Some(answer) = next_answer(&mut datagram)? {
            if let Content::Data(payload) = answer.content {
                messages.push((answer.kind, payload.to_vec()));
            }
        }
        Ok(messages)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn receive<'a>(fd: &OwnedFd, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], NetlinkError> {
    if buffer.is_empty() {
        *buffer = vec![0; LARGEST_DATAGRAM];
    }
    let length = loop {
        // The length that it has, also of what is cut off.
        match recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => {}
            outcome => break outcome?,
        }
    };
    let too_long = || {
        let answer = format!("an answer has {length} bytes, more than {LARGEST_DATAGRAM}");
        NetlinkError::malformed(answer)
    };
    buffer.get(..length).ok_or_else(too_long)
}

fn interrupted() -> NetlinkError {
    NetlinkError::new(Errno::EINTR)
}

/// The answers to one datagram of requests, as they come in.
struct Answers {
    first: u32,
    /// Which requests are still to be answered.
    awaited: Vec<bool>,
    refused: Option<NetlinkError>,
    messages: Vec<Message>,
}

impl Answers {
    fn new(frames: &[Frame], first: u32) -> Self {
        let awaited = frames.iter().map(Frame::is_answered).collect();
        Self {
            first,
            awaited,
            refused: None,
            messages: Vec::new(),
        }
    }

    fn complete(&self) -> bool {
        !self.awaited.contains(&true)
    }

    fn take(&mut self, answer: super::frame::Answer<'_>) {
        let index = answer.sequence.wrapping_sub(self.first) as usize;
        // What answers an earlier datagram is late: a refused batch is answered twice.
        let Some(awaited) = self.awaited.get_mut(index) else {
            return;
        };
        if answer.interrupted {
            self.refused.get_or_insert(interrupted());
        }
        match answer.content {
            Content::Data(payload) => self.messages.push((answer.kind, payload.to_vec())),
            Content::Done => *awaited = false,
            Content::Refused(error) => {
                // A refusal of the first frame, where that asks for no answer, may be one of a whole batch of
                // nftables': nothing else may follow.
                let whole = !*awaited && index == 0;
                *awaited = false;
                self.refused.get_or_insert(error);
                if whole {
                    self.awaited.fill(false);
                }
            }
        }
    }
}
