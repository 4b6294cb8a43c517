//! The rules of the firewall, as a list that reads like the policy it is.
//!
//! They are loaded once, all at once, and are the same for one task as for a thousand. A drop here is
//! final; an accept can't override a drop in another's table. Only packets that come from our bridges
//! and ports, or go to them, or to the addresses that the host has on them, are looked at.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use crate::eni::HOST_LINK_PREFIX;
use crate::nftables::{
    Base, Batch, Chain, Comparison, Expression, Family, Hook, MetaKey, Register, Set, Table,
    Verdict,
};
use crate::subnet::{INSTANCE_METADATA_ADDRESS, METADATA_ADDRESS};

/// The table that IP packets pass.
pub(crate) const INET_TABLE: Table = Table {
    family: Family::Inet,
    name: "berth",
};
/// The table that frames on bridges pass.
pub(crate) const BRIDGE_TABLE: Table = Table {
    family: Family::Bridge,
    name: "berth",
};

/// The bridges of the subnets, by name.
pub(crate) const BRIDGES: &str = "bridges";
/// The addresses that the host has on them.
pub(crate) const HOST_ADDRESSES: &str = "host_addresses";
/// Those of them that are resolvers.
pub(crate) const RESOLVERS: &str = "resolvers";
/// The addresses of the members of the default security group.
pub(crate) const MEMBERS: &str = "default_group";
/// From which MAC and IPv4 address a port may send.
pub(crate) const SOURCES: &str = "sources";

/// The sets whose elements are the interfaces'.
pub(crate) const SETS_OF_INTERFACES: [(Table, &str); 2] =
    [(BRIDGE_TABLE, SOURCES), (INET_TABLE, MEMBERS)];

/// What the tables are recognised by: a hash of all they consist of.
pub(crate) fn version(metadata_port: u16) -> String {
    let mut batch = Batch::default();
    write_contents(&mut batch, metadata_port);
    // FNV-1a: the same for every build, which the standard library's hash does not promise.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in batch.payloads().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("Berth's rules, {hash:016x}")
}

/// Writes both tables into a batch.
pub(crate) fn write(batch: &mut Batch, metadata_port: u16) {
    let comment = version(metadata_port);
    batch.add_table(INET_TABLE, &comment);
    batch.add_table(BRIDGE_TABLE, &comment);
    write_contents(batch, metadata_port);
}

fn write_contents(batch: &mut Batch, metadata_port: u16) {
    for (id, (table, set)) in (1..).zip(sets()) {
        batch.add_set(table, set, id);
    }
    for (table, chain) in chains() {
        batch.add_chain(table, chain);
    }
    for (table, chain, rule) in rules(metadata_port) {
        batch.add_rule(table, chain, &rule);
    }
}

fn sets() -> [(Table, Set); 5] {
    // The types' numbers are those of the nft command; a key of several has six bits for each.
    const IPV4: u32 = 7;
    const ETHER: u32 = 9;
    const LINK_NAME: u32 = 41;
    let set = |name, key_type, key_length| Set {
        name,
        key_type,
        key_length,
    };
    [
        (INET_TABLE, set(BRIDGES, LINK_NAME, 16)),
        (INET_TABLE, set(HOST_ADDRESSES, IPV4, 4)),
        (INET_TABLE, set(RESOLVERS, IPV4, 4)),
        (INET_TABLE, set(MEMBERS, IPV4, 4)),
        (
            BRIDGE_TABLE,
            set(SOURCES, LINK_NAME << 12 | ETHER << 6 | IPV4, 28),
        ),
    ]
}

fn chains() -> Vec<(Table, Chain)> {
    let base = |table, name, kind, hook, priority| {
        (
            table,
            Chain {
                name,
                base: Some((kind, hook, priority)),
            },
        )
    };
    let inner = |table, name| (table, Chain { name, base: None });
    vec![
        base(
            INET_TABLE,
            "ports_are_silent",
            "filter",
            Hook::Prerouting,
            -300,
        ),
        base(INET_TABLE, "metadata", "nat", Hook::Prerouting, -100),
        base(
            INET_TABLE,
            "metadata_for_the_host",
            "nat",
            Hook::Output,
            -100,
        ),
        base(INET_TABLE, "masquerade", "nat", Hook::Postrouting, 100),
        base(INET_TABLE, "input", "filter", Hook::Input, 0),
        base(INET_TABLE, "forward", "filter", Hook::Forward, 0),
        base(INET_TABLE, "output", "filter", Hook::Output, 0),
        inner(INET_TABLE, "task_to_host"),
        inner(INET_TABLE, "from_task"),
        inner(INET_TABLE, "to_task"),
        base(BRIDGE_TABLE, "ports", "filter", Hook::Prerouting, -300),
        inner(BRIDGE_TABLE, "port"),
    ]
}

type Rule = (Table, &'static str, Vec<Expression>);

fn rules(metadata_port: u16) -> Vec<Rule> {
    let mut rules = translation(metadata_port);
    rules.extend(towards_the_host(metadata_port));
    rules.extend(forwarding());
    rules.extend(source_check());
    rules
}

/// The metadata endpoint's port, and the way out.
fn translation(metadata_port: u16) -> Vec<Rule> {
    let metadata = [
        ipv4_to(METADATA_ADDRESS),
        tcp_to(80),
        redirect(METADATA_ADDRESS, metadata_port),
    ]
    .concat();
    vec![
        (
            INET_TABLE,
            "metadata",
            [from_bridge(), metadata.clone()].concat(),
        ),
        // For a task that has the host's network, and for the host itself.
        (INET_TABLE, "metadata_for_the_host", metadata),
        (
            INET_TABLE,
            "masquerade",
            [
                from_bridge(),
                not_to_bridge(),
                ipv4(),
                vec![Expression::Masquerade],
            ]
            .concat(),
        ),
    ]
}

/// What may reach the host itself: from a task its metadata, its resolver and a ping; from outside
/// nothing that is meant for tasks, wherever the packet found its way from.
fn towards_the_host(metadata_port: u16) -> Vec<Rule> {
    const REDIRECT: u8 = 5;
    const ECHO_REQUEST: u8 = 8;
    vec![
        // A frame to a link-local group address is not bridged: it reaches the host as if the port
        // were a link of its own, past everything that looks at bridges.
        (
            INET_TABLE,
            "ports_are_silent",
            [from_port(), verdict(Verdict::Drop)].concat(),
        ),
        (
            INET_TABLE,
            "input",
            [from_bridge(), verdict(Verdict::Goto("task_to_host"))].concat(),
        ),
        (
            INET_TABLE,
            "input",
            [from_loopback(), verdict(Verdict::Accept)].concat(),
        ),
        (
            INET_TABLE,
            "input",
            [ipv4(), to_one_of(HOST_ADDRESSES), verdict(Verdict::Drop)].concat(),
        ),
        (
            INET_TABLE,
            "task_to_host",
            [established(), verdict(Verdict::Accept)].concat(),
        ),
        (
            INET_TABLE,
            "task_to_host",
            [
                ipv4_to(METADATA_ADDRESS),
                tcp_to(metadata_port),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            INET_TABLE,
            "task_to_host",
            [
                ipv4(),
                to_one_of(RESOLVERS),
                udp_to(53),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            INET_TABLE,
            "task_to_host",
            [
                ipv4(),
                to_one_of(RESOLVERS),
                tcp_to(53),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            INET_TABLE,
            "task_to_host",
            [
                ipv4(),
                to_one_of(HOST_ADDRESSES),
                icmp(ECHO_REQUEST),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (INET_TABLE, "task_to_host", verdict(Verdict::Drop)),
        // Tasks of one subnet always go through the router: it must not tell them of a shorter way.
        (
            INET_TABLE,
            "output",
            [to_bridge(), ipv4(), icmp(REDIRECT), verdict(Verdict::Drop)].concat(),
        ),
    ]
}

/// What passes between tasks, and between them and the world.
fn forwarding() -> Vec<Rule> {
    vec![
        (
            INET_TABLE,
            "forward",
            [from_bridge(), verdict(Verdict::Jump("from_task"))].concat(),
        ),
        (
            INET_TABLE,
            "forward",
            [to_bridge(), verdict(Verdict::Goto("to_task"))].concat(),
        ),
        (
            INET_TABLE,
            "from_task",
            [ipv6(), verdict(Verdict::Drop)].concat(),
        ),
        // Tasks have a blackhole route for it, which one with CAP_NET_ADMIN can delete.
        (
            INET_TABLE,
            "from_task",
            [ipv4_to(INSTANCE_METADATA_ADDRESS), verdict(Verdict::Drop)].concat(),
        ),
        // Masquerading leaves it as it is, so a task's own address would show outside.
        (
            INET_TABLE,
            "from_task",
            [invalid(), verdict(Verdict::Drop)].concat(),
        ),
        (
            INET_TABLE,
            "to_task",
            [established(), verdict(Verdict::Accept)].concat(),
        ),
        (
            INET_TABLE,
            "to_task",
            [
                from_bridge(),
                ipv4(),
                between_members(),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (INET_TABLE, "to_task", verdict(Verdict::Drop)),
    ]
}

/// A port sends IPv4 and ARP, from its own addresses. Without its element it sends nothing.
fn source_check() -> Vec<Rule> {
    const IPV4: u16 = 0x0800;
    const ARP: u16 = 0x0806;
    const MAC_OF_FRAME: (Base, u32) = (Base::Link, 6);
    const MAC_OF_ARP: (Base, u32) = (Base::Network, 8);
    const ADDRESS_OF_IPV4: u32 = 12;
    const ADDRESS_OF_ARP: u32 = 14;
    vec![
        (
            BRIDGE_TABLE,
            "ports",
            [from_port(), verdict(Verdict::Goto("port"))].concat(),
        ),
        (
            BRIDGE_TABLE,
            "port",
            [
                ethertype(IPV4),
                own_source(MAC_OF_FRAME, ADDRESS_OF_IPV4),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            BRIDGE_TABLE,
            "port",
            [
                ethertype(ARP),
                own_source(MAC_OF_FRAME, ADDRESS_OF_ARP),
                own_source(MAC_OF_ARP, ADDRESS_OF_ARP),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (BRIDGE_TABLE, "port", verdict(Verdict::Drop)),
    ]
}

const FIRST: Register = Register::FIRST;

fn from_bridge() -> Vec<Expression> {
    name_in(MetaKey::InputName, false)
}

fn to_bridge() -> Vec<Expression> {
    name_in(MetaKey::OutputName, false)
}

fn not_to_bridge() -> Vec<Expression> {
    name_in(MetaKey::OutputName, true)
}

fn name_in(key: MetaKey, inverted: bool) -> Vec<Expression> {
    vec![
        Expression::Meta { key, into: FIRST },
        Expression::InSet {
            set: BRIDGES,
            key: FIRST,
            inverted,
        },
    ]
}

/// From a link whose name begins as those of tasks do.
fn from_port() -> Vec<Expression> {
    meta_is(MetaKey::InputName, HOST_LINK_PREFIX.as_bytes())
}

fn from_loopback() -> Vec<Expression> {
    meta_is(MetaKey::InputName, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
}

fn ipv4() -> Vec<Expression> {
    meta_is(MetaKey::NetworkProtocol, &[2])
}

fn ipv6() -> Vec<Expression> {
    meta_is(MetaKey::NetworkProtocol, &[10])
}

fn meta_is(key: MetaKey, value: &[u8]) -> Vec<Expression> {
    vec![Expression::Meta { key, into: FIRST }, equals(value)]
}

fn equals(value: &[u8]) -> Expression {
    Expression::Compare {
        register: FIRST,
        comparison: Comparison::Equal,
        value: value.to_vec(),
    }
}

fn payload(base: Base, offset: u32, length: u32) -> Expression {
    Expression::Payload {
        base,
        offset,
        length,
        into: FIRST,
    }
}

fn ethertype(kind: u16) -> Vec<Expression> {
    vec![payload(Base::Link, 12, 2), equals(&kind.to_be_bytes())]
}

fn ipv4_to(address: Ipv4Addr) -> Vec<Expression> {
    [
        ipv4(),
        vec![payload(Base::Network, 16, 4), equals(&address.octets())],
    ]
    .concat()
}

fn to_one_of(set: &'static str) -> Vec<Expression> {
    vec![
        payload(Base::Network, 16, 4),
        Expression::InSet {
            set,
            key: FIRST,
            inverted: false,
        },
    ]
}

fn tcp_to(port: u16) -> Vec<Expression> {
    transport_to(6, port)
}

fn udp_to(port: u16) -> Vec<Expression> {
    transport_to(17, port)
}

fn transport_to(protocol: u8, port: u16) -> Vec<Expression> {
    let mut rule = meta_is(MetaKey::TransportProtocol, &[protocol]);
    rule.extend([payload(Base::Transport, 2, 2), equals(&port.to_be_bytes())]);
    rule
}

fn icmp(kind: u8) -> Vec<Expression> {
    let mut rule = meta_is(MetaKey::TransportProtocol, &[1]);
    rule.extend([payload(Base::Transport, 0, 1), equals(&[kind])]);
    rule
}

fn established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    connection_state(ESTABLISHED_OR_RELATED)
}

fn invalid() -> Vec<Expression> {
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

/// From a member of the default security group to another.
fn between_members() -> Vec<Expression> {
    let member = Expression::InSet {
        set: MEMBERS,
        key: FIRST,
        inverted: false,
    };
    vec![
        payload(Base::Network, 12, 4),
        member.clone(),
        payload(Base::Network, 16, 4),
        member,
    ]
}

/// The port, a MAC address and an IPv4 address of the frame are together in [`SOURCES`].
fn own_source((base, offset): (Base, u32), address: u32) -> Vec<Expression> {
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
            set: SOURCES,
            key: FIRST,
            inverted: false,
        },
    ]
}

fn redirect(address: Ipv4Addr, port: u16) -> Vec<Expression> {
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

fn verdict(verdict: Verdict) -> Vec<Expression> {
    vec![Expression::Verdict(verdict)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_a_chain_that_exists_and_ends_in_a_decision() {
        let chains = chains();
        for (table, chain, rule) in rules(51679) {
            assert!(
                chains
                    .iter()
                    .any(|(of, known)| *of == table && known.name == chain),
                "{chain}"
            );
            let last = rule.last().expect("a rule does something");
            assert!(
                matches!(
                    last,
                    Expression::Verdict(_)
                        | Expression::Masquerade
                        | Expression::DestinationNat { .. }
                ),
                "{chain}: {last:?}"
            );
        }
    }

    #[test]
    fn the_version_follows_the_contents() {
        assert_eq!(version(51679), version(51679));
        assert_ne!(version(51679), version(51680));
    }
}
