//! The routing family of netlink: a socket whose requests are about links, addresses, neighbours
//! and routes. What can be asked is in the modules beside this one.
//!
//! Requests are netlink-packet-route's types. Answers are read by hand, each for the few attributes
//! that matter here: that crate parses every attribute of every link, and a single one that it does
//! not know how to read, on a link of somebody else's, would fail the whole list.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NetlinkSerializable;
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::SockProtocol;

use super::frame::{Frame, flags};
use super::{NetlinkError, Socket};

/// A request of the routing family.
#[derive(Debug)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Changes something that exists, or makes it, as `flags` say.
    pub(super) fn change(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self {
            message,
            flags: flags::REQUEST | flags::ACK | flags,
        }
    }

    pub(super) fn list(message: RouteNetlinkMessage) -> Self {
        Self {
            message,
            flags: flags::REQUEST | flags::DUMP,
        }
    }

    pub(super) fn frame(&self) -> Frame {
        // Zeroed each time: the encoder leaves padding unwritten, and the kernel checks some of it.
        let mut payload = vec![0; NetlinkSerializable::buffer_len(&self.message)];
        self.message.serialize(&mut payload);
        Frame {
            kind: self.message.message_type(),
            flags: self.flags,
            payload,
        }
    }
}

/// A socket of the routing family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    /// Opens the socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(SockProtocol::NetlinkRoute)?,
        })
    }

    /// Makes one of a netlink socket of this family that has just been opened, in whatever namespace.
    pub(crate) fn take(fd: OwnedFd) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::take(fd)?,
        })
    }

    /// Carries out requests in order, in one system call. Not a transaction: what comes before a
    /// refusal stays.
    pub fn send(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        let mut frames: Vec<Frame> = requests.iter().map(Request::frame).collect();
        // A refusal is told in any case; that all went well, by the last.
        if let Some((_, before)) = frames.split_last_mut() {
            before.iter_mut().for_each(Frame::answer_refusals_only);
        }
        self.socket.request(&frames).map(drop)
    }

    /// Asks, and returns what follows the header of each answer.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let messages = self.socket.request(&[request.frame()])?;
        Ok(messages.into_iter().map(|(_, payload)| payload).collect())
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
