//! What a container may be called, and what is refused.

use serde_json::{Value, json};

use super::super::{Condition, TaskDefinition, start_order};
use super::*;
use crate::error::Code;
use crate::id::Place;

/// A definition of two containers, of which the first has these members too.
fn with(mode: &str, members: Value) -> Result<TaskDefinition, ApiError> {
    let mut first = json!({"name": "web", "image": "i", "memory": 32});
    let map = first.as_object_mut().unwrap();
    map.extend(members.as_object().unwrap().clone());
    TaskDefinition::from_request(json!({
        "family": "f", "networkMode": mode,
        "containerDefinitions": [first, {"name": "db", "image": "i", "memory": 32}]
    }))
}

fn all() -> Value {
    json!({
        "hostname": "web_1.example",
        "extraHosts": [{"hostname": "old_db", "ipAddress": "192.0.2.7"}],
        "dnsServers": ["192.0.2.53", "2001:db8::53"],
        "dnsSearchDomains": ["dev.example.com"],
        "links": ["db:database"],
    })
}

#[test]
fn what_is_said_of_names_is_described_and_registers_again() {
    let place = Place {
        region: "us-east-1".into(),
        account: "000000000000".into(),
    };
    let first = with("bridge", all()).unwrap();
    let described = first.describe(&place).unwrap();
    for (name, value) in all().as_object().unwrap() {
        assert_eq!(described["containerDefinitions"][0][name], *value, "{name}");
        assert_eq!(described["containerDefinitions"][1][name], Value::Null);
    }
    let mut second = TaskDefinition::from_request(described).unwrap();
    second.registered_at = first.registered_at;
    assert_eq!(second, first);
}

#[test]
fn each_mistake_names_the_member_and_what_would_be_right() {
    let long = "x".repeat(256);
    for (member, value, expected) in [
        (
            "hostname",
            json!("a b"),
            "hostname is 'a b'; it must be up to 63",
        ),
        ("hostname", json!("-a"), "hostname is '-a'"),
        ("hostname", json!("x".repeat(64)), "up to 63"),
        (
            "hostname",
            json!("a\n127.0.0.1 b"),
            "hostname is 'a\\n127.0.0.1 b'",
        ),
        (
            "extraHosts",
            json!([{"hostname": "a", "ipAddress": "host-gateway"}]),
            "extraHosts[0].ipAddress is 'host-gateway'; it must be an IPv4 or IPv6 address",
        ),
        (
            "extraHosts",
            json!([{"hostname": "a#b", "ipAddress": "192.0.2.1"}]),
            "extraHosts[0].hostname is 'a#b'",
        ),
        (
            "extraHosts",
            json!([{"hostname": "a"}]),
            "extraHosts[0].ipAddress is missing",
        ),
        (
            "dnsServers",
            json!(["192.0.2.1", "dns.example"]),
            "dnsServers[1] is 'dns.example'; it must be an IPv4",
        ),
        (
            "dnsSearchDomains",
            json!(["a.example."]),
            "dnsSearchDomains[0] is 'a.example.'",
        ),
        (
            "dnsSearchDomains",
            json!(["a b"]),
            "dnsSearchDomains[0] is 'a b'",
        ),
        (
            "links",
            json!(["db:"]),
            "links[0] is 'db:'; it must be a container's name, or",
        ),
        ("links", json!(["db:a.b"]), "links[0] is 'db:a.b'"),
        ("links", json!([format!("db:{long}")]), "up to 255"),
        (
            "links",
            json!(["other"]),
            "links[0] is 'other'; 'other' is no container",
        ),
        ("links", json!(["web"]), "cycle among: web"),
        (
            "links",
            json!(["db", "db:x", "web:x"]),
            "links[2] is 'web:x'; an earlier link has the alias 'x'",
        ),
    ] {
        let error = with("bridge", json!({member: value})).unwrap_err();
        assert_eq!(error.code, Code::Client, "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
}

#[test]
fn a_container_starts_after_those_that_it_is_linked_to() {
    let definition = with("bridge", json!({"links": ["db"]})).unwrap();
    let containers = &definition.container_definitions;
    assert_eq!(start_order(containers), Ok(vec![1, 0]));
    let conditions: Vec<_> = containers[0].start_conditions().collect();
    assert_eq!(conditions, [("db", Condition::Start)]);
}

#[test]
fn without_a_network_there_are_neither_ports_nor_links() {
    let disabled = json!({"disableNetworking": true});
    let definition = with("bridge", disabled).unwrap();
    let mode = |i: usize| definition.network_mode_of(&definition.container_definitions[i]);
    assert_eq!(mode(0), super::super::NetworkMode::None);
    assert_eq!(mode(1), super::super::NetworkMode::Bridge);
    for (member, value) in [
        ("links", json!(["db"])),
        ("portMappings", json!([{"containerPort": 80}])),
    ] {
        let members = json!({"disableNetworking": true, member: value});
        let error = with("bridge", members).unwrap_err();
        let expected = format!("remove containerDefinitions[0].{member}");
        assert!(error.message.ends_with(&expected), "{error}");
    }
    let linked = TaskDefinition::from_request(json!({
        "family": "f", "memory": "64", "containerDefinitions": [
            {"name": "a", "image": "i", "links": ["b"]},
            {"name": "b", "image": "i", "disableNetworking": true},
        ]
    }));
    let error = linked.unwrap_err();
    assert!(error.message.contains("nothing reaches it"), "{error}");
}
