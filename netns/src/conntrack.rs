//! What the kernel remembers of connections: forgotten, where it would outlive what it is about, and counted.
//!
//! What belongs to a known connection passes the firewall, and goes where its first packet went. Of an interface
//! that is gone neither must hold for the next one that has its address or its published ports.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::error::{Doing, Error, Result};
use crate::netlink::{Attributes, Frame, NetlinkError, Socket, flags};
use crate::nftables::{Writer, find};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const GET_STATISTICS: u16 = SUBSYSTEM | 5;

/// Attributes of a connection: how its packets are addressed, and those that answer them.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ADDRESSES: u16 = 1;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// What is before the attributes in each message.
const FAMILY_HEADER: usize = 4;

const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The socket of the connections' table.
#[derive(Debug)]
pub(crate) struct Conntrack(Socket);

impl Conntrack {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(SockProtocol::NetlinkNetFilter)?))
    }

    /// Forgets the connections that an address which is gone opened, or that it answers, whatever address it was
    /// known by. It takes the kernel some milliseconds to look through its table, however few there are.
    pub(crate) fn forget_addresses(
        &mut self,
        is_gone: impl Fn(IpAddr) -> bool,
    ) -> Result<(), NetlinkError> {
        let everything = list(of_family(0));
        for connection in self.ask(everything)? {
            let ends = [ORIGINAL, REPLY].map(|direction| source(&connection, direction));
            if ends.into_iter().flatten().any(&is_gone) {
                self.delete(&connection)?;
            }
        }
        Ok(())
    }

    /// Forgets the connections that were opened to an address, whoever it led to.
    pub(crate) fn forget_opened_to(&mut self, address: Ipv4Addr) -> Result<(), NetlinkError> {
        for connection in self.ask(list(of_family(IPV4)))? {
            if destination(&connection) == Some(address) {
                self.delete(&connection)?;
            }
        }
        Ok(())
    }

    /// Forgets the connections of UDP that were opened to a port.
    pub(crate) fn forget_udp_port(&mut self, port: u16) -> Result<(), NetlinkError> {
        for family in [IPV4, IPV6] {
            for connection in self.ask(list(of_udp_to(family, port)))? {
                self.delete(&connection)?;
            }
        }
        Ok(())
    }

    /// Fails when the kernel remembers as many connections as it may: the first packet of a new one is then dropped,
    /// whoever sends it, unless another of the same few is found that nobody has answered. So the count stays a little
    /// below the limit.
    ///
    /// A limit of 0 is none.
    pub(crate) fn check_room(&mut self) -> Result<()> {
        const COUNT: u16 = 1;
        const LIMIT: u16 = 2;
        let doing = || "ask how many connections the host tracks".into();
        let mut request = list(of_family(0));
        (request.kind, request.flags) = (GET_STATISTICS, flags::REQUEST | flags::ACK);
        let answers = self.ask(request).doing(doing)?;
        let answer = answers
            .first()
            .and_then(|answer| answer.get(FAMILY_HEADER..));
        let number = |kind| {
            let value = find(answer?, kind)?.try_into().ok()?;
            Some(u32::from_be_bytes(value))
        };
        match (number(COUNT), number(LIMIT)) {
            (Some(count), Some(limit)) if limit > 0 && count >= limit - limit / 256 => {
                Err(Error::ConnectionsExhausted { count, limit })
            }
            _ => Ok(()),
        }
    }

    /// A kernel that can't be asked (no `nf_conntrack_netlink`) has nothing to tell.
    fn ask(&mut self, request: Frame) -> Result<Vec<Vec<u8>>, NetlinkError> {
        match self.0.request(&[request]) {
            Err(error) if error.errno == Errno::EINVAL => Ok(Vec::new()),
            outcome => Ok(outcome?.into_iter().map(|(_, payload)| payload).collect()),
        }
    }

    fn delete(&mut self, connection: &[u8]) -> Result<(), NetlinkError> {
        let (Some(header), Some(attributes)) = (
            connection.get(..FAMILY_HEADER),
            connection.get(FAMILY_HEADER..),
        ) else {
            return Err(NetlinkError::malformed("a connection is cut short"));
        };
        let mut which = Writer::after(header);
        for (kind, value) in Attributes(attributes) {
            which = match kind {
                ORIGINAL => which.nested_bytes(ORIGINAL, value),
                ZONE => which.bytes(ZONE, value),
                _ => which,
            };
        }
        let request = Frame {
            kind: DELETE,
            flags: flags::REQUEST | flags::ACK,
            payload: which.finish(),
        };
        match self.0.request(&[request]) {
            // It has ended in between.
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

/// Where the packets of a direction come from.
fn source(connection: &[u8], direction: u16) -> Option<IpAddr> {
    let tuple = find(connection.get(FAMILY_HEADER..)?, direction)?;
    let addresses = find(tuple, ADDRESSES)?;
    let ipv4 = find(addresses, 1).and_then(|value| <[u8; 4]>::try_from(value).ok());
    let ipv6 = find(addresses, 3).and_then(|value| <[u8; 16]>::try_from(value).ok());
    ipv4.map(IpAddr::from).or(ipv6.map(IpAddr::from))
}

/// Which address of IPv4 a connection was opened to.
fn destination(connection: &[u8]) -> Option<Ipv4Addr> {
    let tuple = find(connection.get(FAMILY_HEADER..)?, ORIGINAL)?;
    let octets: [u8; 4] = find(find(tuple, ADDRESSES)?, 2)?.try_into().ok()?;
    Some(octets.into())
}

/// What lists only the connections of UDP to a port: the kernel compares what the flags say.
fn of_udp_to(family: u8, port: u16) -> Writer {
    const PROTOCOL: u16 = 2;
    const UDP: u8 = 17;
    const PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;
    let protocol = |list: Writer| list.bytes(1, &[UDP]).bytes(3, &port.to_be_bytes());
    // As the processor has them: these two are not big-endian.
    let filter = |list: Writer| {
        list.bytes(1, &PROTOCOL_AND_PORT.to_ne_bytes())
            .bytes(2, &0u32.to_ne_bytes())
    };
    of_family(family)
        .nested(ORIGINAL, |tuple| tuple.nested(PROTOCOL, protocol))
        .nested(FILTER, filter)
}

fn of_family(family: u8) -> Writer {
    Writer::after(&[family, 0, 0, 0])
}

fn list(which: Writer) -> Frame {
    Frame {
        kind: GET,
        flags: flags::REQUEST | flags::DUMP,
        payload: which.finish(),
    }
}
