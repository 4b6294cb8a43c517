//! A rule of a security group: which packets it lets pass.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::SecurityGroupId;
use crate::error::InvalidName;

/// Which protocols a rule is for, as EC2 has it: a name, `-1` for all of them, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Every protocol, whatever its ports.
    All,
    /// One, by the number that IANA has given it.
    Number(u8),
}

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self::Number(6);
    /// UDP.
    pub const UDP: Self = Self::Number(17);
    /// ICMP, of IPv4.
    pub const ICMP: Self = Self::Number(1);
    /// ICMPv6.
    pub const ICMPV6: Self = Self::Number(58);

    /// Whether it has types and codes instead of ports.
    pub(crate) fn has_types(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }

    fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP)
    }
}

impl FromStr for Protocol {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let known = match text {
            "-1" | "all" => Some(Self::All),
            "tcp" => Some(Self::TCP),
            "udp" => Some(Self::UDP),
            "icmp" => Some(Self::ICMP),
            "icmpv6" => Some(Self::ICMPV6),
            number => number.parse().ok().map(Self::Number),
        };
        known.ok_or_else(|| InvalidName {
            what: "protocol",
            text: text.to_owned(),
            expected: "tcp, udp, icmp, icmpv6, a number from 0 to 255, or -1 for all".into(),
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::All => out.write_str("all"),
            Self::TCP => out.write_str("tcp"),
            Self::UDP => out.write_str("udp"),
            Self::ICMP => out.write_str("icmp"),
            Self::ICMPV6 => out.write_str("icmpv6"),
            Self::Number(number) => write!(out, "protocol {number}"),
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Every address of a range.
    Range(IpNet),
    /// The interfaces that are in a security group.
    Group(SecurityGroupId),
}

/// What a rule lets pass. A security group has nothing but such rules: what none of them lets pass is
/// dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    protocol: Protocol,
    /// For ICMP, the type's 256 codes from `type * 256` on.
    ports: RangeInclusive<u16>,
    peer: Peer,
}

impl Rule {
    /// Every protocol and port of a peer.
    pub fn everything(peer: Peer) -> Self {
        Self {
            protocol: Protocol::All,
            ports: 0..=u16::MAX,
            peer,
        }
    }

    /// A rule as EC2 writes it: for TCP and UDP a range of ports; for ICMP a type and a code, of which -1
    /// means any; for other protocols neither, or -1.
    pub fn new(
        protocol: Protocol,
        from_port: Option<i64>,
        to_port: Option<i64>,
        peer: Peer,
    ) -> Result<Self, InvalidName> {
        let ports = match (protocol, from_port, to_port) {
            (Protocol::All, ..) | (_, None, None) => Some(0..=u16::MAX),
            (protocol, Some(from), Some(to)) if protocol.has_ports() => ports(from, to),
            (protocol, Some(kind), Some(code)) if protocol.has_types() => types(kind, code),
            (_, Some(-1), Some(-1)) => Some(0..=u16::MAX),
            _ => None,
        };
        let wrong = || InvalidName {
            what: "range of ports",
            text: format!(
                "fromPort {} and toPort {} of {protocol}",
                shown(from_port),
                shown(to_port)
            ),
            expected: match protocol.has_types() {
                true => "a type and a code from 0 to 255, or -1 for any".into(),
                false if protocol.has_ports() => {
                    "two ports from 0 to 65535, the smaller first".into()
                }
                false => "neither".into(),
            },
        };
        let ports = ports.ok_or_else(wrong)?;
        Ok(Self {
            protocol,
            ports,
            peer,
        })
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The ports at the end that is connected to; of ICMP, type and code, as two bytes.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

fn shown(port: Option<i64>) -> String {
    port.map_or_else(|| "absent".to_owned(), |port| port.to_string())
}

fn ports(from: i64, to: i64) -> Option<RangeInclusive<u16>> {
    let (from, to) = (u16::try_from(from).ok()?, u16::try_from(to).ok()?);
    (from <= to).then_some(from..=to)
}

fn types(kind: i64, code: i64) -> Option<RangeInclusive<u16>> {
    let any = -1;
    match (kind, code) {
        (kind, code) if kind == any && code == any => Some(0..=u16::MAX),
        (kind, code) => {
            let first = u16::from(u8::try_from(kind).ok()?) << 8;
            match code {
                code if code == any => Some(first..=first | 0xff),
                code => {
                    let both = first | u16::from(u8::try_from(code).ok()?);
                    Some(both..=both)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anywhere() -> Peer {
        Peer::Range("0.0.0.0/0".parse().expect("a range"))
    }

    fn of(
        protocol: &str,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<RangeInclusive<u16>, String> {
        let protocol = protocol
            .parse()
            .map_err(|error: InvalidName| error.to_string())?;
        let rule = Rule::new(protocol, from, to, anywhere());
        rule.map(|rule| rule.ports())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn ports_types_and_their_absence_are_read_as_ec2_writes_them() {
        assert_eq!(of("tcp", Some(80), Some(443)), Ok(80..=443));
        assert_eq!(of("udp", None, None), Ok(0..=65535));
        assert_eq!(of("-1", Some(-1), Some(-1)), Ok(0..=65535));
        assert_eq!(of("icmp", Some(8), Some(-1)), Ok(0x0800..=0x08ff));
        assert_eq!(of("icmp", Some(3), Some(4)), Ok(0x0304..=0x0304));
        assert_eq!(of("icmpv6", Some(-1), Some(-1)), Ok(0..=65535));
        assert_eq!(of("50", None, None), Ok(0..=65535));
    }

    #[test]
    fn what_is_no_range_is_refused_with_what_would_be_right() {
        let wrong = [
            ("tcp", Some(443), Some(80), "the smaller first"),
            ("tcp", Some(80), None, "two ports"),
            ("udp", Some(0), Some(65536), "two ports"),
            ("icmp", Some(-1), Some(0), "a type and a code"),
            ("icmp", Some(256), Some(0), "a type and a code"),
            ("47", Some(1), Some(2), "neither"),
        ];
        for (protocol, from, to, right) in wrong {
            let error = of(protocol, from, to).expect_err("refused");
            assert!(error.contains(right), "{protocol} {from:?} {to:?}: {error}");
        }
        assert!("tpc".parse::<Protocol>().is_err());
        assert!("256".parse::<Protocol>().is_err());
    }
}
