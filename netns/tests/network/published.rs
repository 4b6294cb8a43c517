//! Published ports: who gets to the task through the host's, and what stays the host's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use berth_netns::{
    AttachRequest, AttachmentMode, Error, HostPort, METADATA_ADDRESS, METADATA_PORT, Network,
    NetworkConfig, PortProtocol, PublishedPort, SecurityGroup, Subnet,
};

use crate::Case;
use crate::world::{
    HOST, HOST6, OUTSIDE, OUTSIDE6, PATIENCE, Reached, Task, World, accept, arrives, connect,
    inside, receive, request,
};

/// IPv4 and IPv6.
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const HOSTS: [IpAddr; 2] = [IpAddr::V4(HOST), IpAddr::V6(HOST6)];
const OUTSIDES: [IpAddr; 2] = [IpAddr::V4(OUTSIDE), IpAddr::V6(OUTSIDE6)];

pub fn cases() -> Vec<Case> {
    vec![
        (
            "outside_reaches_what_is_published_and_nothing_else",
            outside_reaches_what_is_published,
        ),
        (
            "the_host_other_tasks_and_the_task_itself_do_too",
            everyone_else_does_too,
        ),
        (
            "security_groups_do_not_close_what_is_published",
            security_groups_do_not_close_it,
        ),
        (
            "the_routers_resolvers_and_metadata_ports_stay_theirs",
            the_hosts_own_stay,
        ),
        (
            "datagrams_go_to_the_next_task_that_publishes_the_port",
            datagrams_go_to_the_next_task,
        ),
        (
            "a_port_is_published_by_one_task_at_a_time",
            a_port_is_published_once,
        ),
        (
            "the_next_process_keeps_what_is_published",
            the_next_process_keeps_it,
        ),
        (
            "what_the_host_has_opened_goes_on",
            the_hosts_connections_go_on,
        ),
        (
            "connections_end_with_the_interface",
            connections_end_with_the_interface,
        ),
    ]
}

fn publish(protocol: PortProtocol, host: u16, container: u16) -> PublishedPort {
    PublishedPort {
        host: HostPort {
            protocol,
            port: host,
        },
        container_port: container,
    }
}

fn tcp(host: u16, container: u16) -> PublishedPort {
    publish(PortProtocol::Tcp, host, container)
}

fn udp(host: u16, container: u16) -> PublishedPort {
    publish(PortProtocol::Udp, host, container)
}

fn attach(network: &Network, number: u32, published: &[PublishedPort]) -> Task {
    let request = AttachRequest {
        published: published.to_vec(),
        ..request(number)
    };
    Task::of(&network.attach(&request).expect("attached"))
}

fn outside_reaches_what_is_published(world: &World) {
    let network = world.network();
    let task = attach(&network, 1, &[tcp(8080, 80), udp(5353, 53)]);
    let server = task.listen(ANY, 80);
    task.serve(ANY, 8080);
    let datagrams = task.udp(ANY, 53);
    for (host, outside) in HOSTS.into_iter().zip(OUTSIDES) {
        assert_eq!(inside(&world.outside, || connect(host, 8080)), Reached::Yes);
        let from = accept(&server).ip().to_canonical();
        assert_eq!(from, outside, "the task sees who it is");
        let socket = inside(&world.outside, || {
            UdpSocket::bind((outside, 0)).expect("bound")
        });
        socket.send_to(b"name?", (host, 5353)).expect("sent");
        assert_eq!(
            arrives(&datagrams).as_deref(),
            Some(&b"name?"[..]),
            "{host}"
        );
        // Not published: the port that it is published as is none of the task's, and the other way round.
        let other = inside(&world.outside, || connect(host, 80));
        assert_eq!(other, Reached::Refused, "{host}");
    }
    for address in task.addresses() {
        for port in [80, 8080] {
            let direct = inside(&world.outside, || connect(address, port));
            assert_eq!(direct, Reached::Silence, "{address}");
        }
    }
    drop((server, datagrams));
    task.detach(&network);
    let gone = inside(&world.outside, || connect(HOST, 8080));
    assert_eq!(gone, Reached::Refused);
}

/// Where frames on bridges pass iptables (`br_netfilter`, which Docker wants), what is translated back to the
/// bridge that it came from is bridged, and ports of ours are isolated. See "Published ports" in docs/design.md.
pub fn frames_pass_iptables_by(world: &World) {
    let sysctls =
        ["iptables", "ip6tables"].map(|name| format!("/proc/sys/net/bridge/bridge-nf-call-{name}"));
    for sysctl in sysctls.iter().filter(|path| Path::new(path).exists()) {
        if world.mode == AttachmentMode::Bridged {
            fs::write(sysctl, "0").expect("root may write");
        }
    }
}

fn everyone_else_does_too(world: &World) {
    frames_pass_iptables_by(world);
    let network = world.network();
    let task = attach(&network, 1, &[tcp(8080, 80), udp(5353, 53)]);
    let other = Task::attach_in(&network, 2, 1);
    let server = task.listen(ANY, 80);
    let datagrams = task.udp(ANY, 53);
    for (family, host) in HOSTS.into_iter().enumerate() {
        assert_eq!(connect(host, 8080), Reached::Yes, "from the host: {host}");
        accept(&server);
        assert_eq!(other.connect(host, 8080), Reached::Yes, "from another task");
        let from = accept(&server).ip().to_canonical();
        assert_eq!(from, other.addresses()[family], "the task sees who it is");
        assert_eq!(task.connect(host, 8080), Reached::Yes, "from itself");
        accept(&server);
        let own = task.udp(task.addresses()[family], 0);
        own.send_to(b"myself", (host, 5353)).expect("sent");
        assert_eq!(arrives(&datagrams).as_deref(), Some(&b"myself"[..]));
    }
    drop((server, datagrams));
    task.detach(&network);
    other.detach(&network);
}

fn security_groups_do_not_close_it(world: &World) {
    frames_pass_iptables_by(world);
    let closed = "sg-00000000000000002".parse().expect("valid");
    let closed = SecurityGroup::new(closed, Vec::new(), Vec::new());
    let network = Network::open(NetworkConfig {
        security_groups: vec![closed.clone(), SecurityGroup::default_group()],
        ..world.config()
    })
    .expect("opened");
    let request = AttachRequest {
        security_groups: vec![closed.id().clone()],
        published: vec![tcp(8080, 80)],
        ..request(1)
    };
    let task = Task::of(&network.attach(&request).expect("attached"));
    let other = Task::attach(&network, 2);
    task.serve(ANY, 80);
    task.serve(ANY, 81);
    for (host, address) in HOSTS.into_iter().zip(task.addresses()) {
        assert_eq!(inside(&world.outside, || connect(host, 8080)), Reached::Yes);
        assert_eq!(other.connect(host, 8080), Reached::Yes);
        assert_eq!(other.connect(address, 80), Reached::Silence);
    }
    task.detach(&network);
    other.detach(&network);
}

fn the_hosts_own_stay(world: &World) {
    let network = world.network();
    let all = [
        tcp(80, 80),
        tcp(METADATA_PORT, 80),
        tcp(53, 80),
        udp(53, 53),
    ];
    let task = attach(&network, 1, &all);
    let other = Task::attach(&network, 2);
    task.serve(ANY, 80);
    let endpoint = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    let resolver = Subnet::default_subnet().resolver();
    let datagrams = UdpSocket::bind((resolver, 53)).expect("bound");
    let over_tcp = TcpListener::bind((resolver, 53)).expect("bound");
    for asking in [&task, &other] {
        assert_eq!(asking.connect(METADATA_ADDRESS, 80), Reached::Yes);
        assert_eq!(accept(&endpoint).ip(), asking.address);
        assert_eq!(asking.connect(resolver, 53), Reached::Yes);
        assert_eq!(accept(&over_tcp).ip(), asking.address);
        let socket = asking.udp(Ipv4Addr::UNSPECIFIED, 0);
        socket.send_to(b"name?", (resolver, 53)).expect("sent");
        assert_eq!(arrives(&datagrams).as_deref(), Some(&b"name?"[..]));
        let router = Subnet::default_subnet().router();
        assert_eq!(asking.connect(router, 80), Reached::Silence);
    }
    assert_eq!(connect(METADATA_ADDRESS, 80), Reached::Yes, "from the host");
    accept(&endpoint);
    // The host's loopback is whose it was.
    let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 80)).expect("bound");
    assert_eq!(connect(Ipv4Addr::LOCALHOST, 80), Reached::Yes);
    accept(&loopback);
    task.detach(&network);
    other.detach(&network);
}

/// The sender's port is one and the same all the time: to the kernel it is one connection.
fn datagrams_go_to_the_next_task(world: &World) {
    let network = world.network();
    for (host, outside) in HOSTS.into_iter().zip(OUTSIDES) {
        let sender = inside(&world.outside, || {
            UdpSocket::bind((outside, 4000)).expect("bound")
        });
        let send = || sender.send_to(b"to whom?", (host, 5353)).expect("sent");
        send();
        for number in [1, 2] {
            let task = attach(&network, number, &[udp(5353, 53)]);
            let socket = task.udp(ANY, 53);
            send();
            assert!(arrives(&socket).is_some(), "{host}: task {number} gets it");
            drop(socket);
            task.detach(&network);
        }
        let on_the_host = UdpSocket::bind((ANY, 5353)).expect("bound");
        send();
        assert!(
            arrives(&on_the_host).is_some(),
            "{host}: it is the host's again"
        );
    }
}

fn a_port_is_published_once(world: &World) {
    let network = world.network();
    let task = attach(&network, 1, &[tcp(8080, 80)]);
    let again = AttachRequest {
        published: vec![tcp(8080, 81)],
        ..request(2)
    };
    let error = network.attach(&again).expect_err("taken");
    assert!(matches!(error, Error::PortPublished { .. }), "{error}");
    let other_protocol = attach(&network, 3, &[udp(8080, 80)]);
    task.detach(&network);
    other_protocol.detach(&network);
    Task::of(&network.attach(&again).expect("free again")).detach(&network);
}

fn the_next_process_keeps_it(world: &World) {
    let network = world.network();
    let task = attach(&network, 1, &[tcp(8080, 80)]);
    task.serve(ANY, 80);
    drop(network);
    let network = world.network();
    network
        .reconcile(std::slice::from_ref(&task.id), &[])
        .expect("reconciled");
    for host in HOSTS {
        assert_eq!(inside(&world.outside, || connect(host, 8080)), Reached::Yes);
    }
    task.detach(&network);
}

/// The host's own end is no task's address, and what it has opened goes on when those of tasks are looked through.
fn the_hosts_connections_go_on(world: &World) {
    let network = world.network();
    let (task, other) = (Task::attach(&network, 1), Task::attach(&network, 2));
    let mut ends: Vec<(TcpStream, TcpStream)> = Vec::new();
    for address in task.addresses() {
        let listener = task.listen(address, 80);
        let host = TcpStream::connect((address, 80)).expect("connected");
        let (inside, _) = listener.accept().expect("accepted");
        ends.push((host, inside));
    }
    other.detach(&network);
    network
        .reconcile(std::slice::from_ref(&task.id), &[])
        .expect("reconciled");
    for (host, inside) in &mut ends {
        inside.write_all(b"still here").expect("queued");
        host.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut bytes = [0; 10];
        host.read_exact(&mut bytes).expect("it arrives");
        assert_eq!(&bytes, b"still here");
    }
    drop(ends);
    task.detach(&network);
}

/// A datagram on its way when the interface goes belongs to a connection that was let pass once. The next task
/// with the address has other rules.
fn connections_end_with_the_interface(world: &World) {
    let closed = "sg-00000000000000002".parse().expect("valid");
    let closed = SecurityGroup::new(closed, Vec::new(), Vec::new());
    // Room for two tasks: the address comes round at once.
    let id = Subnet::default_subnet().id().clone();
    let small = Subnet::new(id, "10.231.0.0/28".parse().expect("a range"), "berth0");
    let ipv6 = Subnet::default_subnet().ipv6_cidr().expect("dual stack");
    let small = small
        .and_then(|subnet| subnet.with_ipv6(ipv6))
        .expect("valid");
    let network = Network::open(NetworkConfig {
        security_groups: vec![closed.clone(), SecurityGroup::default_group()],
        subnets: vec![small.with_mode(world.mode)],
        ..world.config()
    })
    .expect("opened");
    let sender = Task::attach(&network, 1);
    let open = Task::attach(&network, 2);
    let addresses = open.addresses();
    let sockets = sender.addresses().map(|own| sender.udp(own, 4000));
    let send = || {
        for (socket, address) in sockets.iter().zip(addresses) {
            socket.send_to(b"again", (address, 5000)).expect("sent");
        }
    };
    let first = open.addresses().map(|own| open.udp(own, 5000));
    send();
    for ((first, socket), own) in first.iter().zip(&sockets).zip(sender.addresses()) {
        assert!(arrives(first).is_some());
        // An answer makes it a connection.
        first.send_to(b"yes", (own, 4000)).expect("sent");
        assert!(arrives(socket).is_some());
    }
    drop(first);
    open.detach(&network);
    let mut others: Vec<Task> = Vec::new();
    for number in 3.. {
        let next = AttachRequest {
            security_groups: vec![closed.id().clone()],
            ..request(number)
        };
        let next = Task::of(&network.attach(&next).expect("attached"));
        if next.address == addresses[0] {
            let socket = next.udp(ANY, 5000);
            send();
            assert_eq!(receive(&socket), None, "its rules let nothing in");
            drop(socket);
            next.detach(&network);
            break;
        }
        others.push(next);
    }
    drop(sockets);
    others.into_iter().for_each(|task| task.detach(&network));
    sender.detach(&network);
}
