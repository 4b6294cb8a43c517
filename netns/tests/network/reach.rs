//! What a task can reach, what can reach it, and what can't.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;

use berth_netns::{INSTANCE_METADATA_ADDRESS, METADATA_ADDRESS, METADATA_PORT};

use crate::Case;
use crate::world::{
    HOST, OUTSIDE, Reached, Task, UPLINK_MTU, World, accept, connect, fetch, inside, listen_in,
    receive,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 1);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 2);

pub fn cases() -> Vec<Case> {
    vec![
        (
            "tasks_of_one_subnet_reach_each_other",
            tasks_of_one_subnet_reach_each_other,
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
        ("the_mtu_is_the_uplinks", the_mtu_is_the_uplinks),
    ]
}

fn tasks_of_one_subnet_reach_each_other(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    let server = two.listen(ANY, 8080);
    assert_eq!(one.connect(two.address, 8080), Reached::Yes);
    assert_eq!(
        accept(&server).ip(),
        one.address,
        "no translation between tasks"
    );
    assert_eq!(
        one.connect(two.address, 8081),
        Reached::Refused,
        "by the task itself"
    );

    let (from, to) = (one.udp(ANY, 0), two.udp(ANY, 5000));
    from.send_to(b"hello", (two.address, 5000)).expect("sent");
    assert_eq!(receive(&to).as_deref(), Some(&b"hello"[..]));
    drop((server, from, to));
    one.detach(&network);
    two.detach(&network);
}

fn a_task_reaches_itself(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    task.serve(ANY, 80);
    assert_eq!(task.connect(Ipv4Addr::LOCALHOST, 80), Reached::Yes);
    assert_eq!(task.connect(task.address, 80), Reached::Yes);
    task.serve(std::net::Ipv6Addr::LOCALHOST, 8080);
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
    assert_eq!(
        task.connect(INSTANCE_METADATA_ADDRESS, 80),
        Reached::NoRoute
    );
    // A task with CAP_NET_ADMIN makes itself a route.
    inside(&task.netns, || {
        let mut socket = berth_netns::netlink::RouteSocket::open().expect("a socket");
        let link = socket.index_of("eth0").expect("there");
        let route = berth_netns::netlink::add_route(link, INSTANCE_METADATA_ADDRESS.into(), ROUTER);
        socket.send(&[route]).expect("added");
    });
    // The host outside plays the metadata service, as a cloud's hypervisor does.
    inside(&world.outside, || {
        let mut socket = berth_netns::netlink::RouteSocket::open().expect("a socket");
        let link = socket.index_of("eth0").expect("there");
        let address =
            berth_netns::netlink::add_address(link, INSTANCE_METADATA_ADDRESS.into(), true);
        socket.send(&[address]).expect("added");
    });
    let _service = listen_in(&world.outside, INSTANCE_METADATA_ADDRESS, 80);
    assert_eq!(
        connect(INSTANCE_METADATA_ADDRESS, 80),
        Reached::Yes,
        "from the host"
    );
    assert_eq!(
        task.connect(INSTANCE_METADATA_ADDRESS, 80),
        Reached::Silence,
        "from the task"
    );
    task.detach(&network);
}

fn outside_sees_the_hosts_address(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let server = listen_in(&world.outside, OUTSIDE, 8080);
    let netns = &task.netns;
    let seen = thread::scope(|scope| {
        let client = scope.spawn(|| inside(netns, || fetch(OUTSIDE, 8080)));
        assert_eq!(accept(&server).ip(), HOST);
        client.join().expect("no panic")
    });
    assert_eq!(seen, HOST.to_string());
    task.detach(&network);
}

fn outside_does_not_reach_a_task(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    task.serve(ANY, 8080);
    let address = task.address;
    assert_eq!(
        inside(&world.outside, move || connect(address, 8080)),
        Reached::Silence
    );
    task.detach(&network);
}

fn outside_does_not_reach_the_endpoints(world: &World) {
    let _network = world.network();
    let _endpoint = TcpListener::bind((METADATA_ADDRESS, METADATA_PORT)).expect("bound");
    let _other = TcpListener::bind((ANY, 8080)).expect("bound");
    inside(&world.outside, || {
        let mut socket = berth_netns::netlink::RouteSocket::open().expect("a socket");
        let link = socket.index_of("eth0").expect("there");
        let route = berth_netns::netlink::add_route(link, METADATA_ADDRESS.into(), HOST);
        socket.send(&[route]).expect("added");
        assert_eq!(connect(METADATA_ADDRESS, METADATA_PORT), Reached::Silence);
        assert_eq!(connect(METADATA_ADDRESS, 80), Reached::Silence);
        assert_eq!(connect(ROUTER, 8080), Reached::Silence);
        assert_eq!(
            connect(HOST, 8080),
            Reached::Yes,
            "what is the host's own stays as it was"
        );
    });
}

fn the_host_reaches_a_task(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    task.serve(ANY, 8080);
    assert_eq!(connect(task.address, 8080), Reached::Yes);
    task.detach(&network);
}

fn a_task_does_not_reach_the_hosts_services(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let _service = TcpListener::bind((ANY, 22)).expect("bound");
    let datagrams = UdpSocket::bind((ANY, 123)).expect("bound");
    for address in [ROUTER, RESOLVER, METADATA_ADDRESS, HOST] {
        assert_eq!(task.connect(address, 22), Reached::Silence, "{address}");
        task.udp(ANY, 0)
            .send_to(b"x", (address, 123))
            .expect("sent");
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
    assert_eq!(receive(&resolver).as_deref(), Some(&b"name?"[..]));
    assert_eq!(task.connect(RESOLVER, 53), Reached::Yes);
    drop(asking);
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
