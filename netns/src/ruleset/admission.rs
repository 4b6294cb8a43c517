//! A security group's rule, as one of the firewall's.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::words::{FIRST, equals, go_to, meta_is, of, payload, verdict};
use super::{ADMITTED, IpFamily};
use crate::nftables::{Base, Expression, MetaKey, Name, Verdict};
use crate::policy::Direction;
use crate::security_group::{Peer, Protocol, Rule, SecurityGroupId};

/// The set of a security group's members, by their addresses of a family.
pub(crate) fn members(group: &SecurityGroupId, family: IpFamily) -> Name {
    match family {
        IpFamily::Ipv4 => format!("members-{group}").into(),
        IpFamily::Ipv6 => format!("members6-{group}").into(),
    }
}

/// What lets a new connection pass: a rule for each family that the other end can be of.
pub(crate) fn admission(rule: &Rule, direction: Direction) -> Vec<Vec<Expression>> {
    let families = IpFamily::BOTH.into_iter();
    let peers = families.filter_map(|family| Some((family, peer(rule.peer(), direction, family)?)));
    let rules = peers.filter(|(family, _)| is_of(rule.protocol(), *family));
    let decision = match direction {
        Direction::Ingress => verdict(Verdict::Accept),
        Direction::Egress => go_to(ADMITTED),
    };
    let rules = rules.map(|(family, peer)| {
        let parts = [
            of(family),
            protocol(rule.protocol()),
            ports(rule.protocol(), &rule.ports()),
            peer,
            vec![Expression::Counter],
            decision.clone(),
        ];
        parts.concat()
    });
    rules.collect()
}

/// Each family has an ICMP of its own.
fn is_of(protocol: Protocol, family: IpFamily) -> bool {
    match protocol {
        Protocol::ICMP => family == IpFamily::Ipv4,
        Protocol::ICMPV6 => family == IpFamily::Ipv6,
        _ => true,
    }
}

/// What leads to a chain of a policy: from the addresses of its interfaces, or to them.
pub(crate) fn dispatch(
    direction: Direction,
    addresses: Name,
    family: IpFamily,
    chain: Name,
) -> Vec<Expression> {
    let address = match direction {
        Direction::Ingress => family.destination(),
        Direction::Egress => family.source(),
    };
    let lookup = Expression::InSet {
        set: addresses,
        key: FIRST,
        inverted: false,
    };
    let go = verdict(Verdict::Goto(chain));
    [of(family), vec![address, lookup], go].concat()
}

/// The end of every policy, and of those that lead to them.
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

/// Which addresses the other end has; nothing if none of that family.
fn peer(peer: &Peer, direction: Direction, family: IpFamily) -> Option<Vec<Expression>> {
    let address = match direction {
        Direction::Ingress => family.source(),
        Direction::Egress => family.destination(),
    };
    match peer {
        Peer::Range(net) if IpFamily::of(net.addr()) != family => None,
        Peer::Range(net) if net.prefix_len() == 0 => Some(Vec::new()),
        Peer::Range(net) => Some([vec![address], within(net)].concat()),
        Peer::Group(group) => {
            let member = Expression::InSet {
                set: members(group, family),
                key: FIRST,
                inverted: false,
            };
            Some(vec![address, member])
        }
    }
}

fn within(net: &IpNet) -> Vec<Expression> {
    let mask = Expression::Mask {
        register: FIRST,
        mask: octets(net.netmask()),
    };
    let network = equals(&octets(net.network()));
    match net.prefix_len() == net.max_prefix_len() {
        true => vec![network],
        false => vec![mask, network],
    }
}

/// An address as a key or a value has it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
