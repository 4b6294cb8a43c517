//! What a task can reach, what can reach it, and what can't.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;

use berth_netns::netlink::{Request, RouteSocket, add_address, add_route};
use berth_netns::{
    INSTANCE_METADATA_ADDRESS, INSTANCE_METADATA_IPV6_ADDRESS, METADATA_ADDRESS, METADATA_PORT,
    Subnet,
};

use ipnet::Ipv4Net;

use crate::Case;
use crate::world::{
    HOST, HOST6, OUTSIDE, OUTSIDE6, Reached, Task, UPLINK_MTU, World, accept, arrives, connect,
    fetch, inside, listen_in, reaches_at_last, receive,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// IPv4 and IPv6.
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 1);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 2);

pub fn cases() -> Vec<Case> {
    vec![
        (
            "tasks_of_one_subnet_reach_each_other",
            tasks_of_one_subnet_reach_each_other,
        ),
        (
            "tasks_of_two_subnets_reach_each_other",
            tasks_of_two_subnets_reach_each_other,
        ),
        (
            "a_task_reaches_itself_on_localhost_and_by_its_address",
            a_task_reaches_itself,
        ),
        (
            "metadata_is_on_port_80_beside_a_web_server_of_the_task",
            metadata_beside_a_web_server,
        ),
        (
            "the_host_reaches_metadata_on_port_80_too",
            the_host_reaches_metadata_too,
        ),
        (
            "instance_metadata_is_out_of_reach",
            instance_metadata_is_out_of_reach,
        ),
        (
            "outside_sees_the_hosts_address",
            outside_sees_the_hosts_address,
        ),
        (
            "outside_does_not_reach_a_task",
            outside_does_not_reach_a_task,
        ),
        (
            "outside_does_not_reach_the_tasks_endpoints",
            outside_does_not_reach_the_endpoints,
        ),
        ("the_host_reaches_a_task", the_host_reaches_a_task),
        (
            "a_task_does_not_reach_the_hosts_services",
            a_task_does_not_reach_the_hosts_services,
        ),
        ("a_task_reaches_its_resolver", a_task_reaches_its_resolver),
        ("no_link_makes_itself_an_address", no_link_local_addresses),
        ("the_mtu_is_the_uplinks", the_mtu_is_the_uplinks),
    ]
}

fn tasks_of_one_subnet_reach_each_other(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    reach_each_other(&one, &two);
    one.detach(&network);
    two.detach(&network);
}

fn tasks_of_two_subnets_reach_each_other(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach_in(&network, 2, 2));
    assert_eq!(two.address, Ipv4Addr::new(10, 231, 2, 4));
    reach_each_other(&one, &two);
    one.detach(&network);
    two.detach(&network);
}

/// In both families, by UDP and by TCP, at once and without translation.
fn reach_each_other(one: &Task, two: &Task) {
    for (own, address) in one.addresses().into_iter().zip(two.addresses()) {
        // Nobody sends it again if it is lost.
        let (from, to) = (one.udp(own, 0), two.udp(address, 5000));
        from.send_to(b"hello", (address, 5000)).expect("sent");
        assert_eq!(arrives(&to).as_deref(), Some(&b"hello"[..]), "{address}");

        let server = two.listen(address, 8080);
        assert_eq!(one.connect(address, 8080), Reached::Yes, "{address}");
        assert_eq!(accept(&server).ip(), own, "no translation between tasks");
        let by_itself = one.connect(address, 8081);
        assert_eq!(by_itself, Reached::Refused, "by the task itself");
    }
}

fn a_task_reaches_itself(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    // IPv4 and IPv6.
    task.serve(ANY6, 80);
    let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for address in localhost.into_iter().chain(task.addresses()) {
        assert_eq!(task.connect(address, 80), Reached::Yes, "{address}");
    }
    task.detach(&network);
}

fn metadata_beside_a_web_server(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let endpoint = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    let host_web_server = TcpListener::bind((ANY, 80)).expect("bound");
    let web_server = task.listen(ANY, 80);
    let netns = &task.netns;
    let client = thread::scope(|scope| {
        let client = scope.spawn(|| inside(netns, || fetch(METADATA_ADDRESS, 80)));
        assert_eq!(
            accept(&endpoint).ip(),
            task.address,
            "the endpoint knows who asks"
        );
        client.join().expect("no panic")
    });
    assert_eq!(client, task.address.to_string());
    assert_eq!(task.connect(Ipv4Addr::LOCALHOST, 80), Reached::Yes);
    drop((web_server, host_web_server));
    task.detach(&network);
}

fn the_host_reaches_metadata_too(world: &World) {
    let _network = world.network();
    let _endpoint = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    assert_eq!(connect(METADATA_ADDRESS, 80), Reached::Yes);
    assert_eq!(connect(METADATA_ADDRESS, METADATA_PORT), Reached::Yes);
}

fn instance_metadata_is_out_of_reach(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let ipv6_router = Subnet::default_subnet().ipv6_router().expect("dual stack");
    let both: [(IpAddr, IpAddr); 2] = [
        (INSTANCE_METADATA_ADDRESS.into(), ROUTER.into()),
        (INSTANCE_METADATA_IPV6_ADDRESS.into(), ipv6_router.into()),
    ];
    for (service, router) in both {
        assert_eq!(task.connect(service, 80), Reached::NoRoute, "{service}");
        // A task with CAP_NET_ADMIN makes itself a route.
        configure(&task.netns, |link| add_route(link, service, router));
        // The host outside plays the metadata service, as a cloud's hypervisor does.
        configure(&world.outside, |link| add_address(link, service, true));
        let _service = listen_in(&world.outside, service, 80);
        // The kernel makes an IPv6 address its own a moment after it was given.
        reaches_at_last(service, 80, Reached::Yes);
        let reached = task.connect(service, 80);
        assert_eq!(reached, Reached::Silence, "from the task: {service}");
    }
    task.detach(&network);
}

/// Sends a request about `eth0` of a namespace.
fn configure(netns: &OwnedFd, request: impl FnOnce(u32) -> Request + Send) {
    inside(netns, || {
        let mut socket = RouteSocket::open().expect("a socket");
        let link = socket.index_of("eth0").expect("there");
        socket.send(&[request(link)]).expect("configured");
    });
}

fn outside_sees_the_hosts_address(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let both: [(IpAddr, IpAddr); 2] = [
        (OUTSIDE.into(), HOST.into()),
        (OUTSIDE6.into(), HOST6.into()),
    ];
    for (outside, host) in both {
        let server = listen_in(&world.outside, outside, 8080);
        let netns = &task.netns;
        let seen = thread::scope(|scope| {
            let client = scope.spawn(|| inside(netns, || fetch(outside, 8080)));
            accept(&server);
            client.join().expect("no panic")
        });
        assert_eq!(seen, host.to_string());
        let datagrams = inside(&world.outside, || {
            UdpSocket::bind((outside, 5000)).expect("bound")
        });
        let unspecified = if outside.is_ipv4() {
            ANY.into()
        } else {
            IpAddr::from(ANY6)
        };
        let from = task.udp(unspecified, 0);
        from.send_to(b"hello", (outside, 5000)).expect("sent");
        assert_eq!(arrives(&datagrams).as_deref(), Some(&b"hello"[..]));
    }
    task.detach(&network);
}

fn outside_does_not_reach_a_task(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    task.serve(ANY6, 8080);
    for address in task.addresses() {
        let reached = inside(&world.outside, move || connect(address, 8080));
        assert_eq!(reached, Reached::Silence, "{address}");
    }
    task.detach(&network);
}

fn outside_does_not_reach_the_endpoints(world: &World) {
    let _network = world.network();
    let _endpoint = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    let _other = TcpListener::bind((ANY6, 8080)).expect("bound");
    let ipv6_router = Subnet::default_subnet().ipv6_router().expect("dual stack");
    configure(&world.outside, |link| {
        add_route(link, Ipv4Net::from(METADATA_ADDRESS), HOST)
    });
    inside(&world.outside, || {
        assert_eq!(connect(METADATA_ADDRESS, METADATA_PORT), Reached::Silence);
        assert_eq!(connect(METADATA_ADDRESS, 80), Reached::Silence);
        assert_eq!(connect(ROUTER, 8080), Reached::Silence);
        assert_eq!(connect(ipv6_router, 8080), Reached::Silence);
        let own: [IpAddr; 2] = [HOST.into(), HOST6.into()];
        for own in own {
            assert_eq!(
                connect(own, 8080),
                Reached::Yes,
                "the host's own stays as it was"
            );
        }
    });
}

fn the_host_reaches_a_task(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    task.serve(ANY6, 8080);
    for address in task.addresses() {
        assert_eq!(connect(address, 8080), Reached::Yes, "{address}");
    }
    task.detach(&network);
}

fn a_task_does_not_reach_the_hosts_services(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    // IPv4 and IPv6.
    let _service = TcpListener::bind((ANY6, 22)).expect("bound");
    let datagrams = UdpSocket::bind((ANY6, 123)).expect("bound");
    let ipv6_router = Subnet::default_subnet().ipv6_router().expect("dual stack");
    let ipv4 = [ROUTER, RESOLVER, METADATA_ADDRESS, HOST].map(IpAddr::from);
    let ipv6 = [ipv6_router, HOST6].map(IpAddr::from);
    for (own, address) in [
        ipv4.map(|host| (task.addresses()[0], host)).to_vec(),
        ipv6.map(|host| (task.addresses()[1], host)).to_vec(),
    ]
    .concat()
    {
        assert_eq!(task.connect(address, 22), Reached::Silence, "{address}");
        let from = task.udp(own, 0);
        from.send_to(b"x", (address, 123)).expect("sent");
    }
    assert_eq!(receive(&datagrams), None);
    task.detach(&network);
}

fn a_task_reaches_its_resolver(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let resolver = UdpSocket::bind((RESOLVER, 53)).expect("bound");
    let _over_tcp = TcpListener::bind((RESOLVER, 53)).expect("bound");
    let asking = task.udp(ANY, 0);
    asking.send_to(b"name?", (RESOLVER, 53)).expect("sent");
    assert_eq!(arrives(&resolver).as_deref(), Some(&b"name?"[..]));
    assert_eq!(task.connect(RESOLVER, 53), Reached::Yes);
    drop(asking);
    task.detach(&network);
}

/// Neither end of a task's link, nor a bridge, has an address that nobody gave it.
fn no_link_local_addresses(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let all = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").expect("readable");
    let (inside, here) = (inside(&task.netns, all), all());
    for (addresses, link) in [(&inside, "eth0"), (&here, "eni-"), (&here, "berth")] {
        let mut lines = addresses.lines().filter(|line| line.contains(link));
        assert!(lines.all(|line| line.starts_with("fd62")), "{addresses}");
    }
    task.detach(&network);
}

fn the_mtu_is_the_uplinks(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    assert_eq!(network.mtu(), UPLINK_MTU);
    let link = inside(&task.netns, || {
        let mut socket = berth_netns::netlink::RouteSocket::open().expect("a socket");
        socket.link("eth0").expect("readable").expect("there")
    });
    assert_eq!((link.mtu, link.mac), (UPLINK_MTU, Some(task.mac)));
    task.detach(&network);
}
