use serde_json::json;

use super::*;
use crate::dns::absolute;
use crate::service_discovery::{RoutingPolicy, Srv};
use crate::task::{AttachedEni, AttachedIpv6, Eni, NetworkBinding};
use crate::task_definition::{PortRange, Protocol, TaskDefinition};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const ID: &str = "70420620aaaabbbbccccddddeeeeffff";

/// A task that runs, with a container `db` and its port 5432.
fn task(mode: &str, ipv6: Option<&str>) -> Task {
    let definition = TaskDefinition::from_request(json!({
        "family": "postgres", "networkMode": mode, "memory": "64",
        "containerDefinitions": [
            {"name": "db", "image": "i", "portMappings": [{"containerPort": 5432}]},
            {"name": "web", "image": "i"},
        ],
    }));
    let mut interfaces = Eni::planned(definition.as_ref().unwrap(), "subnet-1", &[]);
    for eni in &mut interfaces {
        eni.attached = Some(attached(ipv6));
    }
    let mut task = Task {
        interfaces,
        ..Task::running(ID, definition.unwrap())
    };
    task.containers[0].bindings = vec![NetworkBinding {
        container: PortRange::one(5432),
        host: PortRange::one(61_000),
        protocol: Protocol::Tcp,
    }];
    task
}

fn attached(ipv6: Option<&str>) -> AttachedEni {
    AttachedEni {
        id_range: None,
        mac: String::new(),
        address: Ipv4Addr::new(10, 231, 0, 4),
        subnet_cidr: String::new(),
        gateway: Ipv4Addr::new(10, 231, 0, 1),
        private_dns_name: String::new(),
        domain_name_servers: Vec::new(),
        domain_name_search_list: Vec::new(),
        ipv6: ipv6.map(|address| AttachedIpv6 {
            address: address.parse().unwrap(),
            subnet_cidr: String::new(),
            gateway: "fd00::1".parse().unwrap(),
        }),
    }
}

fn service(kinds: &[&str], port: Port) -> Service {
    let ttl = |kind, ttl| kinds.contains(&kind).then_some(ttl);
    Service {
        name: absolute("db.local").unwrap(),
        routing_policy: RoutingPolicy::Multivalue,
        a: ttl("A", 10),
        aaaa: ttl("AAAA", 20),
        srv: ttl("SRV", 30).map(|ttl| Srv { ttl, port }),
        family: "postgres".into(),
    }
}

fn container(name: &str, port: u16) -> Port {
    let name = name.to_owned();
    Port::Container { name, port }
}

fn texts(service: &Service, task: &Task) -> Result<Vec<String>, String> {
    let records = records(service, task, Some(HOST)).map_err(|e| format!("{e:#}"))?;
    let text = |r: &Record| {
        let name = r.name.to_string();
        let name = name.replace(ID, "ID");
        let data = r.data.to_string().replace(ID, "ID");
        format!("{name} {} {} {data}", r.ttl, r.record_type())
    };
    Ok(records.iter().map(text).collect())
}

#[test]
fn under_awsvpc_a_task_is_reached_at_its_own_addresses_and_ports() {
    let all = service(&["A", "AAAA", "SRV"], container("db", 5432));
    assert_eq!(
        texts(&all, &task("awsvpc", Some("fd00::4"))).unwrap(),
        [
            "db.local. 10 A 10.231.0.4",
            "db.local. 20 AAAA fd00::4",
            "db.local. 30 SRV 1 1 5432 ID.db.local.",
            "ID.db.local. 30 A 10.231.0.4",
            "ID.db.local. 30 AAAA fd00::4",
        ]
    );
    let number = service(&["SRV"], Port::Number(7));
    assert_eq!(
        texts(&number, &task("awsvpc", None)).unwrap(),
        [
            "db.local. 30 SRV 1 1 7 ID.db.local.",
            "ID.db.local. 30 A 10.231.0.4",
        ]
    );
    let a = service(&["A"], Port::Number(7));
    assert_eq!(
        texts(&a, &task("awsvpc", Some("fd00::4"))).unwrap(),
        ["db.local. 10 A 10.231.0.4"]
    );
    let aaaa = service(&["AAAA"], Port::Number(7));
    let refusal = texts(&aaaa, &task("awsvpc", None)).unwrap_err();
    assert!(refusal.contains("no IPv6 address"), "{refusal}");
}

#[test]
fn under_bridge_and_host_a_task_is_reached_at_the_hosts_address_and_port() {
    let srv = service(&["SRV"], container("db", 5432));
    for mode in ["bridge", "host"] {
        assert_eq!(
            texts(&srv, &task(mode, Some("fd00::4"))).unwrap(),
            [
                "db.local. 30 SRV 1 1 61000 ID.db.local.",
                "ID.db.local. 30 A 192.0.2.7",
            ]
        );
    }
    let without = records(&srv, &task("host", None), None).unwrap_err();
    assert!(without.to_string().contains("no address"), "{without}");
}

#[test]
fn a_task_that_ecs_would_not_register_is_not() {
    for (mode, service, words) in [
        (
            "bridge",
            service(&["A", "SRV"], container("db", 5432)),
            "network mode bridge, under which ECS has SRV records only",
        ),
        (
            "host",
            service(&["AAAA"], Port::Number(7)),
            "network mode host, under which ECS has SRV records only",
        ),
        (
            "host",
            service(&["SRV"], Port::Number(7)),
            "containerName and containerPort must be given",
        ),
        (
            "bridge",
            service(&["SRV"], container("web", 5432)),
            "containerName 'web' and containerPort 5432 are no port mapping",
        ),
        (
            "awsvpc",
            service(&["A", "SRV"], container("db", 80)),
            "containerName 'db' and containerPort 80 are no port mapping",
        ),
        (
            "awsvpc",
            service(&["SRV"], container("x", 5432)),
            "containerName 'x'",
        ),
    ] {
        let refusal = texts(&service, &task(mode, None)).unwrap_err();
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn only_what_runs_is_healthy() {
    let running = task("awsvpc", None);
    assert!(is_healthy(&running, "boot"));
    assert!(!is_healthy(&running, "a later boot"));
    for status in [LastStatus::Activating, LastStatus::Stopping] {
        let last_status = status;
        let task = Task {
            last_status,
            ..running.clone()
        };
        assert!(!is_healthy(&task, "boot"));
    }
    let wanted_gone = Task {
        desired_stopped: true,
        ..running
    };
    assert!(!is_healthy(&wanted_gone, "boot"));
}
