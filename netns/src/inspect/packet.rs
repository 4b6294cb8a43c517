//! The first packet of a connection, as far as it is known before it is sent.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::eni::MacAddress;
use crate::error::InvalidName;
use crate::ruleset::{IpFamily, octets};

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// A connection to a port.
    Tcp(u16),
    /// A datagram to a port.
    Udp(u16),
    /// An echo request.
    Ping,
}

impl Traffic {
    /// The port that it is to, if it has one.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Tcp(port) | Self::Udp(port) => Some(port),
            Self::Ping => None,
        }
    }

    /// The same to another port.
    pub(crate) fn to_port(self, port: u16) -> Self {
        match self {
            Self::Tcp(_) => Self::Tcp(port),
            Self::Udp(_) => Self::Udp(port),
            Self::Ping => Self::Ping,
        }
    }

    pub(crate) fn protocol(self, family: IpFamily) -> u8 {
        match (self, family) {
            (Self::Tcp(_), _) => 6,
            (Self::Udp(_), _) => 17,
            (Self::Ping, IpFamily::Ipv4) => 1,
            (Self::Ping, IpFamily::Ipv6) => 58,
        }
    }
}

impl FromStr for Traffic {
    type Err = InvalidName;

    /// A port, alone or with `/tcp` or `/udp`; or `ping`.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = port.parse().ok().filter(|port| *port != 0);
        match (port, protocol) {
            (Some(port), "tcp") => Ok(Self::Tcp(port)),
            (Some(port), "udp") => Ok(Self::Udp(port)),
            _ if text == "ping" => Ok(Self::Ping),
            _ => Err(InvalidName {
                what: "port",
                text: text.to_owned(),
                expected: "1 to 65535, with or without /tcp or /udp, such as 53/udp; or ping"
                    .into(),
            }),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(out, "{port}/tcp"),
            Self::Udp(port) => write!(out, "{port}/udp"),
            Self::Ping => out.write_str("ping"),
        }
    }
}

impl Serialize for Traffic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A link, by name and index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) name: String,
    pub(crate) index: u32,
}

/// A packet on its way through the host.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) in_link: Option<Via>,
    pub(crate) out_link: Option<Via>,
    pub(crate) from_mac: Option<MacAddress>,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) traffic: Traffic,
    /// The port that it was sent to, before any translation.
    pub(crate) original_port: u16,
    /// The address that it was sent to, before any translation.
    pub(crate) original_to: IpAddr,
    pub(crate) is_translated: bool,
    /// By a rule of somebody else's that isn't understood.
    pub(crate) may_be_translated: bool,
    pub(crate) is_masqueraded: bool,
    /// The address that it is to come from outside.
    pub(crate) shown_as: Option<IpAddr>,
    pub(crate) is_to_host: bool,
    /// It is the first answer.
    pub(crate) is_answer: bool,
    pub(crate) mark: u32,
}

/// Bytes of a header, of which some are not known.
pub(crate) type Bytes = Vec<Option<u8>>;

impl Packet {
    pub(crate) fn new(from: IpAddr, to: IpAddr, traffic: Traffic) -> Self {
        Self {
            in_link: None,
            out_link: None,
            from_mac: None,
            from,
            to,
            traffic,
            original_port: traffic.port().unwrap_or_default(),
            original_to: to,
            is_translated: false,
            may_be_translated: false,
            is_masqueraded: false,
            shown_as: None,
            is_to_host: false,
            is_answer: false,
            mark: 0,
        }
    }

    /// The first answer to it, on its way back.
    pub(crate) fn answer(&self) -> Self {
        Self {
            in_link: self.out_link.clone(),
            out_link: self.in_link.clone(),
            from_mac: None,
            from: self.to,
            to: self.from,
            is_answer: true,
            ..self.clone()
        }
    }

    pub(crate) fn family(&self) -> IpFamily {
        IpFamily::of(self.to)
    }

    /// The number of its protocol.
    pub(crate) fn protocol(&self) -> u8 {
        self.traffic.protocol(self.family())
    }

    /// The number of its family on Ethernet.
    pub(crate) fn ethertype(&self) -> [u8; 2] {
        match self.family() {
            IpFamily::Ipv4 => [0x08, 0x00],
            IpFamily::Ipv6 => [0x86, 0xdd],
        }
    }

    /// The header of its frame, as it comes from a task.
    pub(crate) fn link_header(&self) -> Bytes {
        let mac = match self.from_mac {
            Some(mac) => mac.0.map(Some),
            None => [None; 6],
        };
        [&[None; 6][..], &mac, &self.ethertype().map(Some)].concat()
    }

    /// The header of IP.
    pub(crate) fn network_header(&self) -> Bytes {
        let known = |address| octets(address).into_iter().map(Some);
        let addresses: Bytes = known(self.from).chain(known(self.to)).collect();
        let mut header = match self.family() {
            IpFamily::Ipv4 => vec![None; 12],
            IpFamily::Ipv6 => vec![None; 8],
        };
        let protocol = match self.family() {
            IpFamily::Ipv4 => 9,
            IpFamily::Ipv6 => 6,
        };
        if let Some(byte) = header.get_mut(protocol) {
            *byte = Some(self.protocol());
        }
        header.extend(addresses);
        header
    }

    /// The header of its protocol. A connection begins with a segment that has the flag SYN alone, and the answer has
    /// ACK, too. Of ports, that of the sender is not known.
    pub(crate) fn transport_header(&self) -> Bytes {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let ports = |port: u16| {
            let port = port.to_be_bytes().map(Some);
            match self.is_answer {
                true => [&port[..], &[None; 2]].concat(),
                false => [&[None; 2][..], &port].concat(),
            }
        };
        match (self.traffic, self.family(), self.is_answer) {
            (Traffic::Tcp(port), _, is_answer) => {
                let flags = if is_answer { SYN | ACK } else { SYN };
                [&ports(port)[..], &[None; 9], &[Some(flags)]].concat()
            }
            (Traffic::Udp(port), ..) => ports(port),
            (Traffic::Ping, IpFamily::Ipv4, false) => vec![Some(8), Some(0)],
            (Traffic::Ping, IpFamily::Ipv4, true) => vec![Some(0), Some(0)],
            (Traffic::Ping, IpFamily::Ipv6, false) => vec![Some(128), Some(0)],
            (Traffic::Ping, IpFamily::Ipv6, true) => vec![Some(129), Some(0)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_read_as_people_write_it() {
        assert_eq!("80".parse(), Ok(Traffic::Tcp(80)));
        assert_eq!("53/udp".parse(), Ok(Traffic::Udp(53)));
        assert_eq!("ping".parse(), Ok(Traffic::Ping));
        for wrong in ["", "0", "65536", "80/sctp", "http", "/tcp", "pings"] {
            assert!(wrong.parse::<Traffic>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_and_ports_are_where_the_headers_have_them() {
        let to = "10.231.0.5".parse().expect("an address");
        let from = "10.231.0.4".parse().expect("an address");
        let packet = Packet::new(from, to, Traffic::Tcp(258));
        assert_eq!(packet.network_header()[16..20], [10, 231, 0, 5].map(Some));
        assert_eq!(packet.network_header()[9], Some(6));
        assert_eq!(packet.transport_header()[2..4], [Some(1), Some(2)]);
        assert_eq!(packet.transport_header()[13], Some(2));
        assert_eq!(packet.answer().transport_header()[..2], [Some(1), Some(2)]);
        let six = "fd00::5".parse().expect("an address");
        let packet = Packet::new(six, six, Traffic::Ping);
        assert_eq!(packet.network_header().len(), 40);
        assert_eq!(packet.network_header()[39], Some(5));
    }
}
