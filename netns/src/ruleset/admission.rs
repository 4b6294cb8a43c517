//! A security group's rule, as one of the firewall's.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use super::ADMITTED;
use super::words::{FIRST, equals, go_to, ipv4, meta_is, payload, verdict};
use crate::nftables::{Base, Expression, MetaKey, Name, Verdict};
use crate::policy::Direction;
use crate::security_group::{Peer, Protocol, Rule, SecurityGroupId};

/// The set of a security group's members, by their addresses.
pub(crate) fn members(group: &SecurityGroupId) -> Name {
    format!("members-{group}").into()
}

/// What lets a new connection pass; nothing for a rule of IPv6, which interfaces don't have yet.
pub(crate) fn admission(rule: &Rule, direction: Direction) -> Option<Vec<Expression>> {
    let peer = peer(rule.peer(), direction)?;
    let parts = [
        ipv4(),
        protocol(rule.protocol()),
        ports(rule.protocol(), &rule.ports()),
        peer,
        vec![Expression::Counter],
        match direction {
            Direction::Ingress => verdict(Verdict::Accept),
            Direction::Egress => go_to(ADMITTED),
        },
    ];
    Some(parts.concat())
}

/// The end of every policy.
pub(crate) fn nothing_more() -> Vec<Expression> {
    [vec![Expression::Counter], verdict(Verdict::Drop)].concat()
}

fn protocol(protocol: Protocol) -> Vec<Expression> {
    match protocol {
        Protocol::All => Vec::new(),
        Protocol::Number(number) => meta_is(MetaKey::TransportProtocol, &[number]),
    }
}

/// The port that is connected to, or of ICMP the type and the code.
fn ports(protocol: Protocol, ports: &RangeInclusive<u16>) -> Vec<Expression> {
    const DESTINATION_PORT: u32 = 2;
    let (first, last) = (ports.start().to_be_bytes(), ports.end().to_be_bytes());
    if *ports == (0..=u16::MAX) {
        return Vec::new();
    }
    if protocol.has_types() {
        let kind = [payload(Base::Transport, 0, 1), equals(&first[..1])];
        let code = [payload(Base::Transport, 1, 1), equals(&first[1..])];
        return match first == last {
            true => [kind, code].concat(),
            // Every code of the type.
            false => kind.to_vec(),
        };
    }
    let is_among = match first == last {
        true => equals(&first),
        false => Expression::Range {
            register: FIRST,
            from: first.to_vec(),
            to: last.to_vec(),
        },
    };
    vec![payload(Base::Transport, DESTINATION_PORT, 2), is_among]
}

fn peer(peer: &Peer, direction: Direction) -> Option<Vec<Expression>> {
    let offset = match direction {
        Direction::Ingress => super::SOURCE,
        Direction::Egress => super::DESTINATION,
    };
    let address = payload(Base::Network, offset, 4);
    match peer {
        Peer::Range(IpNet::V6(_)) => None,
        Peer::Range(IpNet::V4(net)) if net.prefix_len() == 0 => Some(Vec::new()),
        Peer::Range(IpNet::V4(net)) => Some([vec![address], within(net)].concat()),
        Peer::Group(group) => {
            let member = Expression::InSet {
                set: members(group),
                key: FIRST,
                inverted: false,
            };
            Some(vec![address, member])
        }
    }
}

fn within(net: &Ipv4Net) -> Vec<Expression> {
    let mask = Expression::Mask {
        register: FIRST,
        mask: net.netmask().octets().to_vec(),
    };
    let network = equals(&net.network().octets());
    match net.prefix_len() {
        32 => vec![network],
        _ => vec![mask, network],
    }
}
