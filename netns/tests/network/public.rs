//! Public addresses: a task's own outside, both ways, as far as its security groups let.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use berth_netns::netlink::{RouteSocket, add_address, add_route};
use berth_netns::{
    AttachRequest, Error, HostPort, Network, NetworkConfig, Peer, PortProtocol, Protocol,
    PublishedPort, Rule, SecurityGroup, SecurityGroupId,
};
use ipnet::Ipv4Net;

use crate::Case;
use crate::world::{
    HOST, OUTSIDE, Reached, Task, World, accept, arrives, briefly, connect, inside, listen_in,
    receive, request,
};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);

pub fn cases() -> Vec<Case> {
    vec![
        (
            "outside_reaches_a_public_address_as_groups_let",
            outside_reaches_it,
        ),
        (
            "a_port_that_is_published_opens_no_public_address",
            published_ports_open_nothing,
        ),
        (
            "outside_can_not_pose_as_a_member_of_a_group",
            outside_is_no_member,
        ),
        (
            "a_public_address_that_nobody_has_leads_nowhere",
            nobodys_address,
        ),
        (
            "a_task_with_a_public_address_shows_it_outside",
            it_is_shown_outside,
        ),
        (
            "the_host_other_tasks_and_the_task_itself_reach_it_too",
            everyone_else_reaches_it,
        ),
        (
            "the_next_task_with_the_address_has_nothing_of_the_one_before",
            the_next_begins_anew,
        ),
        (
            "a_public_address_is_kept_by_the_next_process",
            the_next_process_keeps_it,
        ),
        ("without_a_pool_the_hosts_address_is_shown", without_a_pool),
        (
            "an_exhausted_pool_and_the_hosts_own_address_are_refused",
            wrong_pools_are_refused,
        ),
    ]
}

fn group() -> SecurityGroupId {
    "sg-00000000000000002".parse().expect("valid")
}

/// Two public addresses, and a group that lets port 80 in, from everywhere.
fn config(world: &World, pool: &[&str]) -> NetworkConfig {
    let range = |text: &str| Peer::Range(text.parse().expect("a range"));
    let open = |protocol| Rule::new(protocol, Some(80), Some(80), range("0.0.0.0/0"));
    let ingress = [Protocol::TCP, Protocol::UDP].map(|protocol| open(protocol).expect("valid"));
    let egress = ["0.0.0.0/0", "::/0"].map(|text| Rule::everything(range(text)));
    let group = SecurityGroup::new(group(), ingress.into(), egress.into());
    let pool = pool.iter().map(|text| text.parse().expect("a range"));
    NetworkConfig {
        security_groups: vec![group, SecurityGroup::default_group()],
        public_addresses: pool.collect(),
        ..world.config()
    }
}

pub fn network(world: &World) -> Network {
    let mut outside = inside(&world.outside, || RouteSocket::open().expect("a socket"));
    let eth0 = outside.index_of("eth0").expect("there");
    let range: Ipv4Net = "203.0.113.0/24".parse().expect("a range");
    let route = add_route(eth0, range, HOST);
    outside
        .send(&[route])
        .expect("a route to the public addresses");
    Network::open(config(world, &["203.0.113.8/31"])).expect("opened")
}

fn public(number: u32) -> AttachRequest {
    AttachRequest {
        security_groups: vec![group()],
        assign_public_ip: true,
        ..request(number)
    }
}

pub fn attach(network: &Network, number: u32) -> Task {
    let attachment = network.attach(&public(number)).expect("attached");
    assert_eq!(attachment.eni.public_address, Some(PUBLIC));
    Task::of(&attachment)
}

fn outside_reaches_it(world: &World) {
    let network = network(world);
    let task = attach(&network, 1);
    let server = task.listen(ANY, 80);
    task.serve(ANY, 81);
    let from_outside = |port| inside(&world.outside, || connect(PUBLIC, port));
    assert_eq!(from_outside(80), Reached::Yes);
    let from = accept(&server).ip().to_canonical();
    assert_eq!(from, IpAddr::from(OUTSIDE), "the task sees who it is");
    assert_eq!(from_outside(81), Reached::Silence, "no rule lets it in");
    let private = inside(&world.outside, || connect(task.address, 80));
    assert_eq!(private, Reached::Silence);
    drop(server);
    task.detach(&network);
    assert_ne!(from_outside(80).within(briefly()), Reached::Yes);
}

fn published_ports_open_nothing(world: &World) {
    let network = network(world);
    let port = |port| PublishedPort {
        host: HostPort {
            protocol: PortProtocol::Tcp,
            port,
        },
        container_port: port,
    };
    let with_ports = |request: AttachRequest, number| AttachRequest {
        published: vec![port(number)],
        ..request
    };
    let attached = network.attach(&with_ports(public(1), 81));
    let task = Task::of(&attached.expect("attached"));
    let attached = network.attach(&with_ports(request(2), 82));
    let other = Task::of(&attached.expect("attached"));
    for number in [81, 82] {
        task.serve(ANY, number);
        other.serve(ANY, number);
        let from_outside = |address| inside(&world.outside, || connect(address, number));
        assert_eq!(
            from_outside(HOST),
            Reached::Yes,
            "{number}: it is published"
        );
        assert_eq!(from_outside(PUBLIC), Reached::Silence, "{number}");
        assert_eq!(other.connect(PUBLIC, number), Reached::Silence, "{number}");
    }
    task.detach(&network);
    other.detach(&network);
}

fn outside_is_no_member(world: &World) {
    let network = network(world);
    for name in ["all", "uplink"] {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        std::fs::write(path, "0").expect("root may write");
    }
    // Of the default group, which lets its members in.
    let public = AttachRequest {
        security_groups: Vec::new(),
        ..public(1)
    };
    let task = Task::of(&network.attach(&public).expect("attached"));
    let member = Task::attach(&network, 2);
    let datagrams = task.udp(ANY, 80);
    let mut outside = inside(&world.outside, || RouteSocket::open().expect("a socket"));
    let eth0 = outside.index_of("eth0").expect("there");
    let posing = add_address(eth0, Ipv4Net::from(member.address), false);
    outside.send(&[posing]).expect("given");
    let socket = inside(&world.outside, || {
        UdpSocket::bind((member.address, 0)).expect("bound")
    });
    socket.send_to(b"a friend", (PUBLIC, 80)).expect("sent");
    assert_eq!(receive(&datagrams), None);
    let own = member.udp(member.address, 0);
    own.send_to(b"a member", (task.address, 80)).expect("sent");
    assert_eq!(arrives(&datagrams).as_deref(), Some(&b"a member"[..]));
    drop((datagrams, own));
    task.detach(&network);
    member.detach(&network);
}

/// Sent back to where it came from, it would come again until its life ends.
fn nobodys_address(world: &World) {
    let network = network(world);
    let task = attach(&network, 1);
    let nobodys = Ipv4Addr::new(203, 0, 113, 9);
    // As a router does, which sends it here.
    inside(&world.outside, || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root may write");
    });
    let reached = inside(&world.outside, || connect(nobodys, 80));
    assert_eq!(reached, Reached::Silence);
    assert_eq!(task.connect(nobodys, 80), Reached::Silence);
    task.detach(&network);
}

fn it_is_shown_outside(world: &World) {
    let network = network(world);
    let (task, other) = (attach(&network, 1), Task::attach(&network, 2));
    let server = listen_in(&world.outside, OUTSIDE, 7000);
    for (from, expected) in [(&task, PUBLIC), (&other, HOST)] {
        assert_eq!(from.connect(OUTSIDE, 7000), Reached::Yes);
        assert_eq!(accept(&server).ip(), IpAddr::from(expected));
    }
    // Tasks are among themselves.
    other.serve(other.address, 80);
    assert_eq!(task.connect(other.address, 80), Reached::Silence);
    task.detach(&network);
    other.detach(&network);
}

fn everyone_else_reaches_it(world: &World) {
    crate::published::frames_pass_iptables_by(world);
    let network = network(world);
    let (task, other) = (attach(&network, 1), Task::attach(&network, 2));
    let server = task.listen(ANY, 80);
    assert_eq!(connect(PUBLIC, 80), Reached::Yes, "from the host");
    accept(&server);
    assert_eq!(other.connect(PUBLIC, 80), Reached::Yes, "from another task");
    let from = accept(&server).ip().to_canonical();
    assert_eq!(from, IpAddr::from(other.address));
    assert_eq!(task.connect(PUBLIC, 80), Reached::Yes, "from itself");
    task.serve(ANY, 81);
    assert_eq!(other.connect(PUBLIC, 81), Reached::Silence);
    drop(server);
    task.detach(&network);
    other.detach(&network);
}

fn the_next_begins_anew(world: &World) {
    let network = network(world);
    let sender = inside(&world.outside, || {
        UdpSocket::bind((OUTSIDE, 0)).expect("bound")
    });
    for number in 1..=3 {
        let task = attach(&network, number);
        let datagrams = task.udp(ANY, 80);
        sender.send_to(b"to whom?", (PUBLIC, 80)).expect("sent");
        // What was sent to nobody may still be on its way.
        let mut received = std::iter::from_fn(|| arrives(&datagrams));
        assert!(received.any(|text| text == b"to whom?"), "{number}");
        drop(datagrams);
        task.detach(&network);
        // Nobody has it, and the sender goes on: that is no connection of the next one's.
        sender.send_to(b"anybody?", (PUBLIC, 80)).expect("sent");
    }
}

fn the_next_process_keeps_it(world: &World) {
    let first = network(world);
    let task = attach(&first, 1);
    task.serve(ANY, 80);
    drop(first);
    // Also one that has no pool any more.
    for pool in [&["203.0.113.8/31"][..], &[]] {
        let network = Network::open(config(world, pool)).expect("opened");
        network
            .reconcile(std::slice::from_ref(&task.id), &[])
            .expect("reconciled");
        let reached = inside(&world.outside, || connect(PUBLIC, 80));
        assert_eq!(reached, Reached::Yes, "{pool:?}");
    }
    let network = Network::open(config(world, &[])).expect("opened");
    task.detach(&network);
    let reached = inside(&world.outside, || connect(PUBLIC, 80));
    assert_ne!(reached.within(briefly()), Reached::Yes);
}

fn without_a_pool(world: &World) {
    let network = Network::open(config(world, &[])).expect("opened");
    let attachment = network.attach(&public(1)).expect("attached");
    assert_eq!(attachment.eni.public_address, None);
    let task = Task::of(&attachment);
    let server = listen_in(&world.outside, OUTSIDE, 7000);
    assert_eq!(task.connect(OUTSIDE, 7000), Reached::Yes);
    assert_eq!(accept(&server).ip(), IpAddr::from(HOST));
    task.detach(&network);
}

fn wrong_pools_are_refused(world: &World) {
    let own = format!("{HOST}/32");
    let error = Network::open(config(world, &[&own])).expect_err("the host's own");
    assert!(
        matches!(error, Error::PublicAddressOfHost { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("uplink"), "{error}");
    // One that the host has for them.
    let mut routes = RouteSocket::open().expect("a socket");
    let uplink = routes.index_of("uplink").expect("there");
    let address = add_address(uplink, Ipv4Net::from(PUBLIC), false);
    routes.send(&[address]).expect("given");
    let network = Network::open(config(world, &["203.0.113.8/32"])).expect("opened");
    let task = attach(&network, 1);
    task.serve(ANY, 80);
    assert_eq!(connect(PUBLIC, 80), Reached::Yes);
    let error = network.attach(&public(2)).expect_err("taken");
    assert!(
        matches!(error, Error::PublicAddressesExhausted(1)),
        "{error}"
    );
    assert_eq!(network.list().expect("listed").len(), 1);
    task.detach(&network);
}
