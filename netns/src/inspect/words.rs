//! Rules of security groups in words: as they are shown, and as the network's file has them.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use serde_json::{Value, json};

use super::packet::Traffic;
use super::question::SOMEBODY;
use crate::eni::Eni;
use crate::policy::{Direction, Policy};
use crate::ruleset::IpFamily;
use crate::security_group::{Peer, Protocol, Rule, SecurityGroup, SecurityGroupId};

/// A rule as a line: `tcp 5432 from sg-…`.
pub(super) fn rule(rule: &Rule, direction: Direction) -> String {
    let preposition = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peer = match rule.peer() {
        Peer::Range(net) => net.to_string(),
        Peer::Group(group) => group.to_string(),
    };
    let protocol = match rule.protocol() {
        Protocol::All => "everything".to_owned(),
        protocol => protocol.to_string(),
    };
    format!("{protocol}{} {preposition} {peer}", ports(rule))
}

fn ports(rule: &Rule) -> String {
    let ports = rule.ports();
    let (first, last) = (*ports.start(), *ports.end());
    if ports == (0..=u16::MAX) {
        return String::new();
    }
    let [kind, code] = first.to_be_bytes();
    match (rule.protocol().has_types(), first == last) {
        (false, true) => format!(" {first}"),
        (false, false) => format!(" {first}-{last}"),
        (true, true) => format!(" type {kind} code {code}"),
        (true, false) => format!(" type {kind}"),
    }
}

/// Whether a rule is for this traffic, whoever the other end is.
pub(super) fn is_for(rule: &Rule, traffic: Traffic, family: IpFamily) -> bool {
    const ECHO_REQUEST: [(IpFamily, u16); 2] =
        [(IpFamily::Ipv4, 8 << 8), (IpFamily::Ipv6, 128 << 8)];
    let protocol = Protocol::Number(traffic.protocol(family));
    let echo = ECHO_REQUEST.iter().find(|(of, _)| *of == family);
    let port = traffic.port().or(echo.map(|(_, types)| *types));
    match rule.protocol() {
        Protocol::All => true,
        own => own == protocol && port.is_some_and(|port| rule.ports().contains(&port)),
    }
}

/// The rules of a direction.
pub(super) fn rules(group: &SecurityGroup, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => group.ingress(),
        Direction::Egress => group.egress(),
    }
}

/// What to write into the network's file, so that a group lets traffic pass.
pub(super) fn permission(
    group: &SecurityGroupId,
    direction: Direction,
    traffic: Traffic,
    (peer, address): (Option<&Eni>, IpAddr),
) -> String {
    let member = match direction {
        Direction::Ingress => "IpPermissions",
        Direction::Egress => "IpPermissionsEgress",
    };
    let mut permission = match traffic {
        Traffic::Tcp(port) => json!({"IpProtocol": "tcp", "FromPort": port, "ToPort": port}),
        Traffic::Udp(port) => json!({"IpProtocol": "udp", "FromPort": port, "ToPort": port}),
        Traffic::Ping if address.is_ipv4() => {
            json!({"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1})
        }
        Traffic::Ping => json!({"IpProtocol": "icmpv6", "FromPort": 128, "ToPort": -1}),
    };
    let of_peer = peer.map(Policy::of);
    let peer = of_peer.as_ref().and_then(|policy| policy.groups().next());
    let (name, value) = match (peer, address) {
        (Some(group), _) => ("UserIdGroupPairs", json!([{"GroupId": group}])),
        (None, IpAddr::V4(address)) if address == SOMEBODY.0 => {
            ("IpRanges", json!([{"CidrIp": "0.0.0.0/0"}]))
        }
        (None, IpAddr::V6(address)) if address == SOMEBODY.1 => {
            ("Ipv6Ranges", json!([{"CidrIpv6": "::/0"}]))
        }
        (None, IpAddr::V4(address)) => ("IpRanges", json!([{"CidrIp": format!("{address}/32")}])),
        (None, IpAddr::V6(address)) => (
            "Ipv6Ranges",
            json!([{"CidrIpv6": format!("{address}/128")}]),
        ),
    };
    if let Value::Object(members) = &mut permission {
        members.insert(name.to_owned(), value);
    }
    format!(
        "to let it pass, add to {member} of {group} in the network's file, and reload the agent: {permission}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: &str, from: i64, to: i64, peer: &str) -> Rule {
        let peer = Peer::Range(peer.parse().expect("a range"));
        let protocol = protocol.parse().expect("a protocol");
        Rule::new(protocol, Some(from), Some(to), peer).expect("valid")
    }

    #[test]
    fn rules_are_shown_as_people_say_them() {
        let line = |one: &Rule| rule(one, Direction::Ingress);
        assert_eq!(
            line(&of("tcp", 80, 80, "10.0.0.0/8")),
            "tcp 80 from 10.0.0.0/8"
        );
        assert_eq!(line(&of("udp", 1, 9, "::/0")), "udp 1-9 from ::/0");
        assert_eq!(
            line(&of("icmp", 8, -1, "0.0.0.0/0")),
            "icmp type 8 from 0.0.0.0/0"
        );
        let everything = of("-1", -1, -1, "0.0.0.0/0");
        assert_eq!(
            rule(&everything, Direction::Egress),
            "everything to 0.0.0.0/0"
        );
    }

    #[test]
    fn a_ping_is_for_the_rule_of_its_families_echo_requests() {
        let echo = of("icmp", 8, -1, "0.0.0.0/0");
        assert!(is_for(&echo, Traffic::Ping, IpFamily::Ipv4));
        assert!(!is_for(&echo, Traffic::Ping, IpFamily::Ipv6));
        assert!(!is_for(&echo, Traffic::Tcp(8 << 8), IpFamily::Ipv4));
        assert!(is_for(
            &of("icmpv6", 128, 0, "::/0"),
            Traffic::Ping,
            IpFamily::Ipv6
        ));
    }
}
