//! The rules, as a list that reads like the policy it is.
#![forbid(unsafe_code)]

use super::words::*;
use super::{
    ADMITTED, BRIDGE_TABLE, DESTINATION, EGRESS, HOST_ADDRESSES, INET_TABLE, INGRESS, RESOLVERS,
    SOURCE,
};
use crate::nftables::{Base, Expression, Table, Verdict};
use crate::subnet::{INSTANCE_METADATA_ADDRESS, METADATA_ADDRESS};

/// A rule: its table, its chain, and what it consists of.
pub(super) type Rule = (Table, &'static str, Vec<Expression>);

pub(super) fn rules(metadata_port: u16) -> Vec<Rule> {
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
            [from_bridge(), go_to("task_to_host")].concat(),
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

/// What passes between tasks, and between them and the world: of a new connection, what the security groups of
/// both ends let pass. Those of the end that it comes from go on to `admitted`, and all end in a decision.
fn forwarding() -> Vec<Rule> {
    let rule = |chain, parts: &[Vec<Expression>]| (INET_TABLE, chain, parts.concat());
    vec![
        rule("forward", &[from_bridge(), go_to("from_task")]),
        rule("forward", &[to_bridge(), go_to("from_elsewhere")]),
        rule("from_task", &[ipv6(), verdict(Verdict::Drop)]),
        // Tasks have a blackhole route for it, which one with CAP_NET_ADMIN can delete.
        rule(
            "from_task",
            &[ipv4_to(INSTANCE_METADATA_ADDRESS), verdict(Verdict::Drop)],
        ),
        // Masquerading leaves it as it is, so a task's own address would show outside.
        rule("from_task", &[invalid(), verdict(Verdict::Drop)]),
        rule("from_task", &[established(), verdict(Verdict::Accept)]),
        rule("from_task", &[verdict_of(EGRESS, SOURCE)]),
        rule("from_task", &[verdict(Verdict::Drop)]),
        rule(ADMITTED, &[not_to_bridge(), verdict(Verdict::Accept)]),
        rule(ADMITTED, &[verdict_of(INGRESS, DESTINATION)]),
        rule(ADMITTED, &[verdict(Verdict::Drop)]),
        rule("from_elsewhere", &[established(), verdict(Verdict::Accept)]),
        rule("from_elsewhere", &[verdict(Verdict::Drop)]),
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
        (BRIDGE_TABLE, "ports", [from_port(), go_to("port")].concat()),
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
