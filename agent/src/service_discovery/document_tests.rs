use serde_json::json;

use super::*;

fn zones() -> Zones {
    Zones::new("ec2.internal", &["8.8.8.0/24".parse().unwrap()]).unwrap()
}

fn read(file: &Value) -> Result<ServiceDiscovery, String> {
    parse(file.to_string().as_bytes(), &zones()).map_err(|error| error.to_string())
}

/// A file with one namespace and one service, which has A, AAAA and SRV records.
fn file() -> Value {
    json!({"namespaces": [{"name": "local", "services": [{
        "name": "db",
        "dnsConfig": {
            "routingPolicy": "WEIGHTED",
            "dnsRecords": [
                {"type": "A", "ttl": 10}, {"type": "AAAA", "ttl": 0}, {"type": "SRV", "ttl": 2_147_483_647},
            ],
        },
        "healthCheckCustomConfig": {"failureThreshold": 1},
        "family": "postgres", "containerName": "db", "containerPort": 5432,
    }]}]})
}

const SERVICE: &str = "/namespaces/0/services/0";

/// What is said of the file with one member of another value.
fn refusal(pointer: &str, name: &str, value: Value) -> String {
    let mut file = file();
    file.pointer_mut(pointer).unwrap()[name] = value;
    read(&file).unwrap_err()
}

#[test]
fn a_file_is_read_into_services_with_their_whole_names() {
    let read = read(&file()).unwrap();
    let name = |text: &str| absolute(text).unwrap();
    assert_eq!(read.namespaces, [name("local")]);
    let service = Service {
        name: name("db.local"),
        routing_policy: RoutingPolicy::Weighted,
        a: Some(10),
        aaaa: Some(0),
        srv: Some(Srv {
            ttl: 2_147_483_647,
            port: Port::Container {
                name: "db".into(),
                port: 5432,
            },
        }),
        family: "postgres".into(),
    };
    assert_eq!(read.services_of("postgres"), [service]);
    assert_eq!(read.services_of("mysql"), []);
}

#[test]
fn what_need_not_be_there_has_cloud_maps_defaults() {
    let nothing = ServiceDiscovery::default();
    for empty in [
        json!({}),
        json!({"namespaces": []}),
        json!({"namespaces": null}),
    ] {
        assert_eq!(read(&empty), Ok(nothing.clone()));
    }
    let mut file = file();
    file["namespaces"][0]["services"] = json!([{
        "name": "_db._tcp", "family": "f", "dnsConfig": {"dnsRecords": [{"type": "SRV", "ttl": 1}]}, "port": 1,
        "healthCheckCustomConfig": {},
    }]);
    let read = read(&file).unwrap();
    let service = &read.services_of("f")[0];
    assert_eq!(service.name.to_string(), "_db._tcp.local.");
    assert_eq!(service.routing_policy, RoutingPolicy::Multivalue);
    assert_eq!(service.srv.as_ref().unwrap().port, Port::Number(1));
    assert_eq!((service.a, service.aaaa), (None, None));
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_what_would_be_right() {
    let dns = format!("{SERVICE}/dnsConfig");
    let record = format!("{dns}/dnsRecords/0");
    let service = "namespaces[0].services[0]";
    for (pointer, name, value, words) in [
        ("", "services", json!([]), "services is not supported"),
        (
            "",
            "namespaces",
            json!({"a": 1}),
            "namespaces is an object; it must be a list",
        ),
        (
            SERVICE,
            "healthCheckConfig",
            json!(null),
            "healthCheckConfig is not supported",
        ),
        (SERVICE, "family", json!(""), "family is missing or empty"),
        (SERVICE, "dnsConfig", json!({}), "dnsConfig is missing"),
        (
            SERVICE,
            "healthCheckCustomConfig",
            json!({"failureThreshold": 11}),
            "failureThreshold is 11; it must be between 1 and 10",
        ),
        (
            SERVICE,
            "containerPort",
            json!(65_536),
            "containerPort is 65536; it must be between 1 and 65535",
        ),
        (
            &dns,
            "routingPolicy",
            json!("LATENCY"),
            "routingPolicy is 'LATENCY'; it must be MULTIVALUE or WEIGHTED",
        ),
        (
            &dns,
            "dnsRecords",
            json!([]),
            "dnsRecords is missing or empty",
        ),
        (
            &record,
            "type",
            json!("CNAME"),
            "dnsRecords[0].type is 'CNAME'; it must be A, AAAA or SRV",
        ),
        (
            &record,
            "type",
            json!("SRV"),
            "dnsRecords[2].type is that of an earlier record",
        ),
        (
            &record,
            "ttl",
            json!(-1),
            "ttl is -1; it must be between 0 and 2147483647",
        ),
        (&record, "ttl", json!(null), "ttl is missing"),
    ] {
        let said = refusal(pointer, name, value);
        assert!(said.contains(words), "{said}");
        assert!(pointer.is_empty() || said.starts_with(service), "{said}");
    }
    for text in ["[]", "7", "{"] {
        assert!(parse(text.as_bytes(), &zones()).is_err(), "{text}");
    }
}

#[test]
fn srv_records_have_a_port_in_one_of_two_ways_and_others_have_none() {
    let read_ports = |kind: &str, ports: Value| {
        let mut service = ports;
        service["name"] = json!("db");
        service["family"] = json!("f");
        service["dnsConfig"] = json!({"dnsRecords": [{"type": kind, "ttl": 1}]});
        read(&json!({"namespaces": [{"name": "local", "services": [service]}]}))
    };
    for (kind, ports) in [
        ("A", json!({})),
        ("AAAA", json!({})),
        ("SRV", json!({"port": 80})),
        ("SRV", json!({"containerName": "c", "containerPort": 80})),
    ] {
        assert!(read_ports(kind, ports.clone()).is_ok(), "{kind} {ports}");
    }
    for (kind, ports, words) in [
        (
            "A",
            json!({"containerPort": 80}),
            "containerPort is told by SRV",
        ),
        (
            "A",
            json!({"containerName": "c"}),
            "containerName is told by SRV",
        ),
        ("AAAA", json!({"port": 80}), "port is told by SRV"),
        ("SRV", json!({}), "SRV records need containerName"),
        (
            "SRV",
            json!({"containerName": "c"}),
            "containerPort is missing",
        ),
        (
            "SRV",
            json!({"containerPort": 80}),
            "containerName is missing",
        ),
        (
            "SRV",
            json!({"port": 80, "containerPort": 80}),
            "it must be either",
        ),
    ] {
        let said = read_ports(kind, ports).unwrap_err();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_namespace_leaves_alone_what_has_a_meaning_already() {
    let with = |name: &str| refusal("/namespaces/0", "name", json!(name));
    for (name, taken) in [
        ("ec2.internal", "the zone ec2.internal"),
        ("a.EC2.internal", "the zone ec2.internal"),
        ("localhost", "localhost"),
        ("a.LocalHost", "localhost"),
        ("10.in-addr.arpa", "arpa"),
        ("8.in-addr.arpa", "arpa"),
        ("arpa", "arpa"),
        ("invalid", "the zone invalid"),
        ("x.onion", "the zone onion"),
    ] {
        let said = with(name);
        let words = format!(
            "namespaces[0].name is '{name}'; it must be a domain outside {taken}, which has a meaning already"
        );
        let zone = "the zone of reverse names, arpa";
        assert!(
            said == words || said == words.replace("arpa, which", &format!("{zone}, which")),
            "{said}"
        );
    }
    for name in [
        "",
        ".",
        "local.",
        "-a",
        "a-",
        "a..b",
        "a b",
        "é",
        "*",
        &"x".repeat(64),
    ] {
        assert!(with(name).starts_with("namespaces[0].name"), "{name}");
    }
    let mut above = file();
    above["namespaces"][0]["name"] = json!("internal");
    assert!(read(&above).is_ok());
    above["namespaces"][0]["services"][0]["name"] = json!("x.ec2");
    let said = read(&above).unwrap_err();
    assert!(
        said.contains("makes 'x.ec2.internal', which is in the zone ec2.internal"),
        "{said}"
    );
}

#[test]
fn no_two_have_the_same_name_and_none_hides_another() {
    let mut twice = file();
    let service = twice["namespaces"][0]["services"][0].clone();
    let mut other = service.clone();
    other["name"] = json!("DB");
    twice["namespaces"][0]["services"] = json!([service, other]);
    let said = read(&twice).unwrap_err();
    assert!(
        said.starts_with("namespaces[0].services[1].name makes 'DB.local'"),
        "{said}"
    );

    let namespaces = |first: &str, second: &str, name: &str| {
        let mut service = service.clone();
        service["name"] = json!(name);
        let namespaces = json!([
            {"name": first, "services": [service]},
            {"name": second},
        ]);
        read(&json!({ "namespaces": namespaces }))
    };
    let said = namespaces("local", "LOCAL", "db").unwrap_err();
    assert!(
        said.starts_with("namespaces[1].name is 'LOCAL', as that"),
        "{said}"
    );
    assert!(namespaces("local", "dev.local", "db").is_ok());
    let said = namespaces("local", "dev.local", "db.dev").unwrap_err();
    assert!(said.contains("in the zone dev.local"), "{said}");
}

#[test]
fn the_names_of_instances_have_room() {
    let label = "x".repeat(50);
    let long = [label.as_str(); 2].join(".");
    let with = |namespace: usize| {
        let mut file = file();
        file["namespaces"][0]["name"] = json!(format!("{label}.{label}.{}", "y".repeat(namespace)));
        file["namespaces"][0]["services"][0]["name"] = json!(long);
        read(&file)
    };
    // 101 characters, a dot, and 102 and these: 220 with those of a task's id make 253.
    assert!(with(16).is_ok());
    let said = with(17).unwrap_err();
    assert!(said.contains("at most 220 characters"), "{said}");
    let said = refusal(SERVICE, "name", json!([label.as_str(); 3].join(".")));
    assert!(said.contains("at most 127 characters"), "{said}");
}
