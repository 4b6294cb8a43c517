//! The words that rules are written in: what they look at, as the expressions of nftables.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{BRIDGES, IpFamily, MARK};
use crate::eni::HOST_LINK_PREFIX;
use crate::nftables::{Base, Comparison, Expression, MetaKey, Register, Verdict};

pub(super) const FIRST: Register = Register::FIRST;

pub(super) fn from_bridge() -> Vec<Expression> {
    name_in(MetaKey::InputName, false)
}

pub(super) fn to_bridge() -> Vec<Expression> {
    name_in(MetaKey::OutputName, false)
}

/// To a link of the host's, and of no task.
pub(super) fn not_to_task() -> Vec<Expression> {
    let mut rule = name_in(MetaKey::OutputName, true);
    rule.extend([
        Expression::Meta {
            key: MetaKey::OutputName,
            into: FIRST,
        },
        Expression::Compare {
            register: FIRST,
            comparison: Comparison::NotEqual,
            value: HOST_LINK_PREFIX.as_bytes().to_vec(),
        },
    ]);
    rule
}

/// Whether the name of the link is that of a bridge of ours.
fn name_in(key: MetaKey, inverted: bool) -> Vec<Expression> {
    vec![
        Expression::Meta { key, into: FIRST },
        Expression::InSet {
            set: BRIDGES.into(),
            key: FIRST,
            inverted,
        },
    ]
}

/// From a link whose name begins as those of tasks do.
pub(super) fn from_port() -> Vec<Expression> {
    meta_is(MetaKey::InputName, HOST_LINK_PREFIX.as_bytes())
}

pub(super) fn to_port() -> Vec<Expression> {
    meta_is(MetaKey::OutputName, HOST_LINK_PREFIX.as_bytes())
}

pub(super) fn from_loopback() -> Vec<Expression> {
    meta_is(MetaKey::InputName, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
}

/// Packets of a family.
pub(super) fn of(family: IpFamily) -> Vec<Expression> {
    let number = match family {
        IpFamily::Ipv4 => 2,
        IpFamily::Ipv6 => 10,
    };
    meta_is(MetaKey::NetworkProtocol, &[number])
}

pub(super) fn meta_is(key: MetaKey, value: &[u8]) -> Vec<Expression> {
    vec![Expression::Meta { key, into: FIRST }, equals(value)]
}

pub(super) fn equals(value: &[u8]) -> Expression {
    Expression::Compare {
        register: FIRST,
        comparison: Comparison::Equal,
        value: value.to_vec(),
    }
}

pub(super) fn payload(base: Base, offset: u32, length: u32) -> Expression {
    Expression::Payload {
        base,
        offset,
        length,
        into: FIRST,
    }
}

pub(super) fn ethertype(kind: u16) -> Vec<Expression> {
    vec![payload(Base::Link, 12, 2), equals(&kind.to_be_bytes())]
}

pub(super) fn ipv4_to(address: Ipv4Addr) -> Vec<Expression> {
    let is_it = vec![IpFamily::Ipv4.destination(), equals(&address.octets())];
    [of(IpFamily::Ipv4), is_it].concat()
}

pub(super) fn ipv6_to(address: Ipv6Addr) -> Vec<Expression> {
    let is_it = vec![IpFamily::Ipv6.destination(), equals(&address.octets())];
    [of(IpFamily::Ipv6), is_it].concat()
}

/// To an address that is in the family's set of that name.
pub(super) fn to_one_of(set: &str, family: IpFamily) -> Vec<Expression> {
    any_in(family.destination(), set, family, false)
}

/// To an address that isn't.
pub(super) fn to_none_of(set: &str, family: IpFamily) -> Vec<Expression> {
    any_in(family.destination(), set, family, true)
}

/// From an address that is in the family's set of that name.
pub(super) fn from_one_of(set: &str, family: IpFamily) -> Vec<Expression> {
    any_in(family.source(), set, family, false)
}

fn any_in(address: Expression, set: &str, family: IpFamily, inverted: bool) -> Vec<Expression> {
    let lookup = Expression::InSet {
        set: family.set(set),
        key: FIRST,
        inverted,
    };
    [of(family), vec![address, lookup]].concat()
}

/// To an address of the host's own.
pub(super) fn to_the_host() -> Vec<Expression> {
    const LOCAL: u32 = 2;
    vec![
        Expression::KindOfDestination { into: FIRST },
        equals(&LOCAL.to_ne_bytes()),
    ]
}

/// To another address than those that only the host itself can send to.
pub(super) fn not_to_loopback(family: IpFamily) -> Vec<Expression> {
    let (mask, loopback) = match family {
        IpFamily::Ipv4 => (vec![255, 0, 0, 0], vec![127, 0, 0, 0]),
        IpFamily::Ipv6 => (vec![255; 16], Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    let range = Expression::Mask {
        register: FIRST,
        mask,
    };
    let differs = Expression::Compare {
        register: FIRST,
        comparison: Comparison::NotEqual,
        value: loopback,
    };
    vec![family.destination(), range, differs]
}

/// From an address to itself, which is in the family's set of such pairs.
pub(super) fn to_itself(set: &str, family: IpFamily) -> Vec<Expression> {
    let load = |offset, into| Expression::Payload {
        base: Base::Network,
        offset,
        length: family.length(),
        into,
    };
    let second = Register(family.length() / 4);
    let source = family.source_offset();
    let pair = vec![
        load(source, FIRST),
        load(source + family.length(), second),
        Expression::InSet {
            set: family.set(set),
            key: FIRST,
            inverted: false,
        },
    ];
    [of(family), pair].concat()
}

/// Sends the packet where the family's map has it for protocol and port.
pub(super) fn translated(map: &str, family: IpFamily) -> Vec<Expression> {
    let mut rule = protocol_and(Expression::Payload {
        base: Base::Transport,
        offset: 2,
        length: 2,
        into: Register(1),
    });
    rule.extend([
        target_of(map, family),
        Expression::DestinationNat {
            is_ipv6: family == IpFamily::Ipv6,
            address: TARGET,
            port: Some(Register(TARGET.0 + family.length() / 4)),
        },
    ]);
    rule
}

/// Sends a packet of IPv4 on to the address that a map has for its destination.
pub(super) fn sent_on(map: &'static str) -> Vec<Expression> {
    let to = Expression::DestinationNat {
        is_ipv6: false,
        address: FIRST,
        port: None,
    };
    mapped(map, IpFamily::Ipv4.destination(), to)
}

/// Has a packet of IPv4 come from the address that a map has for its source.
pub(super) fn sent_as(map: &'static str) -> Vec<Expression> {
    let from = Expression::SourceNat { address: FIRST };
    mapped(map, IpFamily::Ipv4.source(), from)
}

fn mapped(map: &'static str, key: Expression, then: Expression) -> Vec<Expression> {
    let lookup = Expression::ValueOf {
        map: map.into(),
        key: FIRST,
        into: FIRST,
    };
    [of(IpFamily::Ipv4), vec![key, lookup, then]].concat()
}

/// Of a connection that was opened to an address of such a map, and sent on.
pub(super) fn was_sent_on(map: &'static str) -> Vec<Expression> {
    let lookup = Expression::ValueOf {
        map: map.into(),
        key: FIRST,
        into: FIRST,
    };
    let address = Expression::OriginalAddress { into: FIRST };
    [
        of(IpFamily::Ipv4),
        translated_destination(),
        vec![address, lookup],
    ]
    .concat()
}

/// Of a connection that was translated, by a map of that name: its protocol, and the port that it was opened to,
/// are there still.
pub(super) fn was_translated(map: &str, family: IpFamily) -> Vec<Expression> {
    let mut lookup = protocol_and(Expression::OriginalPort { into: Register(1) });
    lookup.push(target_of(map, family));
    [of(family), translated_destination(), lookup].concat()
}

fn translated_destination() -> Vec<Expression> {
    const DESTINATION_IS_TRANSLATED: u32 = 32;
    vec![
        Expression::ConnectionStatus { into: FIRST },
        Expression::Mask {
            register: FIRST,
            mask: DESTINATION_IS_TRANSLATED.to_ne_bytes().to_vec(),
        },
        Expression::NotZero { register: FIRST },
    ]
}

/// Where a map's value is put, behind the longest key.
const TARGET: Register = Register(4);

fn protocol_and(port: Expression) -> Vec<Expression> {
    let protocol = Expression::Meta {
        key: MetaKey::TransportProtocol,
        into: FIRST,
    };
    vec![protocol, port]
}

fn target_of(map: &str, family: IpFamily) -> Expression {
    Expression::ValueOf {
        map: family.set(map),
        key: FIRST,
        into: TARGET,
    }
}

pub(super) fn tcp_to(port: u16) -> Vec<Expression> {
    transport_to(6, port)
}

pub(super) fn udp_to(port: u16) -> Vec<Expression> {
    transport_to(17, port)
}

fn transport_to(protocol: u8, port: u16) -> Vec<Expression> {
    let mut rule = meta_is(MetaKey::TransportProtocol, &[protocol]);
    rule.extend([payload(Base::Transport, 2, 2), equals(&port.to_be_bytes())]);
    rule
}

/// ICMP, or for IPv6 ICMPv6, of a type.
pub(super) fn icmp(family: IpFamily, kind: u8) -> Vec<Expression> {
    let number = match family {
        IpFamily::Ipv4 => 1,
        IpFamily::Ipv6 => 58,
    };
    let mut rule = [of(family), meta_is(MetaKey::TransportProtocol, &[number])].concat();
    rule.extend([payload(Base::Transport, 0, 1), equals(&[kind])]);
    rule
}

pub(super) fn established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    connection_state(ESTABLISHED_OR_RELATED)
}

/// Of no connection: what can't be, and what is left out of account, as the discovery of neighbours is.
pub(super) fn invalid() -> Vec<Expression> {
    const INVALID_OR_UNTRACKED: u32 = 1 | 64;
    connection_state(INVALID_OR_UNTRACKED)
}

fn connection_state(bits: u32) -> Vec<Expression> {
    vec![
        Expression::ConnectionState { into: FIRST },
        Expression::Mask {
            register: FIRST,
            mask: bits.to_ne_bytes().to_vec(),
        },
        Expression::NotZero { register: FIRST },
    ]
}

/// The port, a MAC address and an IP address of the frame, at offsets, are together in the family's set.
pub(super) fn own_source(
    set: &str,
    family: IpFamily,
    (base, offset): (Base, u32),
    address: u32,
) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::InputName,
            into: FIRST,
        },
        Expression::Payload {
            base,
            offset,
            length: 6,
            into: Register(4),
        },
        Expression::Payload {
            base: Base::Network,
            offset: address,
            length: family.length(),
            into: Register(6),
        },
        Expression::InSet {
            set: family.set(set),
            key: FIRST,
            inverted: false,
        },
    ]
}

pub(super) fn redirect(address: Ipv4Addr, port: u16) -> Vec<Expression> {
    const SECOND: Register = Register(4);
    vec![
        Expression::Immediate {
            into: FIRST,
            value: address.octets().to_vec(),
        },
        Expression::Immediate {
            into: SECOND,
            value: port.to_be_bytes().to_vec(),
        },
        Expression::DestinationNat {
            is_ipv6: false,
            address: FIRST,
            port: Some(SECOND),
        },
    ]
}

/// Sets our bit of the packet's mark.
pub(super) fn mark() -> Vec<Expression> {
    let key = MetaKey::Mark;
    vec![
        Expression::Meta { key, into: FIRST },
        Expression::SetBits {
            register: FIRST,
            bits: MARK.to_ne_bytes().to_vec(),
        },
        Expression::SetMeta { key, from: FIRST },
    ]
}

pub(super) fn go_to(chain: &'static str) -> Vec<Expression> {
    verdict(Verdict::Goto(chain.into()))
}

pub(super) fn verdict(verdict: Verdict) -> Vec<Expression> {
    vec![Expression::Verdict(verdict)]
}
