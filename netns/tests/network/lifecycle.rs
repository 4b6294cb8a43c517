//! Attaching and detaching, again and again, until nothing is free, and after things went wrong.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

use berth_netns::netlink::{LOOPBACK, RouteSocket, bring_up};
use berth_netns::{Error, Network, NetworkConfig, Subnet};

use crate::Case;
use crate::leaks;
use crate::world::{BEFORE_REMOVAL, PATIENCE, Reached, Task, World, connect, eni, request, sysctl};

/// The test that takes a table of connections that is not too large.
pub const FILLS_CONNECTIONS: &str = "a_host_that_tracks_all_the_connections_it_may_says_what_to_do";

pub fn cases() -> Vec<Case> {
    vec![
        (
            "detach_is_idempotent_and_frees_the_address",
            detach_is_idempotent,
        ),
        (
            "an_exhausted_subnet_says_what_to_do",
            an_exhausted_subnet_says_what_to_do,
        ),
        (FILLS_CONNECTIONS, a_full_table_of_connections),
        (
            "a_subnets_ranges_may_change_while_tasks_run",
            ranges_may_change,
        ),
        ("a_subnet_in_use_can_not_be_left_out", a_subnet_in_use_stays),
        (
            "an_unknown_subnet_or_group_is_refused",
            an_unknown_subnet_or_group_is_refused,
        ),
        (
            "an_interface_is_attached_once",
            an_interface_is_attached_once,
        ),
        (
            "a_network_opened_again_keeps_its_tasks",
            a_network_opened_again_keeps_its_tasks,
        ),
        (
            "reconcile_frees_the_dead_and_keeps_the_living",
            reconcile_frees_the_dead,
        ),
        (
            "threads_attach_and_detach_at_the_same_time",
            threads_attach_at_the_same_time,
        ),
    ]
}

fn detach_is_idempotent(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    assert_eq!(network.list().expect("listed").len(), 1);
    assert_eq!(leaks::allocations(world), [task.address.to_string()]);
    assert!(matches!(
        network.wait_until_gone(&eni(1), BEFORE_REMOVAL),
        Err(Error::StillAttached(_))
    ));
    task.detach(&network);
    network.detach(&eni(1)).expect("again");
    network.detach(&eni(99)).expect("never attached");
    assert!(network.list().expect("listed").is_empty());
}

fn an_exhausted_subnet_says_what_to_do(world: &World) {
    let id = Subnet::default_subnet().id().clone();
    let small =
        Subnet::new(id, "10.231.0.0/28".parse().expect("a network"), "berth0").expect("valid");
    let small = small
        .with_ipv6("fd00:1::/64".parse().expect("a network"))
        .expect("valid")
        .with_mode(world.mode);
    let config = NetworkConfig {
        subnets: vec![small],
        ..world.config()
    };
    let network = Network::open(config.clone()).expect("opened");
    let tasks: Vec<Task> = (1..=11)
        .map(|number| Task::attach(&network, number))
        .collect();
    let error = network.attach(&request(12)).expect_err("full");
    assert!(
        matches!(error, Error::AddressesExhausted { capacity: 11, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("subnet-00000000000000001"),
        "{error}"
    );
    tasks.into_iter().for_each(|task| task.detach(&network));
    Task::attach(&network, 12).detach(&network);
}

/// Whether a test can fill the kernel's table of connections.
pub fn can_fill_connections() -> bool {
    const MANY: u32 = 300_000;
    let limit = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    limit.is_ok_and(|limit| limit.trim().parse().is_ok_and(|limit: u32| limit <= MANY))
}

/// Each datagram to another port of loopback is a connection.
fn a_full_table_of_connections(world: &World) {
    let network = world.network();
    let one = Task::attach(&network, 1);
    let mut routes = RouteSocket::open().expect("a socket");
    routes.send(&[bring_up(LOOPBACK)]).expect("up");
    let limit: usize = sysctl("netfilter/nf_conntrack_max")
        .parse()
        .expect("a number");
    // However long it takes to fill it, none is forgotten meanwhile.
    let timeout = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout";
    fs::write(timeout, "3600").expect("root may write");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let addresses = (1..=u8::MAX).map(|last| Ipv4Addr::new(127, 0, 0, last));
    let targets = addresses.flat_map(|address| (1..=u16::MAX).map(move |port| (address, port)));
    // A table that is nearly full loses some now and then, of those that nobody has answered.
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        for target in targets.clone().take(limit + 1) {
            // Nobody listens, and dropped ones are no loss.
            sender.send_to(b"1", target).ok();
        }
        match network.attach(&request(2)) {
            Ok(attachment) => Task::of(&attachment).detach(&network),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "it is never full");
    };
    assert!(
        matches!(error, Error::ConnectionsExhausted { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&limit.to_string()), "{text}");
    assert!(text.contains("net.netfilter.nf_conntrack_max"), "{text}");
    assert_eq!(leaks::allocations(world), [one.address.to_string()]);
    one.detach(&network);
}

/// The default subnet with other ranges.
fn with_ranges(world: &World, ipv4: &str, ipv6: Option<&str>) -> NetworkConfig {
    let id = Subnet::default_subnet().id().clone();
    let subnet = Subnet::new(id, ipv4.parse().expect("a network"), "berth0").expect("valid");
    let subnet = match ipv6 {
        Some(range) => subnet.with_ipv6(range.parse().expect("a network")),
        None => Ok(subnet),
    };
    NetworkConfig {
        subnets: vec![subnet.expect("valid").with_mode(world.mode)],
        ..world.config()
    }
}

/// What a subnet has may change between starts, while tasks run.
fn ranges_may_change(world: &World) {
    const IPV6: Option<&str> = Some("fd62:6572:7468::/64");
    let open = |config| Network::open(config).expect("opened");
    let network = open(with_ranges(world, "10.231.0.0/25", IPV6));
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    drop(network);
    for (ipv4, ipv6) in [
        ("10.231.0.0/24", IPV6),
        ("10.231.0.0/24", None),
        ("10.231.0.0/25", IPV6),
    ] {
        let network = open(with_ranges(world, ipv4, ipv6));
        let live = [one.id.clone(), two.id.clone()];
        let report = network.reconcile(&live, &[]).expect("reconciled");
        assert_eq!(report.lost, [], "{ipv4} {ipv6:?}");
        assert_eq!(
            one.connect(two.address, 80),
            Reached::Yes,
            "{ipv4} {ipv6:?}"
        );
        assert_eq!(connect(two.address, 80), Reached::Yes, "{ipv4} {ipv6:?}");
    }
    let network = open(with_ranges(world, "10.231.0.0/25", None));
    one.detach(&network);
    drop(network);
    let network = open(with_ranges(world, "10.231.0.0/25", IPV6));
    two.detach(&network);
}

fn a_subnet_in_use_stays(world: &World) {
    let network = world.network();
    let task = Task::attach_in(&network, 1, 1);
    drop(network);
    let mut config = world.config();
    config.subnets.remove(1);
    let error = Network::open(config).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "subnet-00000000000000002 is no longer configured, and still has 1 interfaces of tasks; put it back, or stop \
         them first"
    );
    let network = world.network();
    task.detach(&network);
}

fn an_unknown_subnet_or_group_is_refused(world: &World) {
    let network = world.network();
    let mut wrong = request(1);
    wrong.subnet = "subnet-00000000000000009".parse().expect("valid");
    assert!(matches!(
        network.attach(&wrong),
        Err(Error::UnknownSubnet(_))
    ));
    let mut wrong = request(1);
    wrong.security_groups = vec!["sg-00000000000000009".parse().expect("valid")];
    assert!(matches!(
        network.attach(&wrong),
        Err(Error::UnknownSecurityGroup(_))
    ));
}

fn an_interface_is_attached_once(world: &World) {
    let network = world.network();
    let (task, other) = (Task::attach(&network, 1), Task::attach(&network, 2));
    assert!(matches!(
        network.attach(&request(1)),
        Err(Error::AlreadyAttached(_))
    ));
    task.serve(task.address, 80);
    assert_eq!(
        other.connect(task.address, 80),
        Reached::Yes,
        "the first is undisturbed"
    );
    task.detach(&network);
    other.detach(&network);
}

fn a_network_opened_again_keeps_its_tasks(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    assert!(matches!(
        Network::open(world.config()),
        Err(Error::Locked { .. })
    ));
    assert!(matches!(
        Network::undo(&world.config()),
        Err(Error::Locked { .. })
    ));
    drop(network);
    assert!(matches!(
        Network::undo(&world.config()),
        Err(Error::InUse(2))
    ));
    let network = world.network();
    let report = network
        .reconcile(&[one.id.clone(), two.id.clone()], &[])
        .expect("reconciled");
    assert_eq!(
        report,
        berth_netns::Report::default(),
        "there was nothing to do"
    );
    two.serve(two.address, 80);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    one.detach(&network);
    two.detach(&network);
}

fn reconcile_frees_the_dead(world: &World) {
    let network = world.network();
    let (alive, other, dead) = (
        Task::attach(&network, 1),
        Task::attach(&network, 2),
        Task::attach(&network, 3),
    );
    alive.serve(alive.address, 80);
    let report = network
        .reconcile(&[eni(1), eni(2), eni(7)], &[])
        .expect("reconciled");
    assert_eq!(report.released.len(), 1);
    assert_eq!(report.lost, [eni(7)]);
    assert_eq!(other.connect(alive.address, 80), Reached::Yes);
    // Its namespace is still held by a descriptor; its link is gone nevertheless.
    assert!(!leaks::links().contains(&dead.id.host_link()));
    alive.detach(&network);
    other.detach(&network);
}

fn threads_attach_at_the_same_time(world: &World) {
    let network = world.network();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let network = &network;
            scope.spawn(move || {
                for number in 0..5 {
                    Task::attach(network, 100 * thread + number).detach(network);
                }
            });
        }
    });
}
