//! firewalld as a neighbour, whichever was there first: the real daemon with a bus of its own, in the test's own
//! network and mount namespace.

mod daemon;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use berth_netns::netlink::{RouteSocket, add_address};
use berth_netns::{
    FirewalldEvent, FirewalldWatch, HostPort, METADATA_ADDRESS, METADATA_PORT, Network,
    PortProtocol, PublishedPort,
};
use ipnet::Ipv4Net;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

pub use daemon::is_installed;
use daemon::{Bus, PATIENCE, ask};

use crate::Case;
use crate::check;
use crate::leaks::nft;
use crate::public::{self, PUBLIC};
use crate::published;
use crate::security_groups;
use crate::world::{
    Attempt, HOST, HOST6, OUTSIDE, OUTSIDE6, Reached, StopAtEnd, Task, World, arrives, briefly,
    connect, inside, listen_in, receive, receive_within, request, within,
};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "what_it_rejects_unless_it_is_told_and_what_it_lets_pass_by_itself",
            what_it_rejects,
        ),
        ("one_that_was_there_first_lets_tasks_pass", was_there_first),
        ("one_that_comes_later_lets_tasks_pass_too", comes_later),
        ("public_addresses_lead_both_ways_too", public_addresses_too),
        ("reloads_and_restarts_change_nothing", reloads_and_restarts),
        ("undo_leaves_nothing_in_its_zones", undo_leaves_nothing),
        ("a_zone_of_somebodys_choice_stays", another_zone_stays),
        (
            "who_claims_to_be_a_task_gets_no_more_than_others",
            no_one_else_is_trusted,
        ),
        ("one_that_hangs_keeps_nobody_waiting", it_hangs),
        (
            "the_end_of_a_failure_is_told_though_nothing_had_to_be_done",
            failure_ends,
        ),
        ("rules_without_a_daemon_are_told_of_once", no_daemon),
    ]
}

fn trusted() -> Vec<String> {
    let links = ask(&["--zone=trusted", "--list-interfaces"]);
    let mut links: Vec<String> = links.split_whitespace().map(str::to_owned).collect();
    links.sort();
    links
}

/// The default subnets' bridges, and the links of routed tasks.
const LINKS: [&str; 4] = ["berth0", "berth1", "berth2", "eni-+"];

/// Does something while a watch runs, which has looked before.
fn watched(network: &Network, work: impl FnOnce(&Receiver<FirewalldEvent>)) {
    let (tell, told) = channel();
    let mut watch = FirewalldWatch::open(network).expect("opened");
    watch.look(|event| tell.send(event).expect("heard"));
    thread::scope(|scope| {
        let stop = StopAtEnd(watch.stop());
        scope.spawn(move || watch.run(|event| tell.send(event).expect("heard")));
        work(&told);
        drop(stop);
    });
}

/// All that is told until a look succeeds, but for failures: a busy machine's firewalld may take longer than a look
/// waits.
fn look(network: &Network) -> Vec<FirewalldEvent> {
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    let mut watch = FirewalldWatch::open(network).expect("opened");
    watch.look(|event| events.push(event));
    while matches!(events.last(), Some(FirewalldEvent::Failed(_))) {
        assert!(Instant::now() < deadline, "{events:?}");
        watch.look(|event| events.push(event));
    }
    events.retain(|event| !matches!(event, FirewalldEvent::Failed(_)));
    events
}

/// What is told next, but for failures.
fn next(told: &Receiver<FirewalldEvent>) -> FirewalldEvent {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match told.recv_timeout(left).expect("told") {
            FirewalldEvent::Failed(_) => {}
            event => return event,
        }
    }
}

/// Waits until it is told that all links pass, in however many pieces, and they are in the zone.
fn passes(told: &Receiver<FirewalldEvent>) {
    let mut passing = Vec::new();
    while passing != LINKS {
        match next(told) {
            FirewalldEvent::Passes { links } => passing.extend(links),
            other => panic!("{other:?}"),
        }
        passing.sort();
        passing.dedup();
    }
    until("all links are in the zone", || trusted() == LINKS);
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Undoes what the network made, as often as firewalld doesn't answer in time.
fn undo(world: &World) {
    until("it is undone", || match Network::undo(&world.config()) {
        Ok(()) => true,
        Err(error) if error.to_string().contains("in time") => false,
        Err(error) => panic!("{error}"),
    });
}

/// Two tasks, of which the second serves on port 80 and publishes it as 8080 of the host.
struct Tasks {
    one: Task,
    two: Task,
}

impl Tasks {
    fn attach(world: &World, network: &Network) -> Self {
        published::frames_pass_iptables_by(world);
        let one = Task::attach(network, 1);
        let published = PublishedPort {
            host: HostPort {
                protocol: PortProtocol::Tcp,
                port: 8080,
            },
            container_port: 80,
        };
        let request = berth_netns::AttachRequest {
            published: vec![published],
            ..request(2)
        };
        let two = Task::of(&network.attach(&request).expect("attached"));
        for address in two.addresses() {
            two.serve(address, 80);
        }
        Self { one, two }
    }

    fn detach(self, network: &Network) {
        self.one.detach(network);
        self.two.detach(network);
    }

    /// What becomes of each way that tasks and others take: whether it is open. Those that are to be shut are waited for
    /// briefly.
    fn ways(
        &self,
        world: &World,
        network: &Network,
        shut: &[&str],
    ) -> Vec<(&'static str, Reached)> {
        let patience = |way| match shut.contains(&way) {
            true => briefly(),
            false => PATIENCE,
        };
        let tcp = |way, attempt: Attempt| (way, attempt.within(patience(way)));
        let resolver = network.subnets()[0].resolver();
        let _servers = [
            listen_in(&world.outside, OUTSIDE, 80),
            listen_in(&world.outside, OUTSIDE6, 80),
            listen(resolver, 53),
            listen(METADATA_ADDRESS, METADATA_PORT),
        ];
        let (one, two) = (&self.one, &self.two);
        let asks = |way, resolver| (way, asks(one, resolver, patience(way)));
        let pings = |way, address| (way, pings(one, address, patience(way)));
        let from_outside = |to: IpAddr| inside(&world.outside, || connect(to, 8080));
        vec![
            tcp("task, IPv4", one.connect(two.address, 80)),
            tcp("task, IPv6", one.connect(two.ipv6_address, 80)),
            tcp("outside, IPv4", one.connect(OUTSIDE, 80)),
            tcp("outside, IPv6", one.connect(OUTSIDE6, 80)),
            tcp("resolver, TCP", one.connect(resolver, 53)),
            asks("resolver, UDP", resolver),
            pings("ping of the router", network.subnets()[0].router()),
            tcp("metadata", one.connect(METADATA_ADDRESS, 80)),
            tcp("published, IPv4", from_outside(HOST.into())),
            tcp("published, IPv6", from_outside(HOST6.into())),
            tcp("published, from a task", one.connect(HOST, 8080)),
        ]
    }

    fn all_is_open(&self, world: &World, network: &Network) {
        for (way, reached) in self.ways(world, network, &[]) {
            assert_eq!(reached, Reached::Yes, "{way}");
        }
        let resolver = network.subnets()[0].resolver();
        let config = world.config();
        check::passes(&config, &self.one, self.two.address, 80);
        check::passes(&config, &self.one, OUTSIDE, 80);
        check::passes(&config, &self.one, resolver, 53);
        // What a task may not reach of the host it doesn't: our own tables decide.
        let _server = listen(HOST, 8081);
        assert_eq!(self.one.connect(HOST, 8081), Reached::Silence);
    }
}

fn listen(address: impl Into<IpAddr>, port: u16) -> std::net::TcpListener {
    std::net::TcpListener::bind((address.into(), port)).expect("bound")
}

/// Whether a datagram reaches the resolver.
fn asks(task: &Task, resolver: Ipv4Addr, patience: Duration) -> Reached {
    let server = UdpSocket::bind((resolver, 53)).expect("bound");
    let client = task.udp(task.address, 0);
    client.send_to(b"?", (resolver, 53)).expect("sent");
    match receive_within(&server, patience) {
        Some(_) => Reached::Yes,
        None => Reached::Silence,
    }
}

fn pings(task: &Task, address: Ipv4Addr, patience: Duration) -> Reached {
    match inside(&task.netns, || security_groups::ping(address, patience)) {
        true => Reached::Yes,
        false => Reached::Silence,
    }
}

fn what_it_rejects(world: &World) {
    let bus = Bus::start();
    let _firewalld = bus.firewalld();
    let network = world.network();
    let tasks = Tasks::attach(world, &network);
    let expected = [
        "task, IPv4",
        "task, IPv6",
        "outside, IPv4",
        "outside, IPv6",
        "resolver, TCP",
        "resolver, UDP",
    ];
    let rejected: Vec<_> = tasks
        .ways(world, &network, &expected)
        .into_iter()
        .filter_map(|(way, reached)| (reached != Reached::Yes).then_some(way))
        .collect();
    assert_eq!(rejected, expected);
    tasks.detach(&network);
}

fn was_there_first(world: &World) {
    let bus = Bus::start();
    let _firewalld = bus.firewalld();
    let network = world.network();
    let events = look(&network);
    assert!(
        matches!(&events[..], [FirewalldEvent::Passes { links }] if *links == LINKS),
        "{events:?}"
    );
    let tasks = Tasks::attach(world, &network);
    tasks.all_is_open(world, &network);
    until("a look finds nothing to do, and tells nothing", || {
        let mut told = 0;
        let mut watch = FirewalldWatch::open(&network).expect("opened");
        watch.look(|_| told += 1);
        told == 0
    });
    let permanent = ask(&["--permanent", "--zone=trusted", "--list-interfaces"]);
    assert_eq!(permanent, "");
    let files = fs::read_dir("/etc/firewalld").expect("there").count();
    assert_eq!(files, 0, "nothing is written");
    tasks.detach(&network);
}

fn public_addresses_too(world: &World) {
    let bus = Bus::start();
    let _firewalld = bus.firewalld();
    let network = public::network(world);
    let task = public::attach(&network, 1);
    task.serve(task.address, 80);
    let server = listen_in(&world.outside, OUTSIDE, 80);
    let from_outside = || inside(&world.outside, || connect(PUBLIC, 80));
    assert_eq!(from_outside(), Reached::Yes, "that it lets pass by itself");
    assert_eq!(task.connect(OUTSIDE, 80), Reached::NoRoute);
    look(&network);
    assert_eq!(from_outside(), Reached::Yes);
    assert_eq!(task.connect(OUTSIDE, 80), Reached::Yes);
    assert_eq!(server.accept().expect("a connection").1.ip(), PUBLIC);
    task.detach(&network);
}

fn comes_later(world: &World) {
    let network = world.network();
    let tasks = Tasks::attach(world, &network);
    tasks.all_is_open(world, &network);
    watched(&network, |told| {
        let bus = Bus::start();
        let _firewalld = bus.firewalld();
        passes(told);
        tasks.all_is_open(world, &network);
    });
    tasks.detach(&network);
}

fn reloads_and_restarts(world: &World) {
    let bus = Bus::start();
    let firewalld = bus.firewalld();
    let network = world.network();
    let tasks = Tasks::attach(world, &network);
    watched(&network, |told| {
        passes(told);
        for reload in ["--reload", "--complete-reload"] {
            ask(&[reload]);
            passes(told);
            tasks.all_is_open(world, &network);
        }
        drop(firewalld);
        tasks.all_is_open(world, &network);
        let firewalld = bus.firewalld();
        passes(told);
        tasks.all_is_open(world, &network);
        // What was added by hand goes with a reload, as firewalld's FlushAllOnReload has it unless somebody changes that:
        // before, all are in the zone still.
        ask(&["--zone=trusted", "--add-interface=theirs"]);
        firewalld.tell(Signal::SIGHUP);
        until("it reloads", || !trusted().contains(&"theirs".to_owned()));
        passes(told);
        tasks.all_is_open(world, &network);
    });
    tasks.detach(&network);
}

fn undo_leaves_nothing(world: &World) {
    let bus = Bus::start();
    let _firewalld = bus.firewalld();
    ask(&["--zone=trusted", "--add-interface=theirs"]);
    let network = world.network();
    look(&network);
    assert_eq!(trusted().len(), LINKS.len() + 1);
    drop(network);
    assert_eq!(
        trusted().len(),
        LINKS.len() + 1,
        "they stay like the tables"
    );
    undo(world);
    assert_eq!(trusted(), ["theirs"]);
}

fn another_zone_stays(world: &World) {
    let bus = Bus::start();
    let _firewalld = bus.firewalld();
    ask(&["--zone=internal", "--add-interface=berth1"]);
    let network = world.network();
    watched(&network, |told| {
        let event = next(told);
        assert!(
            matches!(&event, FirewalldEvent::Passes { links } if *links == ["berth0", "berth2", "eni-+"]),
            "{event:?}"
        );
        assert_eq!(elsewhere(told), ("berth1".into(), "internal".into()));
        ask(&["--add-port=1/tcp"]);
        ask(&["--zone=internal", "--change-interface=berth0"]);
        assert_eq!(elsewhere(told).0, "berth0", "the other was told before");
    });
    drop(network);
    undo(world);
    let internal = ask(&["--zone=internal", "--list-interfaces"]);
    assert!(internal.contains("berth1"), "{internal}");
}

/// The next link in a zone of somebody's choice, and that zone. That others pass may be told after a failure.
fn elsewhere(told: &Receiver<FirewalldEvent>) -> (String, String) {
    loop {
        match next(told) {
            FirewalldEvent::Passes { .. } => {}
            FirewalldEvent::Elsewhere { link, zone } => return (link, zone),
            other => panic!("{other:?}"),
        }
    }
}

fn no_one_else_is_trusted(world: &World) {
    let bus = Bus::start();
    let _firewalld = bus.firewalld();
    let network = world.network();
    look(&network);
    let server = UdpSocket::bind((HOST, 9000)).expect("bound");
    let as_task: Ipv4Addr = "10.231.0.77".parse().expect("an address");
    let client = inside(&world.outside, || {
        let mut routes = RouteSocket::open().expect("a socket");
        let eth0 = routes.index_of("eth0").expect("there");
        let address = add_address(eth0, Ipv4Net::from(as_task), true);
        routes.send(&[address]).expect("added");
        UdpSocket::bind((as_task, 0)).expect("bound")
    });
    client.send_to(b"?", (HOST, 9000)).expect("sent");
    assert_eq!(receive(&server), None);
    // Without firewalld it would have come.
    ask(&["--zone=public", "--add-port=9000/udp"]);
    client.send_to(b"?", (HOST, 9000)).expect("sent");
    assert!(arrives(&server).is_some());
}

fn it_hangs(world: &World) {
    let bus = Bus::start();
    let firewalld = bus.firewalld();
    let network = world.network();
    firewalld.tell(Signal::SIGSTOP);
    let begin = Instant::now();
    watched(&network, |told| {
        let took = begin.elapsed();
        assert!(took < within(Duration::from_secs(20)), "{took:?}");
        let event = told.try_recv().expect("told");
        let FirewalldEvent::Failed(error) = event else {
            panic!("{event:?}");
        };
        assert_eq!(
            error.to_string(),
            "firewalld rejects tasks' traffic, and can't be told to let it pass: no answer to getZoneOfInterface in \
             time: it is busy or stuck; restart firewalld, or do it by hand: firewall-cmd --zone=trusted \
             --add-interface=berth0 --add-interface=berth1 --add-interface=berth2 --add-interface=eni-+"
        );
        let tasks = Tasks::attach(world, &network);
        assert_eq!(tasks.one.connect(OUTSIDE, 80), Reached::NoRoute);
        firewalld.tell(Signal::SIGCONT);
        passes(told);
        tasks.all_is_open(world, &network);
        tasks.detach(&network);
    });
}

fn failure_ends(world: &World) {
    let bus = Bus::start();
    let firewalld = bus.firewalld();
    let network = world.network();
    watched(&network, |told| {
        passes(told);
        firewalld.tell(Signal::SIGSTOP);
        nft(&["add", "chain", "inet", "firewalld", "more"]);
        // It may be told of what came before again.
        while !matches!(
            told.recv_timeout(PATIENCE).expect("told"),
            FirewalldEvent::Failed(_)
        ) {}
        firewalld.tell(Signal::SIGCONT);
        passes(told);
    });
}

fn no_daemon(world: &World) {
    let none = None::<&str>;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("mounted");
    nft(&["add", "table", "inet", "firewalld"]);
    let network = world.network();
    watched(&network, |told| {
        let event = told.recv_timeout(PATIENCE).expect("told");
        let said = match event {
            FirewalldEvent::Failed(error) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let connect = "connect to /run/dbus/system_bus_socket: No such file or directory";
        assert!(said.contains(connect), "{said}");
        nft(&["add", "chain", "inet", "firewalld", "more"]);
        nft(&["delete", "table", "inet", "firewalld"]);
        thread::sleep(Duration::from_millis(500));
        assert!(told.try_recv().is_err(), "that was said");
    });
}
