//! The question which way a packet would take: the kernel's own answer, with its routing policy.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::NetlinkError;
use super::frame::Attributes;
use super::route::{Request, RouteSocket};

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

impl RouteSocket {
    /// Which way a packet would take.
    pub(crate) fn way(&mut self, question: &RouteQuestion) -> Result<RouteAnswer, NetlinkError> {
        let request = RouteNetlinkMessage::GetRoute(message(question));
        match self.ask(&Request::change(request, 0)) {
            Ok(payloads) => payloads
                .first()
                .and_then(|payload| read(payload))
                .ok_or_else(|| NetlinkError::malformed("the answer names no way")),
            // The socket's own troubles are none of the route's.
            Err(error) if [Errno::ENOBUFS, Errno::ENOMEM, Errno::EPERM].contains(&error.errno) => {
                Err(error)
            }
            Err(error) => Ok(RouteAnswer::None(error.errno)),
        }
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
