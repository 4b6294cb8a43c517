//! Without the firewall's rules nothing is forwarded; with them, the routing policy is in nobody's way.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpStream, UdpSocket};
use std::process::Command;

use berth_netns::{Network, Subnet};

use crate::Case;
use crate::firewall::plain;
use crate::leaks::{nft, nft_at_last};
use crate::world::{
    HOST, OUTSIDE, OUTSIDE6, PATIENCE, Reached, Task, World, briefly, connect, inside, listen_in,
    receive,
};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "without_rules_nothing_passes_between_tasks_and_others",
            nothing_passes_without_rules,
        ),
        (
            "an_interface_can_be_detached_without_rules",
            detached_without_tables,
        ),
        (
            "without_rules_and_process_nothing_passes_either",
            nothing_passes_without_a_process,
        ),
        (
            "a_connection_outlives_a_moment_without_rules",
            a_connection_outlives_the_gap,
        ),
        (
            "a_host_that_checks_sources_forwards_all_the_same",
            sources_are_checked_on_the_uplink,
        ),
        (
            "other_rules_of_the_routing_policy_stay_in_force",
            other_policy_rules_hold,
        ),
        ("other_bits_of_a_mark_stay", other_bits_stay),
        (
            "rules_of_subnets_that_are_gone_go_too",
            rules_follow_the_subnets,
        ),
    ]
}

fn remove_rules() {
    nft_at_last(&["delete", "table", "inet", "berth"]);
    nft(&["delete", "table", "bridge", "berth"]);
}

/// Datagrams that arrive although nothing may.
fn stray(from: &UdpSocket, to: &UdpSocket) -> Option<Vec<u8>> {
    let address = to.local_addr().expect("bound");
    from.send_to(b"stray", address).ok();
    receive(to)
}

fn expect_closed(world: &World, one: &Task, two: &Task) {
    let outsides: [IpAddr; 2] = [OUTSIDE.into(), OUTSIDE6.into()];
    for (family, address) in outsides.into_iter().enumerate() {
        let outside = inside(&world.outside, || {
            UdpSocket::bind((address, 0)).expect("bound")
        });
        let _listener = listen_in(&world.outside, address, 80);
        let (own, theirs) = (one.addresses()[family], two.addresses()[family]);
        let (from, to) = (one.udp(own, 0), two.udp(theirs, 0));
        assert_eq!(stray(&from, &to), None, "from task to task: {theirs}");
        assert_eq!(stray(&from, &outside), None, "to outside: {address}");
        assert_eq!(stray(&outside, &to), None, "from outside: {theirs}");
        assert_eq!(one.connect(theirs, 80), Reached::Silence);
        assert_eq!(one.connect(address, 80), Reached::Silence);
        let reached = inside(&world.outside, || connect(theirs, 80));
        assert_eq!(reached, Reached::Silence);
    }
}

fn nothing_passes_without_rules(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(Ipv6Addr::UNSPECIFIED, 80);
    for address in two.addresses() {
        assert_eq!(one.connect(address, 80), Reached::Yes);
    }
    remove_rules();
    expect_closed(world, &one, &two);
    // The host's own traffic needs no rules, and isn't kept from tasks or from the host by those of the policy.
    for address in two.addresses() {
        assert_eq!(connect(address, 80), Reached::Yes, "{address}");
    }
    assert_eq!(one.connect(HOST, 80), Reached::Refused);
    assert!(network.restore_firewall().expect("restored"));
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    assert_eq!(one.connect(HOST, 80), Reached::Silence);
    one.detach(&network);
    two.detach(&network);
}

fn detached_without_tables(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let task = Task::attach(&network, 1);
    remove_rules();
    task.detach(&network);
    assert!(
        nft(&["list", "tables"]).contains("inet berth"),
        "they are back"
    );
    Task::attach(&network, 1).detach(&network);
}

fn nothing_passes_without_a_process(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    drop(network);
    assert_eq!(
        one.connect(two.address, 80),
        Reached::Yes,
        "the rules outlive it"
    );
    remove_rules();
    expect_closed(world, &one, &two);
    let network = world.network();
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    one.detach(&network);
    two.detach(&network);
}

fn a_connection_outlives_the_gap(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    let listener = two.listen(two.address, 80);
    let address = (two.address, 80);
    let mut client = inside(&one.netns, || {
        TcpStream::connect(address).expect("connected")
    });
    let (mut server, _) = listener.accept().expect("accepted");
    let mut byte = [0];
    remove_rules();
    client.write_all(b"x").expect("queued");
    let wait = |server: &TcpStream, patience| {
        server.set_read_timeout(Some(patience)).expect("a timeout");
    };
    wait(&server, briefly());
    assert!(server.read(&mut byte).is_err(), "it passed");
    network.restore_firewall().expect("restored");
    wait(&server, PATIENCE);
    server.read_exact(&mut byte).expect("it passes");
    drop((client, server, listener));
    one.detach(&network);
    two.detach(&network);
}

fn sources_are_checked_on_the_uplink(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let _listener = listen_in(&world.outside, OUTSIDE, 80);
    for strictness in ["0", "1", "2"] {
        std::fs::write("/proc/sys/net/ipv4/conf/uplink/rp_filter", strictness).expect("written");
        assert_eq!(
            task.connect(OUTSIDE, 80),
            Reached::Yes,
            "rp_filter={strictness}"
        );
    }
    task.detach(&network);
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("ip runs").success(), "ip {arguments}");
}

fn other_policy_rules_hold(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    assert_eq!(one.connect(OUTSIDE, 80), Reached::Refused);
    ip(&format!(
        "rule add pref 5210 from {} to {OUTSIDE} blackhole",
        one.address
    ));
    assert_eq!(one.connect(OUTSIDE, 80), Reached::Silence);
    assert_eq!(two.connect(OUTSIDE, 80), Reached::Refused);
    // The host's own packets, too.
    assert_eq!(connect(OUTSIDE, 80), Reached::Refused);
    ip(&format!(
        "rule add pref 5211 from all to {OUTSIDE} blackhole"
    ));
    assert_eq!(connect(OUTSIDE, 80), Reached::NoRoute);
    one.detach(&network);
    two.detach(&network);
}

fn other_bits_stay(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    for rule in [
        "add table ip other",
        "add chain ip other before { type filter hook prerouting priority -150; }",
        "add rule ip other before meta mark set 5",
        "add chain ip other after { type filter hook postrouting priority 0; }",
        "add rule ip other after meta mark != 0x8000005 drop",
    ] {
        nft(&[rule]);
    }
    // The host's own packets have no mark at all.
    nft(&["insert rule ip other after fib saddr type local accept"]);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    nft(&["delete table ip other"]);
    one.detach(&network);
    two.detach(&network);
}

fn rules_follow_the_subnets(world: &World) {
    let rules = || {
        let mut socket = berth_netns::netlink::RouteSocket::open().expect("a socket");
        let rules = socket.policy_rules().expect("readable");
        let mut ranges: Vec<String> = rules
            .iter()
            .filter_map(|rule| rule.to.map(|to| to.to_string()))
            .collect();
        ranges.sort();
        (rules.len(), ranges)
    };
    let subnet = |number: u32, range: &str| {
        let id = format!("subnet-{number:017x}").parse().expect("valid");
        let range = range.parse().expect("a network");
        Subnet::new(id, range, &format!("berth{number}")).expect("valid")
    };
    let mut config = world.config();
    config.subnets = vec![subnet(1, "10.231.0.0/24")];
    drop(Network::open(config.clone()).expect("opened"));
    assert_eq!(rules(), (4, vec!["10.231.0.0/24".to_owned()]));
    let other = subnet(2, "10.9.8.0/24");
    config.subnets.push(other.clone());
    drop(Network::open(config.clone()).expect("opened"));
    let both = vec!["10.231.0.0/24".to_owned(), "10.9.8.0/24".to_owned()];
    assert_eq!(rules(), (5, both));
    let all = config.clone();
    config.subnets = vec![other];
    drop(Network::open(config.clone()).expect("opened"));
    assert_eq!(rules(), (4, vec!["10.9.8.0/24".to_owned()]));
    // Of IPv6 a range has two, one for each end, beside the three that let others pass.
    let ipv6 = Subnet::default_subnet().ipv6_cidr().expect("dual stack");
    let both = subnet(1, "10.231.0.0/24").with_ipv6(ipv6);
    config.subnets = vec![both.expect("valid")];
    drop(Network::open(config.clone()).expect("opened"));
    let ranges = ["10.231.0.0/24", "fd62:6572:7468::/64"].map(str::to_owned);
    assert_eq!(rules(), (9, ranges.into()));
    Network::undo(&all).expect("undone");
    assert_eq!(rules(), (0, Vec::new()));
}
