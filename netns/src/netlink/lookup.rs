//! The question which way a packet would take: the kernel's own answer, with its routing policy; and when to ask again.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::frame::Attributes;
use super::route::{Request, RouteSocket};
use super::{NetlinkError, Socket};

/// A packet whose way is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteQuestion {
    pub(crate) to: IpAddr,
    /// Where it comes from; nothing if the host itself is to choose.
    pub(crate) from: Option<IpAddr>,
    /// The link that it has come from; nothing if the host itself sends it.
    pub(crate) in_link: Option<u32>,
    pub(crate) mark: u32,
}

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteAnswer {
    /// Out by this link.
    Out {
        /// Its index.
        link: u32,
        /// The address that the host itself would send from.
        source: Option<IpAddr>,
    },
    /// To the host itself.
    Local,
    /// Nowhere: what the kernel says to it.
    None(Errno),
}

/// The socket's own troubles, which are none of the route's.
const OF_THE_SOCKET: [Errno; 5] = [
    Errno::ENOBUFS,
    Errno::ENOMEM,
    Errno::EPERM,
    Errno::EAGAIN,
    Errno::EBADMSG,
];

impl RouteSocket {
    /// Which way a packet would take.
    pub(crate) fn way(&mut self, question: &RouteQuestion) -> Result<RouteAnswer, NetlinkError> {
        let request = RouteNetlinkMessage::GetRoute(message(question));
        match self.ask(&Request::change(request, 0)) {
            Ok(payloads) => payloads
                .first()
                .and_then(|payload| read(payload))
                .ok_or_else(|| NetlinkError::malformed("the answer names no way")),
            Err(error) if OF_THE_SOCKET.contains(&error.errno) => Err(error),
            Err(error) => Ok(RouteAnswer::None(error.errno)),
        }
    }
}

/// Hears when something changes that the ways of IPv4 depend on, but for neighbours that come and go. Of routes that go with
/// their link or nexthop the kernel says nothing, only of these, and before it takes the routes away.
#[derive(Debug)]
pub(crate) struct WayWatch(Socket);

impl WayWatch {
    /// From now on, in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            // Whether links that have no carrier count.
            libc::RTNLGRP_IPV4_NETCONF,
            // Kernels without nexthops (before 5.3) don't mind.
            libc::RTNLGRP_NEXTHOP,
        ];
        let groups = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        Ok(Self(Socket::subscribe(SockProtocol::NetlinkRoute, groups)?))
    }

    /// Whether anything has changed, or may have, as far as has been told.
    pub(crate) fn has_heard(&mut self) -> Result<bool, NetlinkError> {
        self.0.has_heard(|_| true)
    }
}

impl AsFd for WayWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn message(question: &RouteQuestion) -> RouteMessage {
    let (family, length) = match question.to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    let to = RouteAttribute::Destination(route_address(question.to));
    message.attributes.push(to);
    if let Some(from) = question.from {
        message.header.source_prefix_length = length;
        let from = RouteAttribute::Source(route_address(from));
        message.attributes.push(from);
    }
    message
        .attributes
        .extend(question.in_link.map(RouteAttribute::Iif));
    if question.mark != 0 {
        message.attributes.push(RouteAttribute::Mark(question.mark));
    }
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn read(payload: &[u8]) -> Option<RouteAnswer> {
    const TYPE: usize = 7;
    match *payload.get(TYPE)? {
        libc::RTN_LOCAL => return Some(RouteAnswer::Local),
        libc::RTN_UNICAST => {}
        libc::RTN_PROHIBIT => return Some(RouteAnswer::None(Errno::EACCES)),
        libc::RTN_BLACKHOLE => return Some(RouteAnswer::None(Errno::EINVAL)),
        _ => return Some(RouteAnswer::None(Errno::ENETUNREACH)),
    }
    let attribute = |wanted: u16| {
        let mut all = Attributes(payload.get(12..)?);
        all.find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let link = u32::from_ne_bytes(attribute(libc::RTA_OIF)?.try_into().ok()?);
    let source = attribute(libc::RTA_PREFSRC).and_then(address);
    Some(RouteAnswer::Out { link, source })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(value).map(|octets| Ipv4Addr::from(octets).into());
    let ipv6 = <[u8; 16]>::try_from(value).map(|octets| Ipv6Addr::from(octets).into());
    ipv4.or(ipv6).ok()
}
