//! Security groups: whom their rules let pass, and whom they don't.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use berth_netns::{
    Error, METADATA_ADDRESS, METADATA_PORT, Network, NetworkConfig, Peer, Protocol, Rule,
    SecurityGroup, SecurityGroupId,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::Case;
use crate::world::{
    OUTSIDE, PATIENCE, Reached, Task, World, arrives, briefly, inside, listen_in, receive, request,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// IPv4 and IPv6.
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

pub fn cases() -> Vec<Case> {
    vec![
        (
            "a_port_is_open_to_the_group_that_a_rule_names",
            a_port_is_open_to_a_group,
        ),
        (
            "a_port_is_open_to_the_addresses_that_a_rule_names",
            a_port_is_open_to_addresses,
        ),
        (
            "udp_and_icmp_have_rules_of_their_own",
            udp_and_icmp_have_rules_of_their_own,
        ),
        (
            "nothing_leaves_where_no_rule_lets_it",
            nothing_leaves_where_no_rule_lets_it,
        ),
        (
            "several_groups_let_pass_what_any_does",
            several_groups_let_pass_what_any_does,
        ),
        (
            "new_rules_hold_for_new_connections",
            new_rules_hold_for_new_connections,
        ),
        (
            "rules_may_overlap_in_every_way",
            rules_may_overlap_in_every_way,
        ),
        (
            "the_next_process_has_its_own_rules_for_the_same_tasks",
            the_next_process_has_its_own_rules,
        ),
        (
            "nft_shows_the_rules_of_groups",
            nft_shows_the_rules_of_groups,
        ),
        (
            "groups_that_can_not_be_replaced_stay",
            groups_that_can_not_be_replaced_stay,
        ),
        (
            "groups_that_are_not_there_are_refused",
            unknown_groups_are_refused,
        ),
    ]
}

fn id(number: u32) -> SecurityGroupId {
    format!("sg-{number:017x}").parse().expect("valid")
}

fn group(number: u32, ingress: Vec<Rule>) -> SecurityGroup {
    let egress = ["0.0.0.0/0", "::/0"].map(everything);
    SecurityGroup::new(id(number), ingress, egress.into())
}

fn everything(range: &str) -> Rule {
    Rule::everything(Peer::Range(range.parse().expect("a range")))
}

fn tcp(from: i64, to: i64, peer: Peer) -> Rule {
    Rule::new(Protocol::TCP, Some(from), Some(to), peer).expect("valid")
}

fn range(range: &str) -> Peer {
    Peer::Range(range.parse().expect("a range"))
}

fn config(world: &World, groups: Vec<SecurityGroup>) -> NetworkConfig {
    NetworkConfig {
        security_groups: groups,
        ..world.config()
    }
}

fn network(world: &World, groups: Vec<SecurityGroup>) -> Network {
    Network::open(config(world, groups)).expect("the network opens")
}

fn attach(network: &Network, number: u32, groups: &[u32]) -> Task {
    let mut request = request(number);
    request.security_groups = groups.iter().copied().map(id).collect();
    Task::of(&network.attach(&request).expect("attached"))
}

fn detach(network: &Network, tasks: impl IntoIterator<Item = Task>) {
    tasks.into_iter().for_each(|task| task.detach(network));
}

fn a_port_is_open_to_a_group(world: &World) {
    let (database, application, other) = (2, 3, 4);
    let rule = tcp(5432, 5432, Peer::Group(id(application)));
    let groups = vec![
        group(database, vec![rule]),
        group(application, vec![]),
        group(other, vec![]),
    ];
    let network = network(world, groups);
    let server = attach(&network, 1, &[database]);
    let client = attach(&network, 2, &[application]);
    let stranger = attach(&network, 3, &[other]);
    let sibling = attach(&network, 4, &[database]);
    for port in [5432, 5433] {
        server.serve(ANY6, port);
    }
    client.serve(ANY6, 5432);
    for (family, address) in server.addresses().into_iter().enumerate() {
        assert_eq!(client.connect(address, 5432), Reached::Yes, "{address}");
        assert_eq!(client.connect(address, 5433), Reached::Silence);
        assert_eq!(stranger.connect(address, 5432), Reached::Silence);
        assert_eq!(sibling.connect(address, 5432), Reached::Silence);
        let back = server.connect(client.addresses()[family], 5432);
        assert_eq!(back, Reached::Silence);
    }
    detach(&network, [server, client, stranger, sibling]);
}

fn a_port_is_open_to_addresses(world: &World) {
    // The first has both; other addresses begin as its do.
    let ranges = [
        "10.231.0.4/32",
        "fd62:6572:7468::4/127",
        "fd62:6572:7468::/126",
    ];
    let rules = ranges.map(|net| tcp(8000, 8010, range(net))).into();
    let network = network(world, vec![group(2, rules), group(3, vec![])]);
    let first = attach(&network, 1, &[3]);
    let second = attach(&network, 2, &[3]);
    let server = attach(&network, 3, &[2]);
    let third = attach(&network, 4, &[3]);
    assert_eq!(first.address, Ipv4Addr::new(10, 231, 0, 4));
    for port in [7999, 8000, 8010, 8011] {
        server.serve(ANY6, port);
        let within = (8000..=8010).contains(&port);
        let expected = if within {
            Reached::Yes
        } else {
            Reached::Silence
        };
        for address in server.addresses() {
            assert_eq!(first.connect(address, port), expected, "{address} {port}");
        }
        assert_eq!(second.connect(server.address, port), Reached::Silence);
        assert_eq!(third.connect(server.ipv6_address, port), Reached::Silence);
    }
    detach(&network, [first, second, server, third]);
}

/// Whether an echo request is answered in that time, from the calling thread's namespace.
pub fn ping(address: Ipv4Addr, patience: Duration) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC;
    let icmp = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        flags,
        SockProtocol::Icmp,
    );
    let icmp = icmp.expect("everyone may ping");
    let timeout = TimeVal::milliseconds(patience.as_millis().try_into().expect("short"));
    setsockopt(&icmp, ReceiveTimeout, &timeout).expect("a timeout");
    let [a, b, c, d] = address.octets();
    let to = SockaddrIn::new(a, b, c, d, 0);
    // Type 8, code 0; the kernel fills in the rest.
    let request = [8, 0, 0, 0, 0, 0, 0, 1];
    sendto(icmp.as_raw_fd(), &request, &to, MsgFlags::empty()).expect("sent");
    recv(icmp.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_ok()
}

fn udp_and_icmp_have_rules_of_their_own(world: &World) {
    let members = || range("10.231.0.0/24");
    let udp = Rule::new(Protocol::UDP, Some(5000), Some(5000), members()).expect("valid");
    let echo = Rule::new(Protocol::ICMP, Some(8), Some(-1), members()).expect("valid");
    let timestamp = Rule::new(Protocol::ICMP, Some(13), Some(-1), members()).expect("valid");
    let groups = vec![
        group(2, vec![udp, timestamp]),
        group(3, vec![echo]),
        group(4, vec![]),
    ];
    let network = network(world, groups);
    let talks = attach(&network, 1, &[2]);
    let echoes = attach(&network, 2, &[3]);
    let client = attach(&network, 3, &[4]);
    let (from, to, closed) = (
        client.udp(ANY, 0),
        talks.udp(ANY, 5000),
        talks.udp(ANY, 5001),
    );
    for port in [5000, 5001] {
        from.send_to(b"hello", (talks.address, port)).expect("sent");
    }
    talks.serve(ANY, 5000);
    assert_eq!(arrives(&to).as_deref(), Some(&b"hello"[..]));
    assert_eq!(receive(&closed), None);
    assert_eq!(client.connect(talks.address, 5000), Reached::Silence);
    inside(&client.netns, || {
        let echoed = ping(echoes.address, PATIENCE);
        assert!(echoed, "echo requests are let in");
        let echoed = ping(talks.address, briefly());
        assert!(!echoed, "other types aren't echo requests");
    });
    drop((from, to, closed));
    detach(&network, [talks, echoes, client]);
}

fn nothing_leaves_where_no_rule_lets_it(world: &World) {
    let silent = SecurityGroup::new(id(2), vec![], vec![]);
    let open = group(3, vec![everything("0.0.0.0/0")]);
    let web = tcp(443, 443, range("192.0.2.0/24"));
    let web = SecurityGroup::new(id(4), vec![], vec![web]);
    let network = network(world, vec![silent, open, web]);
    let silent = attach(&network, 1, &[2]);
    let open = attach(&network, 2, &[3]);
    let web = attach(&network, 3, &[4]);
    let _outside = [443, 80].map(|port| listen_in(&world.outside, OUTSIDE, port));
    open.serve(ANY, 443);
    let _endpoint = std::net::TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    assert_eq!(silent.connect(OUTSIDE, 443), Reached::Silence);
    assert_eq!(silent.connect(open.address, 443), Reached::Silence);
    assert_eq!(silent.connect(METADATA_ADDRESS, 80), Reached::Yes);
    assert_eq!(web.connect(OUTSIDE, 443), Reached::Yes);
    assert_eq!(web.connect(OUTSIDE, 80), Reached::Silence);
    assert_eq!(web.connect(open.address, 443), Reached::Silence);
    assert_eq!(open.connect(OUTSIDE, 80), Reached::Yes);
    detach(&network, [silent, open, web]);
}

fn several_groups_let_pass_what_any_does(world: &World) {
    let groups = vec![
        group(2, vec![tcp(80, 80, Peer::Group(id(4)))]),
        group(3, vec![tcp(81, 81, Peer::Group(id(5)))]),
        group(4, vec![]),
        group(5, vec![]),
    ];
    let network = network(world, groups);
    let server = attach(&network, 1, &[2, 3]);
    let both = attach(&network, 2, &[5, 4]);
    let one = attach(&network, 3, &[4]);
    for port in [80, 81] {
        server.serve(ANY, port);
        assert_eq!(both.connect(server.address, port), Reached::Yes, "{port}");
    }
    assert_eq!(one.connect(server.address, 80), Reached::Yes);
    assert_eq!(one.connect(server.address, 81), Reached::Silence);
    detach(&network, [server, both, one]);
}

fn new_rules_hold_for_new_connections(world: &World) {
    let open = || group(2, vec![tcp(80, 80, Peer::Group(id(2)))]);
    let network = network(world, vec![open()]);
    let server = attach(&network, 1, &[2]);
    let client = attach(&network, 2, &[2]);
    let listener = server.listen(ANY, 80);
    let (address, netns) = (server.address, &client.netns);
    let mut here = inside(netns, || {
        TcpStream::connect((address, 80)).expect("connected")
    });
    let (mut there, _) = listener.accept().expect("a connection");
    network
        .set_security_groups(&[group(2, vec![])])
        .expect("set");
    here.write_all(b"still").expect("written");
    let mut word = [0; 5];
    there.read_exact(&mut word).expect("read");
    assert_eq!(&word, b"still");
    assert_eq!(client.connect(server.address, 80), Reached::Silence);
    network.set_security_groups(&[open()]).expect("set");
    assert_eq!(client.connect(server.address, 80), Reached::Yes);
    network.set_security_groups(&[]).expect("set");
    assert_eq!(client.connect(server.address, 80), Reached::Silence);
    drop((here, there, listener));
    detach(&network, [server, client]);
}

fn rules_may_overlap_in_every_way(world: &World) {
    let rules = vec![
        tcp(80, 80, range("0.0.0.0/0")),
        tcp(0, 1000, range("10.231.0.0/24")),
        tcp(80, 90, range("10.231.0.4/32")),
        tcp(85, 2000, range("10.231.0.4/31")),
        tcp(80, 80, range("0.0.0.0/0")),
        tcp(90, 91, Peer::Group(id(3))),
        tcp(91, 95, Peer::Group(id(3))),
        everything("192.0.2.0/24"),
        everything("192.0.2.2/32"),
    ];
    let network = network(world, vec![group(2, rules), group(3, vec![])]);
    let client = attach(&network, 1, &[3]);
    let server = attach(&network, 2, &[2]);
    for (port, expected) in [
        (80, Reached::Yes),
        (85, Reached::Yes),
        (95, Reached::Yes),
        (1000, Reached::Yes),
        (2000, Reached::Yes),
        (2001, Reached::Silence),
    ] {
        server.serve(ANY, port);
        assert_eq!(client.connect(server.address, port), expected, "{port}");
    }
    detach(&network, [client, server]);
}

fn the_next_process_has_its_own_rules(world: &World) {
    let before = network(world, vec![group(2, vec![])]);
    let server = attach(&before, 1, &[2]);
    let client = attach(&before, 2, &[2]);
    server.serve(ANY, 80);
    assert_eq!(client.connect(server.address, 80), Reached::Silence);
    drop(before);
    let rule = tcp(80, 80, Peer::Group(id(2)));
    let after = network(world, vec![group(2, vec![rule])]);
    assert_eq!(client.connect(server.address, 80), Reached::Yes);
    after
        .reconcile(&[server.id.clone(), client.id.clone()], &[])
        .expect("reconciled");
    assert_eq!(client.connect(server.address, 80), Reached::Yes);
    detach(&after, [server, client]);
}

fn nft_shows_the_rules_of_groups(world: &World) {
    let echo = Rule::new(Protocol::ICMP, Some(8), Some(-1), range("10.0.0.0/8")).expect("valid");
    let rules = vec![
        tcp(80, 80, range("0.0.0.0/0")),
        tcp(8000, 8010, range("10.231.0.0/24")),
        tcp(5432, 5432, Peer::Group(id(2))),
        echo,
    ];
    let network = network(world, vec![group(2, rules)]);
    let task = attach(&network, 1, &[2]);
    let table = crate::leaks::nft(&["list", "table", "inet", "berth"]);
    for line in [
        "tcp dport 80 counter packets 0 bytes 0 accept",
        "tcp dport 8000-8010 ip saddr 10.231.0.0/24 counter packets 0 bytes 0 accept",
        "ip saddr @members-sg-00000000000000002 counter packets 0 bytes 0 accept",
        "icmp type echo-request ip saddr 10.0.0.0/8 counter packets 0 bytes 0 accept",
        "counter packets 0 bytes 0 goto admitted",
        "ip saddr @policy-",
    ] {
        assert!(table.contains(line), "{line} is not in\n{table}");
    }
    task.detach(&network);
}

fn groups_that_can_not_be_replaced_stay(world: &World) {
    let config = NetworkConfig {
        own_tables: false,
        ..config(world, vec![group(2, vec![])])
    };
    let network = Network::open(config).expect("the network opens");
    crate::leaks::nft(&["delete", "table", "inet", "berth"]);
    network
        .set_security_groups(&[group(3, vec![])])
        .expect_err("there is no table");
    let has = |number| network.has_security_group(id(number).as_str());
    assert_eq!((has(2), has(3)), (true, false));
}

fn unknown_groups_are_refused(world: &World) {
    let stale = group(2, vec![tcp(80, 80, Peer::Group(id(9)))]);
    let error = Network::open(config(world, vec![stale])).expect_err("refused");
    assert!(matches!(&error, Error::UnknownSecurityGroup(group) if *group == id(9)));
    let network = network(world, vec![group(2, vec![])]);
    let mut request = request(1);
    request.security_groups = vec![id(2), id(3)];
    let error = network.attach(&request).expect_err("refused");
    assert!(matches!(&error, Error::UnknownSecurityGroup(group) if *group == id(3)));
    // Without a default group, an interface that names none has none to be in.
    request.security_groups = Vec::new();
    assert!(network.attach(&request).is_err());
    assert!(network.list().expect("a list").is_empty());
}
