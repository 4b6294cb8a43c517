//! The files in `/etc`, as a definition has a say in them.

use serde_json::json;

use super::*;
use crate::task_definition::TaskDefinition;

fn interface() -> AttachedEni {
    AttachedEni {
        id_range: None,
        mac: "02:00:00:00:00:01".into(),
        address: "10.231.0.4".parse().unwrap(),
        subnet_cidr: "10.231.0.0/24".into(),
        gateway: "10.231.0.1".parse().unwrap(),
        private_dns_name: "ip-10-231-0-4.ec2.internal".into(),
        domain_name_servers: vec!["10.231.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        domain_name_search_list: vec!["ec2.internal".into(), "b.example".into()],
        ipv6: None,
    }
}

/// What a definition may say of names.
fn naming() -> Naming {
    let definition = TaskDefinition::from_request(json!({
        "family": "f", "memory": "64", "containerDefinitions": [{
            "name": "c", "image": "i", "hostname": "web.example",
            "extraHosts": [{"hostname": "db", "ipAddress": "10.0.0.9"}, {"hostname": "db6", "ipAddress": "fd00::9"}],
            "dnsServers": ["9.9.9.9", "2620:fe::fe"], "dnsSearchDomains": ["a.example", "b.example"],
        }]
    }));
    definition.unwrap().container_definitions.remove(0).naming
}

#[test]
fn the_files_of_etc_tell_the_interfaces_names_and_resolvers() {
    let mut eni = interface();
    let expected = Etc {
        hostname: "ip-10-231-0-4.ec2.internal".into(),
        hosts: "127.0.0.1 localhost\n10.231.0.4 ip-10-231-0-4.ec2.internal\n".into(),
        resolv_conf: "nameserver 10.231.0.2\nnameserver fd00::2\nsearch ec2.internal b.example\n"
            .into(),
    };
    let none = Naming::default();
    assert_eq!(Etc::of_interface(&eni, &none, ""), expected);
    eni.domain_name_search_list.clear();
    let without = Etc::of_interface(&eni, &none, "");
    assert!(!without.resolv_conf.contains("search"));
}

#[test]
fn what_a_definition_says_stands_in_place_of_the_interfaces() {
    let expected = Etc {
        hostname: "web.example".into(),
        hosts: "127.0.0.1 localhost\n10.0.0.9 db\nfd00::9 db6\n10.231.0.5 cache\n10.231.0.4 web.example web\n".into(),
        resolv_conf: "nameserver 9.9.9.9\nnameserver 2620:fe::fe\nsearch a.example b.example\n"
            .into(),
    };
    let linked = "10.231.0.5 cache\n";
    assert_eq!(Etc::of_interface(&interface(), &naming(), linked), expected);
    let servers_only = Naming {
        dns_search_domains: Vec::new(),
        ..naming()
    };
    let etc = Etc::of_interface(&interface(), &servers_only, "");
    assert!(etc.resolv_conf.ends_with("search ec2.internal b.example\n"));
}

#[test]
fn without_a_network_a_name_that_was_given_is_its_own_loopback() {
    let etc = Etc::without_network("0123456789abcdef", &Naming::default());
    assert_eq!(etc.hostname, "0123456789ab");
    assert_eq!(etc.hosts, "127.0.0.1 localhost\n");
    assert_eq!(etc.resolv_conf, "");
    let etc = Etc::without_network("0123456789abcdef", &naming());
    assert_eq!(etc.hostname, "web.example");
    assert!(etc.hosts.ends_with("\n127.0.0.1 web.example web\n"));
    assert!(etc.resolv_conf.starts_with("nameserver 9.9.9.9\n"));
}

#[test]
fn of_the_hosts_resolver_only_what_was_asked_for_is_replaced() {
    let host = "# by hand\ndomain corp.example\n nameserver 10.0.0.2\noptions ndots:2\nsearch corp.example";
    assert_eq!(instead_of(host, &Naming::default()), host);
    let servers = Naming {
        dns_search_domains: Vec::new(),
        ..naming()
    };
    assert_eq!(
        instead_of(host, &servers),
        "# by hand\ndomain corp.example\noptions ndots:2\nsearch corp.example\n\
         nameserver 9.9.9.9\nnameserver 2620:fe::fe\n"
    );
    let domains = Naming {
        dns_servers: Vec::new(),
        ..naming()
    };
    assert_eq!(
        instead_of(host, &domains),
        "# by hand\n nameserver 10.0.0.2\noptions ndots:2\nsearch a.example b.example\n"
    );
}
