//! What a definition says of a container's names: `links`, `hostname`, `extraHosts`, `dnsServers`, `dnsSearchDomains`
//! and `disableNetworking`.

use serde_json::{Value, json};

use super::host::Host;
use super::modes::{
    address_of, container, definition, inside, metadata, metadata_address, server, start, stop,
};
use super::names::{Answering, look_up_in};
use super::network::Outside;
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "a_container_finds_those_that_it_is_linked_to_and_starts_after_them",
        Needs::Kernel,
        links,
    ),
    Case(
        "under_bridge_hosts_and_resolvers_are_the_definitions",
        Needs::Kernel,
        under_bridge,
    ),
    Case(
        "under_host_they_come_beside_the_hosts_own",
        Needs::Kernel,
        under_host,
    ),
    Case(
        "a_container_without_networking_has_its_loopback_in_every_mode",
        Needs::Kernel,
        disabled,
    ),
];

/// A container that waits, with these members too.
fn waiting(name: &str, members: Value) -> Value {
    let mut container = container(name, json!([]), "trap exit TERM; sleep 9999 & wait");
    let map = container.as_object_mut().unwrap();
    map.extend(members.as_object().unwrap().clone());
    container
}

fn links(host: &Host) {
    host.image();
    host.agent();
    let mut db = server("db", 80, json!([]));
    db["hostname"] = json!("db1");
    let web = waiting(
        "web",
        json!({"links": ["db:database", "cache", "cache:db1"]}),
    );
    let cache = server("cache", 80, json!([]));
    let arn = start(host, &definition("bridge", json!([web, db, cache])));
    let task = host.wait_status(&arn, "RUNNING");
    let [web, db, cache] = [0, 1, 2].map(|i| address_of(&task, i));
    let name = |address: &str| format!("ip-{}.ec2.internal", address.replace('.', "-"));
    let of_cache = name(&cache);
    // What is one's hostname or name is another's alias, if a link says so.
    assert_eq!(
        inside(host, &arn, "web", "cat /etc/hosts"),
        format!(
            "127.0.0.1 localhost\n{db} database db\n{cache} cache {of_cache}\n{cache} db1 {of_cache}\n{web} {}\n",
            name(&web)
        )
    );
    for (other, names) in [
        ("db", &["database", "db"][..]),
        ("cache", &["cache", "db1"]),
    ] {
        for name in names {
            let ask = format!("timeout 5 wget -q -O - http://{name}/ || true");
            host.until(&format!("{name} answers"), || {
                inside(host, &arn, "web", &ask) == format!("hello of {other}\n")
            });
        }
    }
    // The other way round nobody knows of it.
    let hosts = inside(host, &arn, "db", "cat /etc/hosts");
    assert_eq!(hosts, format!("127.0.0.1 localhost\n{db} db1\n"));
    let started = |container: &str| {
        let address = metadata_address(host, &arn, container);
        let document = metadata(host, &arn, container, &address);
        // Without the zone, so that fractions of any length compare as text.
        let moment = document["StartedAt"].as_str().unwrap();
        moment.trim_end_matches('Z').to_owned()
    };
    let (web, others) = (started("web"), ["db", "cache"].map(started));
    assert!(others.iter().all(|other| *other <= web), "{others:?} {web}");
    stop(host, &arn);
}

/// What a container says of its names.
const TELL: &str = "hostname; echo $HOSTNAME; cat /etc/hostname /etc/hosts /etc/resolv.conf";

fn under_bridge(host: &Host) {
    let outside = Outside::new();
    let _server = Answering::start(outside.socket("192.168.77.2:53"));
    host.image();
    host.agent();
    let said = json!({
        "hostname": "web.example",
        "extraHosts": [{"hostname": "old_db", "ipAddress": "127.0.0.1"}, {"hostname": "six", "ipAddress": "2001:db8::7"}],
        "dnsServers": ["192.168.77.2"],
        "dnsSearchDomains": ["dev.example", "example"],
    });
    let mut serving = server("main", 80, json!([]));
    let map = serving.as_object_mut().unwrap();
    map.extend(said.as_object().unwrap().clone());
    let arn = start(host, &definition("bridge", json!([serving])));
    let task = host.wait_status(&arn, "RUNNING");
    let own = address_of(&task, 0);
    assert_eq!(
        inside(host, &arn, "main", TELL),
        format!(
            "web.example\nweb.example\nweb.example\n\
             127.0.0.1 localhost\n127.0.0.1 old_db\n2001:db8::7 six\n{own} web.example web\n\
             nameserver 192.168.77.2\nsearch dev.example example\n"
        )
    );
    // They count for the C library.
    for name in ["old_db", "web", "web.example"] {
        let ask = format!("timeout 5 wget -q -O - http://{name}/ || true");
        host.until(&format!("{name} answers"), || {
            inside(host, &arn, "main", &ask) == "hello of main\n"
        });
    }
    // And that server is who is asked.
    let found = look_up_in(host, &arn, "main", "-type=a www.example.com");
    assert!(found.contains("Address:\t192.168.77.2:53"), "{found}");
    assert!(found.contains("Address: 198.51.100.7"), "{found}");
    stop(host, &arn);
}

fn under_host(host: &Host) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let own_name = read("/proc/sys/kernel/hostname");
    host.image();
    host.agent();
    let said = json!({
        "hostname": "web",
        "extraHosts": [{"hostname": "old_db", "ipAddress": "127.0.0.1"}],
        "dnsServers": ["192.0.2.53"],
        "dnsSearchDomains": ["dev.example"],
    });
    let said = waiting("said", said);
    let unsaid = waiting("unsaid", json!({}));
    let arn = start(host, &definition("host", json!([said, unsaid])));
    host.wait_status(&arn, "RUNNING");
    let told = inside(host, &arn, "said", TELL);
    let hosts = read("/etc/hosts");
    let head = format!("web\nweb\nweb\n127.0.0.1 old_db\n{hosts}");
    assert!(told.starts_with(&head), "{told}");
    let resolvers = told.split_at(head.len()).1;
    assert_eq!(resolvers.matches("nameserver").count(), 1, "{told}");
    let tail = "nameserver 192.0.2.53\nsearch dev.example\n";
    assert!(resolvers.ends_with(tail), "{told}");
    let files = "cat /etc/hosts /etc/resolv.conf; hostname";
    assert_eq!(
        inside(host, &arn, "unsaid", files),
        hosts + &read("/etc/resolv.conf") + &own_name
    );
    assert_eq!(read("/proc/sys/kernel/hostname"), own_name);
    stop(host, &arn);
}

fn disabled(host: &Host) {
    host.image();
    host.agent();
    for mode in ["bridge", "host"] {
        let networked = waiting("networked", json!({}));
        let alone = waiting("alone", json!({"disableNetworking": true}));
        let arn = start(host, &definition(mode, json!([networked, alone])));
        let task = host.wait_status(&arn, "RUNNING");
        assert_eq!(task["containers"][1]["networkInterfaces"], json!([]));
        let looks = "ls /sys/class/net; env | grep -c ECS_CONTAINER; cat /etc/resolv.conf";
        assert_eq!(inside(host, &arn, "alone", looks), "lo\n0\n", "{mode}");
        let ids = inside(host, &arn, "alone", "awk '{ print $3 }' /proc/self/uid_map");
        assert_eq!(ids, "65536\n", "{mode}");
        // Its neighbour has what the mode gives.
        let address = metadata_address(host, &arn, "networked");
        let whole = metadata(host, &arn, "networked", &format!("{address}/task"));
        let networks = |i: usize| &whole["Containers"][i]["Networks"][0]["NetworkMode"];
        assert_eq!((networks(0), networks(1)), (&json!(mode), &json!("none")));
        stop(host, &arn);
    }
}
