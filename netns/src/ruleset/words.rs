//! The words that rules are written in: what they look at, as the expressions of nftables.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::{BRIDGES, SOURCES};
use crate::eni::HOST_LINK_PREFIX;
use crate::nftables::{Base, Comparison, Expression, MetaKey, Register, Verdict};

pub(super) const FIRST: Register = Register::FIRST;

pub(super) fn from_bridge() -> Vec<Expression> {
    name_in(MetaKey::InputName, false)
}

pub(super) fn to_bridge() -> Vec<Expression> {
    name_in(MetaKey::OutputName, false)
}

pub(super) fn not_to_bridge() -> Vec<Expression> {
    name_in(MetaKey::OutputName, true)
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

pub(super) fn from_loopback() -> Vec<Expression> {
    meta_is(MetaKey::InputName, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
}

pub(super) fn ipv4() -> Vec<Expression> {
    meta_is(MetaKey::NetworkProtocol, &[2])
}

pub(super) fn ipv6() -> Vec<Expression> {
    meta_is(MetaKey::NetworkProtocol, &[10])
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
    [
        ipv4(),
        vec![payload(Base::Network, 16, 4), equals(&address.octets())],
    ]
    .concat()
}

pub(super) fn to_one_of(set: &'static str) -> Vec<Expression> {
    vec![
        payload(Base::Network, 16, 4),
        Expression::InSet {
            set: set.into(),
            key: FIRST,
            inverted: false,
        },
    ]
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

pub(super) fn icmp(kind: u8) -> Vec<Expression> {
    let mut rule = meta_is(MetaKey::TransportProtocol, &[1]);
    rule.extend([payload(Base::Transport, 0, 1), equals(&[kind])]);
    rule
}

pub(super) fn established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    connection_state(ESTABLISHED_OR_RELATED)
}

pub(super) fn invalid() -> Vec<Expression> {
    const INVALID: u32 = 1;
    connection_state(INVALID)
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

/// The port, a MAC address and an IPv4 address of the frame are together in [`SOURCES`].
pub(super) fn own_source((base, offset): (Base, u32), address: u32) -> Vec<Expression> {
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
            length: 4,
            into: Register(6),
        },
        Expression::InSet {
            set: SOURCES.into(),
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
            address: FIRST,
            port: SECOND,
        },
    ]
}

/// What a map has for the IPv4 address at an offset of the header.
pub(super) fn verdict_of(map: &'static str, offset: u32) -> Vec<Expression> {
    let lookup = Expression::VerdictOf { map, key: FIRST };
    [ipv4(), vec![payload(Base::Network, offset, 4), lookup]].concat()
}

pub(super) fn go_to(chain: &'static str) -> Vec<Expression> {
    verdict(Verdict::Goto(chain.into()))
}

pub(super) fn verdict(verdict: Verdict) -> Vec<Expression> {
    vec![Expression::Verdict(verdict)]
}
