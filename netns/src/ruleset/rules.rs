//! The rules, as a list that reads like the policy it is.
#![forbid(unsafe_code)]

use super::words::*;
use super::{
    ADMITTED, BRIDGE_TABLE, EGRESS, HAIRPINS, HOST_ADDRESSES, INET_TABLE, INGRESS, IpFamily,
    PORT_SOURCES, PUBLIC, PUBLIC_POOL, PUBLIC_SOURCES, PUBLISHED, RESOLVERS, SOURCES, SUBNETS,
};
use crate::nftables::{Base, Expression, Table, Verdict};
use crate::subnet::{INSTANCE_METADATA_ADDRESS, INSTANCE_METADATA_IPV6_ADDRESS, METADATA_ADDRESS};

/// A rule: its table, its chain, and what it consists of.
pub(super) type Rule = (Table, &'static str, Vec<Expression>);

pub(super) fn rules(metadata_port: u16) -> Vec<Rule> {
    let mut rules = translation(metadata_port);
    rules.extend(links());
    rules.extend(towards_the_host());
    rules.extend(from_task_to_host(metadata_port));
    rules.extend(forwarding());
    rules.extend(source_check());
    rules.extend(marking());
    rules
}

/// Where a frame has its sender's MAC address.
const MAC_OF_FRAME: (Base, u32) = (Base::Link, 6);

/// A rule of the table that IP packets pass.
fn inet(chain: &'static str, parts: &[Vec<Expression>]) -> Rule {
    (INET_TABLE, chain, parts.concat())
}

fn drop() -> Vec<Expression> {
    verdict(Verdict::Drop)
}

fn accept() -> Vec<Expression> {
    verdict(Verdict::Accept)
}

/// Where a task's packets come from: a bridge, or a link of its own.
fn from_task() -> [Vec<Expression>; 2] {
    [from_bridge(), from_port()]
}

fn to_task() -> [Vec<Expression>; 2] {
    [to_bridge(), to_port()]
}

/// The metadata endpoint's port, public addresses, published ports, and the way out.
fn translation(metadata_port: u16) -> Vec<Rule> {
    let metadata = [
        ipv4_to(METADATA_ADDRESS),
        tcp_to(80),
        redirect(METADATA_ADDRESS, metadata_port),
    ]
    .concat();
    // For a task that has the host's network, and for the host itself.
    let mut rules = vec![inet(
        "destinations_of_the_host",
        std::slice::from_ref(&metadata),
    )];
    for chain in ["destinations", "destinations_of_the_host"] {
        rules.push(inet(chain, &[sent_on(PUBLIC)]));
    }
    for from in from_task() {
        rules.push(inet("destinations", &[from.clone(), metadata.clone()]));
        let as_public = [from.clone(), not_to_task(), sent_as(PUBLIC_SOURCES)];
        rules.push(inet("masquerade", &as_public));
        let way_out = [from, not_to_task(), vec![Expression::Masquerade]];
        rules.push(inet("masquerade", &way_out));
    }
    for family in IpFamily::BOTH {
        let own = [to_the_host(), to_none_of(HOST_ADDRESSES, family)].concat();
        let published = translated(PUBLISHED, family);
        rules.push(inet("destinations", &[own.clone(), published.clone()]));
        let from_the_host = [own, not_to_loopback(family), published];
        rules.push(inet("destinations_of_the_host", &from_the_host));
        // A task would answer itself directly, and not know the answer.
        let hairpin = [to_itself(HAIRPINS, family), vec![Expression::Masquerade]];
        rules.push(inet("masquerade", &hairpin));
    }
    rules
}

/// What comes from a task's link itself. Of one that is no port of a bridge: what has its addresses. Of a port,
/// which has no element here, nothing: a frame to a link-local group address is not bridged, and reaches the
/// host as if the port were a link of its own, past everything that looks at bridges.
fn links() -> Vec<Rule> {
    let mut rules = vec![inet("links", &[from_port(), go_to("link")])];
    for family in IpFamily::BOTH {
        let source = own_source(PORT_SOURCES, family, MAC_OF_FRAME, family.source_offset());
        rules.push(inet("link", &[of(family), source, accept()]));
    }
    rules.push(inet("link", &[drop()]));
    rules
}

/// What may reach the host itself: from outside nothing that is meant for tasks, wherever the packet found its
/// way from; from a task what its chain says.
fn towards_the_host() -> Vec<Rule> {
    let mut rules: Vec<Rule> = from_task()
        .map(|from| inet("input", &[from, go_to("task_to_host")]))
        .into();
    rules.push(inet("input", &[from_loopback(), accept()]));
    for family in IpFamily::BOTH {
        rules.push(inet("input", &[to_one_of(HOST_ADDRESSES, family), drop()]));
    }
    rules
}

/// What a task may reach of the host: its metadata, its resolver and a ping. Nothing of ICMPv6 but that: no
/// neighbour is asked for or advertised, and no router solicited.
fn from_task_to_host(metadata_port: u16) -> Vec<Rule> {
    const CHAIN: &str = "task_to_host";
    let echo_requests = [(IpFamily::Ipv4, 8), (IpFamily::Ipv6, 128)];
    let redirects = [(IpFamily::Ipv4, 5), (IpFamily::Ipv6, 137)];
    let metadata = [ipv4_to(METADATA_ADDRESS), tcp_to(metadata_port), accept()];
    let mut rules = vec![
        inet(CHAIN, &[established(), accept()]),
        inet(CHAIN, &metadata),
    ];
    for question in [udp_to(53), tcp_to(53)] {
        let resolver = to_one_of(RESOLVERS, IpFamily::Ipv4);
        rules.push(inet(CHAIN, &[resolver, question, accept()]));
    }
    for (family, kind) in echo_requests {
        let host = to_one_of(HOST_ADDRESSES, family);
        rules.push(inet(CHAIN, &[host, icmp(family, kind), accept()]));
    }
    rules.push(inet(CHAIN, &[drop()]));
    // Tasks of one subnet always go through the router: it must not tell them of a shorter way.
    for (family, kind) in redirects {
        for to in to_task() {
            rules.push(inet("output", &[to, icmp(family, kind), drop()]));
        }
    }
    rules
}

/// What passes between tasks, and between them and the world: of a new connection, what the security groups of
/// both ends let pass. Those of the end that it comes from go on to `admitted`, and all end in a decision.
fn forwarding() -> Vec<Rule> {
    // Nobody's at the moment: it would be sent back to where it came from.
    let nobodys = to_one_of(PUBLIC_POOL, IpFamily::Ipv4);
    let mut rules = vec![inet("forward", &[nobodys, drop()])];
    for from in from_task() {
        rules.push(inet("forward", &[from, go_to("from_task")]));
    }
    for to in to_task() {
        rules.push(inet("forward", &[to, go_to("from_elsewhere")]));
    }
    rules.extend([
        // Tasks have a blackhole route for it, which one with CAP_NET_ADMIN can delete.
        inet("from_task", &[ipv4_to(INSTANCE_METADATA_ADDRESS), drop()]),
        inet(
            "from_task",
            &[ipv6_to(INSTANCE_METADATA_IPV6_ADDRESS), drop()],
        ),
        // Masquerading leaves it as it is, so a task's own address would show outside.
        inet("from_task", &[invalid(), drop()]),
        inet("from_task", &[established(), accept()]),
    ]);
    rules.push(inet("from_task", &[go_to(EGRESS)]));
    rules.push(inet(ADMITTED, &[not_to_task(), accept()]));
    rules.push(inet("from_elsewhere", &[established(), accept()]));
    for family in IpFamily::BOTH {
        // Tasks don't come from there, and who says so isn't one of their group.
        let as_task = from_one_of(SUBNETS, family);
        rules.push(inet("from_elsewhere", &[as_task, drop()]));
    }
    // A public address is the task's own: its groups decide who reaches it, whatever ports others publish.
    for chain in [ADMITTED, "from_elsewhere"] {
        rules.push(inet(chain, &[was_sent_on(PUBLIC), go_to(INGRESS)]));
    }
    for family in IpFamily::BOTH {
        // What a port was published for passes, whoever asks.
        for chain in [ADMITTED, "from_elsewhere"] {
            rules.push(inet(chain, &[was_translated(PUBLISHED, family), accept()]));
        }
    }
    rules.push(inet(ADMITTED, &[go_to(INGRESS)]));
    rules.push(inet("from_elsewhere", &[drop()]));
    rules
}

/// What may be routed: without the mark, it is not.
fn marking() -> Vec<Rule> {
    let from = from_task().into_iter();
    let to = IpFamily::BOTH
        .into_iter()
        .map(|family| to_one_of(SUBNETS, family));
    from.chain(to)
        .map(|which| inet("seen", &[which, mark(), accept()]))
        .collect()
}

/// A port of a bridge sends IP and ARP, from its own addresses. Without its element it sends nothing.
fn source_check() -> Vec<Rule> {
    const CHAIN: &str = "port";
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const ARP: u16 = 0x0806;
    const MAC_OF_ARP: (Base, u32) = (Base::Network, 8);
    const ADDRESS_OF_ARP: u32 = 14;
    let bridge = |chain, parts: &[Vec<Expression>]| (BRIDGE_TABLE, chain, parts.concat());
    let own = |family: IpFamily, mac, address| own_source(SOURCES, family, mac, address);
    let mut rules = vec![bridge("ports", &[from_port(), go_to(CHAIN)])];
    for (family, kind) in [(IpFamily::Ipv4, IPV4), (IpFamily::Ipv6, IPV6)] {
        let source = own(family, MAC_OF_FRAME, family.source_offset());
        rules.push(bridge(CHAIN, &[ethertype(kind), source, accept()]));
    }
    let arp = [
        ethertype(ARP),
        own(IpFamily::Ipv4, MAC_OF_FRAME, ADDRESS_OF_ARP),
        own(IpFamily::Ipv4, MAC_OF_ARP, ADDRESS_OF_ARP),
        accept(),
    ];
    rules.extend([bridge(CHAIN, &arp), bridge(CHAIN, &[drop()])]);
    rules
}
