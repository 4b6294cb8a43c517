//! What is said of prepared networks.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::IpNet;

use super::explain::{Explanation, Verdict, explain};
use super::packet::Traffic;
use super::question::{End, Inquiry, Whose};
use super::snapshot::{Kernel, Snapshot};
use crate::config::NetworkConfig;
use crate::eni::Eni;
use crate::firewall;
use crate::netlink::{Link, PolicyAction, PolicyFamily, PolicyRule, RouteAnswer};
use crate::nftables::{Place, Ruleset};
use crate::ruleset::INET_TABLE;
use crate::security_group::{Peer, Protocol, Rule, SecurityGroup};
use crate::subnet::AttachmentMode;

const HOST: &str = "192.0.2.1";
const OUTSIDE: &str = "203.0.113.1";
const BRIDGE: u32 = 2;
const UPLINK: u32 = 9;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn eni(number: u8, mode: AttachmentMode, group: &str) -> Eni {
    let last = number + 3;
    Eni {
        id: format!("eni-{number:017x}").parse().expect("valid"),
        address: [10, 231, 0, last].into(),
        ipv6_address: format!("fd62:6572:7468::{last}").parse().ok(),
        public_address: None,
        subnet: "subnet-00000000000000001".parse().expect("valid"),
        mode,
        security_groups: vec![group.parse().expect("valid")],
        netns: format!("task-{number}").parse().expect("valid"),
        id_range: None,
        published: Vec::new(),
    }
}

fn link(name: &str, index: u32, bridge: Option<u32>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mac: None,
        mtu: 1500,
        bridge,
        operational: true,
        kind: None,
    }
}

/// Two tasks, one of each group, on a host where all is as it should be.
fn network(mode: AttachmentMode) -> Snapshot {
    let default = SecurityGroup::default_group();
    let from_default = Peer::Group(default.id().clone());
    let web = Rule::new(Protocol::TCP, Some(80), Some(90), from_default).expect("valid");
    let web = SecurityGroup::new(
        "sg-00000000000000002".parse().expect("valid"),
        vec![web],
        vec![],
    );
    let mut config = NetworkConfig::new("/nonexistent", "/nonexistent");
    config.security_groups = vec![default.clone(), web.clone()];
    let enis = vec![
        eni(1, mode, default.id().as_str()),
        eni(2, mode, web.id().as_str()),
    ];
    let port = (mode == AttachmentMode::Bridged).then_some(BRIDGE);
    let intended = firewall::intended(&config, &enis).expect("groups are there");
    let subnet = config.subnets.first().expect("there is one");
    let closed = subnet.ranges().map(|range| PolicyRule {
        family: PolicyFamily::Ipv4,
        priority: 73,
        from_link: None,
        from: None,
        to: Some(range),
        mark: None,
        action: PolicyAction::Blackhole,
    });
    let kernel = Kernel {
        ruleset: intended.clone(),
        links: vec![
            link("berth0", BRIDGE, None),
            link("eni-00000000001", 3, port),
            link("eni-00000000002", 4, port),
            link("uplink", UPLINK, None),
        ],
        addresses: [HOST, "10.231.0.1", "10.231.0.2", "169.254.170.2"]
            .map(ip)
            .into(),
        neighbours: enis.iter().flat_map(Eni::addresses).collect(),
        policy_rules: closed.collect(),
        forwards_ipv4: true,
        forwards_ipv6: true,
        ..Kernel::default()
    };
    Snapshot {
        config,
        enis,
        intended,
        kernel,
    }
}

fn end(snapshot: &Snapshot, address: &str) -> End {
    let address = ip(address);
    let whose = match snapshot.eni_at(address) {
        Some(eni) => Whose::Task(eni.clone()),
        None if snapshot.is_hosts(address) => Whose::Hosts,
        None => Whose::Outside,
    };
    End { whose, address }
}

fn ask(snapshot: &Snapshot, from: &str, to: &str, traffic: &str) -> Explanation {
    let (from, to) = (end(snapshot, from), end(snapshot, to));
    let ways = snapshot.enis.iter().flat_map(|eni| {
        let link = snapshot.ip_link(eni).map_or(0, |link| link.index);
        let way = RouteAnswer::Out { link, source: None };
        eni.addresses().map(move |address| (address, way))
    });
    let outside = RouteAnswer::Out {
        link: UPLINK,
        source: None,
    };
    let inquiry = Inquiry {
        published: None,
        uplink: Some(UPLINK),
        ways: ways.chain([(ip(OUTSIDE), outside)]).collect(),
        traffic: traffic.parse::<Traffic>().expect("traffic"),
        from,
        to,
    };
    explain(snapshot, &inquiry)
}

/// The last thing that is said, if that is the verdict.
fn expect(explanation: &Explanation, verdict: Verdict, says: &str) {
    assert_eq!(explanation.verdict, verdict, "{explanation:?}");
    let steps = explanation.steps.iter();
    let mut deciding = steps.filter(|step| step.verdict == verdict);
    assert!(
        deciding.any(|step| step.says.contains(says)),
        "{says}: {explanation:?}"
    );
}

const ONE: &str = "10.231.0.4";
const TWO: &str = "10.231.0.5";

#[test]
fn rules_decide_by_protocol_port_and_membership_in_both_modes_and_families() {
    for mode in [AttachmentMode::Bridged, AttachmentMode::Routed] {
        let network = network(mode);
        for (one, two) in [(ONE, TWO), ("fd62:6572:7468::4", "fd62:6572:7468::5")] {
            for (port, passes) in [("79", false), ("80", true), ("90/tcp", true), ("91", false)] {
                let explanation = ask(&network, one, two, port);
                let (verdict, says) = match passes {
                    true => (Verdict::Passes, "tcp 80-90 from sg-00000000000000001"),
                    false => (Verdict::Blocked, "no ingress rule of sg-00000000000000002"),
                };
                expect(&explanation, verdict, says);
                assert_eq!(explanation.differences, Vec::<String>::new());
            }
            for other in ["80/udp", "ping"] {
                expect(
                    &ask(&network, one, two, other),
                    Verdict::Blocked,
                    "no ingress rule",
                );
            }
            expect(
                &ask(&network, two, one, "80"),
                Verdict::Blocked,
                "no egress rule of sg-00000000000000002",
            );
        }
    }
}

#[test]
fn what_nearly_fits_is_named_and_what_would_is_written_out() {
    let network = network(AttachmentMode::Bridged);
    let explanation = ask(&network, TWO, ONE, "8080/udp");
    let advice = explanation
        .steps
        .last()
        .and_then(|step| step.advice.as_deref());
    let written = r#"IpPermissionsEgress of sg-00000000000000002 in the network's file, and reload the agent: {"IpProtocol":"udp","FromPort":8080,"ToPort":8080,"UserIdGroupPairs":[{"GroupId":"sg-00000000000000001"}]}"#;
    assert!(
        advice.is_some_and(|advice| advice.ends_with(written)),
        "{advice:?}"
    );
}

#[test]
fn the_host_and_outside_are_what_they_are() {
    let network = network(AttachmentMode::Routed);
    expect(
        &ask(&network, ONE, HOST, "22"),
        Verdict::Blocked,
        "the host's own addresses",
    );
    expect(
        &ask(&network, ONE, "10.231.0.2", "53/udp"),
        Verdict::Passes,
        "is open to it",
    );
    expect(
        &ask(&network, ONE, "10.231.0.1", "ping"),
        Verdict::Passes,
        "is open to it",
    );
    expect(
        &ask(&network, ONE, "169.254.170.2", "80"),
        Verdict::Passes,
        "port 51679",
    );
    expect(
        &ask(&network, ONE, "169.254.169.254", "80"),
        Verdict::Blocked,
        "instance metadata",
    );
    expect(
        &ask(&network, ONE, OUTSIDE, "443"),
        Verdict::Passes,
        "masqueraded",
    );
    expect(
        &ask(&network, OUTSIDE, ONE, "443"),
        Verdict::Blocked,
        "published ports",
    );
    expect(
        &ask(&network, OUTSIDE, "10.231.0.2", "53/udp"),
        Verdict::Blocked,
        "for tasks only",
    );
    expect(
        &ask(&network, HOST, TWO, "22"),
        Verdict::Passes,
        "handed to task-2",
    );
}

#[test]
fn what_the_kernel_lacks_is_said_rather_than_what_should_be() {
    let good = network(AttachmentMode::Bridged);
    let mut network = good.clone();
    network.kernel.forwards_ipv4 = false;
    expect(
        &ask(&network, ONE, TWO, "80"),
        Verdict::Blocked,
        "net.ipv4.ip_forward is 0",
    );

    let mut network = good.clone();
    network.kernel.ruleset = Ruleset::default();
    network.kernel.missing_tables = vec!["inet berth".into(), "bridge berth".into()];
    expect(&ask(&network, ONE, TWO, "80"), Verdict::Blocked, "are gone");
    expect(
        &ask(&network, HOST, TWO, "80"),
        Verdict::Passes,
        "handed to",
    );
    // Without those rules of the routing policy, it passes, as it would.
    network.kernel.policy_rules.clear();
    expect(&ask(&network, ONE, TWO, "80"), Verdict::Passes, "handed to");

    let mut network = good.clone();
    network
        .kernel
        .links
        .retain(|link| link.name != "eni-00000000002");
    expect(
        &ask(&network, ONE, TWO, "80"),
        Verdict::Blocked,
        "it is gone",
    );

    let mut network = good.clone();
    let place = Place::of(INET_TABLE, "members-sg-00000000000000001");
    if let Some(set) = network.kernel.ruleset.sets.get_mut(&place) {
        set.elements.clear();
    }
    expect(
        &ask(&network, ONE, TWO, "80"),
        Verdict::Blocked,
        "is not among those",
    );
    let difference = "the set members-sg-00000000000000001 of inet berth lacks 1 elements";
    assert_eq!(network.differences(), [difference]);

    let mut network = good;
    network.kernel.neighbours.clear();
    expect(
        &ask(&network, ONE, TWO, "80"),
        Verdict::Blocked,
        "MAC address",
    );
}

#[test]
fn rules_of_the_kernels_hold_whatever_the_definition_says() {
    let mut network = network(AttachmentMode::Bridged);
    let other = SecurityGroup::new(
        "sg-00000000000000002".parse().expect("valid"),
        vec![],
        vec![],
    );
    network.config.security_groups = vec![SecurityGroup::default_group(), other];
    network.intended = firewall::intended(&network.config, &network.enis).expect("valid");
    let explanation = ask(&network, ONE, TWO, "80");
    expect(&explanation, Verdict::Passes, "no longer has");
    assert!(
        explanation
            .differences
            .iter()
            .any(|line| line
                .contains("the agent has others, and takes the file's when it is reloaded")),
        "{explanation:?}"
    );
    let explanation = ask(&network, ONE, TWO, "91");
    expect(
        &explanation,
        Verdict::Blocked,
        "are not those of the network's file",
    );
}

#[test]
fn an_address_of_a_subnet_that_no_task_has_is_nobodys() {
    let network = network(AttachmentMode::Bridged);
    let range: IpNet = "10.231.0.0/24".parse().expect("a range");
    let free = ip("10.231.0.77");
    assert!(range.contains(&free));
    expect(
        &ask(&network, ONE, "10.231.0.77", "80"),
        Verdict::Blocked,
        "no task has 10.231.0.77",
    );
}
