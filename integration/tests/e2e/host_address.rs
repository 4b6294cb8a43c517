//! Service discovery under `bridge` and `host`: names that lead to the host's address, wherever that is.

use std::process::Command;

use serde_json::{Value, json};

use super::host::Host;
use super::modes;
use super::names::look_up;
use super::network::Outside;
use super::service_discovery::{addresses, id, idle, local, of_family, read_again, start};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "under_bridge_and_host_srv_records_lead_to_ports_of_the_hosts",
        Needs::Kernel,
        ports_of_the_hosts,
    ),
    Case(
        "an_uplink_that_is_down_takes_no_task_out_of_a_service",
        Needs::Kernel,
        uplink_down,
    ),
    Case(
        "under_bridge_and_host_names_lead_to_where_the_host_is_now",
        Needs::Kernel,
        the_host_moves,
    ),
];

/// The port and the target of the only SRV record of a name.
fn srv(host: &Host, asking: &str, name: &str) -> (u16, String) {
    let said = look_up(host, asking, &format!("-type=srv {name}"));
    let (_, record) = said
        .split_once("service = 1 1 ")
        .unwrap_or_else(|| panic!("{said}"));
    let mut words = record.split_whitespace();
    let port = words.next().unwrap().parse().unwrap();
    (port, words.next().unwrap().to_owned())
}

/// Where the ways below lead: to half of all addresses, so as to stand beside a default route where the host has one.
const OUTSIDE: &str = "128.0.0.0/1";

/// Gives the host a way to the outside, in place of what is there.
fn uplink() {
    ip(&["route", "replace", OUTSIDE, "via", "192.168.77.2"]);
}

/// Takes the way to the outside away, until it is dropped, also where the host has another: that one is at no moment
/// the way.
struct NoUplink;

impl NoUplink {
    fn new() -> Self {
        ip(&["route", "replace", "unreachable", OUTSIDE]);
        Self
    }
}

impl Drop for NoUplink {
    fn drop(&mut self) {
        uplink();
    }
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}");
}

/// A service that leads to the ports of a family's container.
fn of_port(name: &str, family: &str, port: u16, kinds: &[&str]) -> Value {
    let record = |kind: &&str| json!({"type": kind, "ttl": 10});
    let records: Vec<Value> = kinds.iter().map(record).collect();
    json!({
        "name": name, "family": family, "containerName": "main", "containerPort": port,
        "dnsConfig": {"dnsRecords": records},
    })
}

fn ports_of_the_hosts(host: &Host) {
    let _outside = Outside::new();
    uplink();
    host.services(&local(json!([
        of_port("bridged", "bridged", 80, &["SRV"]),
        of_port("hosted", "hosted", 8080, &["SRV"]),
        of_port("wrong", "hosted", 8080, &["A", "SRV"]),
    ])));
    host.image();
    host.agent();
    let asking = start(host, &idle("api"));
    let hosted = serve(host, "host", "hosted", 8080);
    let target = format!("{}.hosted.local", id(&hosted));
    assert_eq!(srv(host, &asking, "hosted.local"), (8080, target.clone()));
    let found = look_up(host, &asking, &format!("-type=a {target}"));
    assert_eq!(addresses(&found), ["192.168.77.1"], "{found}");
    modes::until_says(host, "192.168.77.1:8080", "hello of main");
    // Under host ECS has no A records, and so registers nothing where some are wanted.
    assert!(look_up(host, &asking, "-type=srv wrong.local").contains("NXDOMAIN"));
    let words = "network mode host, under which ECS has SRV records only";
    assert!(host.agent_log().contains(words), "{}", host.agent_log());

    let bridged = serve(host, "bridge", "bridged", 80);
    let task = host.describe(&bridged);
    let (port, target) = srv(host, &asking, "bridged.local");
    assert_eq!(port, modes::host_port_of(&task, 0), "{task}");
    // It is good for a connection.
    modes::until_says(host, &format!("192.168.77.1:{port}"), "hello of main");
    let url = format!("http://{target}:{port}/");
    let read = ["exec", &asking, "--", "wget", "-q", "-O", "-", &url];
    assert_eq!(host.succeed(&read), "hello of main\n");
    for task in [&hosted, &bridged, &asking] {
        modes::stop(host, task);
    }
    assert!(
        !host
            .agent_log()
            .contains("task isn't registered: it has network mode bridge")
    );
}

/// The addresses that the target of a service's SRV record has.
fn addresses_of(host: &Host, asking: &str, service: &str) -> Vec<String> {
    let (_, target) = srv(host, asking, service);
    let found = look_up(host, asking, &format!("-type=a {target}"));
    addresses(&found).into_iter().map(str::to_owned).collect()
}

/// Starts a task of that family, which serves at this port.
fn serve(host: &Host, mode: &str, family: &str, port: u16) -> String {
    let server = modes::server("main", port, json!([{"containerPort": port}]));
    let definition = of_family(family, modes::definition(mode, json!([server])));
    let task = modes::start(host, &definition);
    host.wait_status(&task, "RUNNING");
    task
}

fn uplink_down(host: &Host) {
    let _outside = Outside::new();
    uplink();
    let [old, new] = [("old", 8080), ("new", 8081)];
    let of = |(family, port)| of_port(family, family, port, &["SRV"]);
    let file = local(json!([of(old), of(new)]));
    host.services(&file);
    host.image();
    host.agent();
    let asking = start(host, &idle("api"));
    let first = serve(host, "host", old.0, old.1);
    let none = NoUplink::new();
    let second = serve(host, "host", new.0, new.1);
    read_again(host, &file, "services=2");
    for service in ["old.local", "new.local"] {
        assert_eq!(addresses_of(host, &asking, service), ["192.168.77.1"]);
    }
    // Whoever doesn't know where the host was has to wait, and the log says what for.
    host.kill_agent();
    host.agent();
    assert!(look_up(host, &asking, "-type=srv old.local").contains("NXDOMAIN"));
    let words = "isn't registered: the host has no address to the outside yet";
    assert!(host.agent_log().contains(words), "{}", host.agent_log());
    drop(none);
    host.until("the task is registered", || {
        !look_up(host, &asking, "-type=srv old.local").contains("NXDOMAIN")
    });
    assert_eq!(addresses_of(host, &asking, "old.local"), ["192.168.77.1"]);
    for task in [&first, &second, &asking] {
        modes::stop(host, task);
    }
}

fn the_host_moves(host: &Host) {
    let _outside = Outside::new();
    uplink();
    let of = |(family, port)| of_port(family, family, port, &["SRV"]);
    let [hosted, bridged] = [("hosted", 8080), ("bridged", 80)];
    host.services(&local(json!([of(hosted), of(bridged)])));
    host.image();
    host.agent();
    let asking = start(host, &idle("api"));
    let hosted = serve(host, "host", hosted.0, hosted.1);
    let bridged = serve(host, "bridge", bridged.0, bridged.1);
    let found = || ["hosted.local", "bridged.local"].map(|name| addresses_of(host, &asking, name));
    assert_eq!(found(), [["192.168.77.1"]; 2]);
    ip(&["address", "add", "192.168.77.9/32", "dev", "up0"]);
    let from_there = ["via", "192.168.77.2", "src", "192.168.77.9"];
    ip(&[&["route", "replace", OUTSIDE][..], &from_there].concat());
    host.until("names lead to the new address", || {
        found() == [["192.168.77.9"]; 2]
    });
    // The kernel takes the route away with its address.
    ip(&["address", "delete", "192.168.77.9/32", "dev", "up0"]);
    uplink();
    host.until("names lead to the old address", || {
        found() == [["192.168.77.1"]; 2]
    });
    for task in [&hosted, &bridged, &asking] {
        modes::stop(host, task);
    }
}
