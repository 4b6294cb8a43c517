//! What the kernel remembers of connections: forgotten, where it would outlive what it is about.
//!
//! What belongs to a known connection passes the firewall, and goes where its first packet went. Of an interface
//! that is gone neither must hold for the next one that has its address or its published ports.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Attributes, Frame, NetlinkError, Socket, flags};
use crate::nftables::Writer;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

/// Attributes of a connection: how its packets are addressed, and those that answer them.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// What is before the attributes in each message.
const FAMILY_HEADER: usize = 4;

const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Which connections are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selector {
    /// Those that an address opened.
    From(IpAddr),
    /// Those that an address answers, whatever address it was known by.
    AnsweredBy(IpAddr),
    /// Those of UDP that were opened to a port, in both families.
    ToUdpPort(u16),
}

/// The socket of the connections' table.
#[derive(Debug)]
pub(crate) struct Conntrack(Socket);

impl Conntrack {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(SockProtocol::NetlinkNetFilter)?))
    }

    /// Forgets connections. A kernel that can't be asked for them (no `nf_conntrack_netlink`) keeps them.
    pub(crate) fn forget(&mut self, selector: Selector) -> Result<(), NetlinkError> {
        for list in selector.requests() {
            let connections = match self.0.request(&[list]) {
                Err(error) if error.errno == Errno::EINVAL => return Ok(()),
                outcome => outcome?,
            };
            for (_, payload) in connections {
                self.delete(&payload)?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, connection: &[u8]) -> Result<(), NetlinkError> {
        let (Some(header), Some(attributes)) = (
            connection.get(..FAMILY_HEADER),
            connection.get(FAMILY_HEADER..),
        ) else {
            return Err(NetlinkError::malformed("a connection is cut short"));
        };
        let mut which = Writer::default();
        for (kind, value) in Attributes(attributes) {
            which = match kind {
                ORIGINAL => which.nested_bytes(ORIGINAL, value),
                ZONE => which.bytes(ZONE, value),
                _ => which,
            };
        }
        let mut payload = header.to_vec();
        payload.extend(which.finish());
        let request = Frame {
            kind: DELETE,
            flags: flags::REQUEST | flags::ACK,
            payload,
        };
        match self.0.request(&[request]) {
            // It has ended in between.
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

impl Selector {
    /// Lists of what is meant: the kernel compares what the flags say.
    fn requests(self) -> Vec<Frame> {
        const SOURCE: u32 = 1;
        const PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;
        match self {
            Self::From(address) => vec![list(family(address), ORIGINAL, source(address), SOURCE)],
            Self::AnsweredBy(address) => {
                vec![list(family(address), REPLY, source(address), SOURCE)]
            }
            Self::ToUdpPort(port) => [IPV4, IPV6]
                .map(|family| list(family, ORIGINAL, udp_to(port), PROTOCOL_AND_PORT))
                .into(),
        }
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    }
}

/// A tuple with this source.
fn source(address: IpAddr) -> Writer {
    const ADDRESSES: u16 = 1;
    let inner = match address {
        IpAddr::V4(address) => Writer::default().bytes(1, &address.octets()),
        IpAddr::V6(address) => Writer::default().bytes(3, &address.octets()),
    };
    Writer::default().nested(ADDRESSES, inner)
}

/// A tuple of UDP with this destination port.
fn udp_to(port: u16) -> Writer {
    const PROTOCOL: u16 = 2;
    const UDP: u8 = 17;
    let inner = Writer::default()
        .bytes(1, &[UDP])
        .bytes(3, &port.to_be_bytes());
    Writer::default().nested(PROTOCOL, inner)
}

fn list(family: u8, direction: u16, tuple: Writer, compared: u32) -> Frame {
    let own = |wanted| if direction == wanted { compared } else { 0 };
    // As the processor has them: these two are not big-endian.
    let filter = Writer::default()
        .bytes(1, &own(ORIGINAL).to_ne_bytes())
        .bytes(2, &own(REPLY).to_ne_bytes());
    let attributes = Writer::default()
        .nested(direction, tuple)
        .nested(FILTER, filter);
    let mut payload = vec![family, 0, 0, 0];
    payload.extend(attributes.finish());
    Frame {
        kind: GET,
        flags: flags::REQUEST | flags::DUMP,
        payload,
    }
}
