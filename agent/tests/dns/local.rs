//! What the resolver answers itself.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_agent::dns::{Server, Sockets};
use hickory_proto::rr::RecordType;
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::Case;
use crate::client::{PATIENCE, addresses, answer, ask, connection, dig, query, socket, socket_to};
use crate::upstream::Dnsmasq;
use crate::world::{DOMAIN, HOST, OUTSIDE, RESOLVER, RESOLVERS, World, inside};

/// How long is waited for an answer that must not come.
const A_WHILE: Duration = Duration::from_millis(500);

pub fn cases() -> Vec<Case> {
    vec![
        (
            "a_task_finds_itself_and_others_there_and_back",
            there_and_back,
        ),
        ("names_come_and_go_with_their_tasks", come_and_go),
        (
            "no_query_for_a_name_of_ours_leaves_the_host",
            nothing_leaves,
        ),
        (
            "every_subnet_has_its_resolver_at_its_own_address",
            two_subnets,
        ),
        ("only_tasks_and_the_host_are_answered", strangers),
        ("a_taken_port_is_said", taken_port),
        (
            "who_asks_while_the_agent_restarts_is_answered_by_the_next",
            asked_meanwhile,
        ),
        ("a_restart_loses_no_name_and_no_client", restart),
    ]
}

fn there_and_back(world: &World) {
    let _resolver = world.resolver();
    let (one, other) = (world.task(1), world.task(2));
    for of in [&one, &other] {
        let address = format!("60 IN A {}", of.address);
        let dug = dig(&one, &[&of.name]);
        dug.is("NOERROR", &[&address]);
        assert!(dug.has("aa") && dug.has("ra"), "{}", dug.text);
        dig(&one, &["+tcp", &of.name]).is("NOERROR", &[&address]);
        let back = format!("60 IN PTR {}.", of.name);
        dig(&one, &["-x", &of.address.to_string()]).is("NOERROR", &[&back]);
    }
    dig(&one, &["AAAA", &one.name]).is("NOERROR", &[]);
    // Two questions in one connection.
    let both = dig(
        &one,
        &["+tcp", "+keepopen", "+short", &one.name, &other.name],
    );
    let expected = format!("{}\n{}\n", one.address, other.address);
    assert_eq!(both.text, expected);
}

fn come_and_go(world: &World) {
    let _resolver = world.resolver();
    let asking = world.task(1);
    let name = world.task(2).name.clone();
    let missing = dig(&asking, &[&name]);
    missing.is("NXDOMAIN", &[]);
    // For how long that may be kept.
    let authority = format!("{DOMAIN}. 5\tIN\tSOA\t{DOMAIN}. nobody.invalid.");
    assert!(missing.text.contains(&authority), "{}", missing.text);
    let task = world.task(3);
    let address = format!("60 IN A {}", task.address);
    dig(&asking, &[&task.name]).is("NOERROR", &[&address]);
}

fn nothing_leaves(world: &World) {
    let dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    let missing = format!("ip-10-231-0-99.{DOMAIN}");
    for name in [&missing, &format!("www.{DOMAIN}")] {
        dig(&task, &[name]).is("NXDOMAIN", &[]);
    }
    for address in [
        "10.231.0.99",
        "192.168.3.4",
        "127.0.0.1",
        "169.254.1.1",
        "fe80::1",
        "fd00::1",
    ] {
        dig(&task, &["-x", address]).is("NXDOMAIN", &[]);
    }
    dig(&task, &["localhost"]).is("NOERROR", &["60 IN A 127.0.0.1"]);
    dig(&task, &["AAAA", "a.localhost"]).is("NOERROR", &["60 IN AAAA ::1"]);
    dig(&task, &["x.example"]).is("NOERROR", &["0 IN A 198.51.100.7"]);
    let log = dnsmasq.log();
    let asked = log.lines().filter(|line| line.contains(": query["));
    let asked: Vec<&str> = asked.collect();
    assert!(
        matches!(asked.as_slice(), [only] if only.contains("x.example")),
        "{asked:?}"
    );
}

fn two_subnets(world: &World) {
    let _resolver = world.resolver();
    let (task, other) = (world.task(1), world.task_in(1, 2));
    assert_eq!(other.address.octets()[..3], [10, 77, 0]);
    for asking in [&task, &other] {
        for at in RESOLVERS {
            let socket = socket_to(asking, at);
            for of in [&task, &other] {
                socket
                    .send(&query(1, &of.name, RecordType::A))
                    .expect("sent");
                let answer = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
                assert_eq!(addresses(&answer), [of.address]);
            }
        }
    }
}

fn strangers(world: &World) {
    let _resolver = world.resolver();
    let task = world.task(1);
    let asks = |from: Ipv4Addr, patience| {
        let socket = UdpSocket::bind((from, 0)).expect("bound");
        socket.connect((RESOLVER, 53)).expect("a way there");
        socket
            .send(&query(1, &task.name, RecordType::A))
            .expect("sent");
        answer(&socket, Instant::now() + patience).is_some()
    };
    let as_it_comes = asks(Ipv4Addr::UNSPECIFIED, PATIENCE);
    assert!(as_it_comes, "the host, as it comes");
    assert!(!asks(HOST, A_WHILE), "no address of a subnet");
    let outside = inside(&world.outside, || asks(OUTSIDE[0], A_WHILE));
    assert!(!outside, "outside");
}

fn taken_port(world: &World) {
    let _other = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("bound");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = Server::bind(
        world.settings(),
        Arc::clone(&world.names),
        Sockets::default(),
    );
    let error = runtime.block_on(server).expect_err("taken");
    assert_eq!(
        format!("{error:#}"),
        "listening for the tasks' DNS queries on 10.231.0.2:53; a DNS server of the host that has port 53 of all \
         addresses must leave this one: Address already in use (os error 98)"
    );
}

fn restart(world: &World) {
    let task = world.task(1);
    let socket = socket(&task);
    let mut connections = Vec::new();
    for round in 0..10 {
        let resolver = world.resolver();
        // Its end comes from the server, which leaves the port busy: the next one gets it still.
        let mut stream = connection(&task);
        let answered = ask(&mut stream, &task.name).expect("an answer");
        assert_eq!(addresses(&answered), [task.address]);
        connections.push(stream);
        let query = query(round, &task.name, RecordType::A);
        socket.send(&query).expect("sent");
        let answer = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
        assert_eq!(answer.metadata.id, round);
        drop(resolver);
    }
}

/// The sockets that somebody holds while no agent runs.
static HELD: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

fn hold(socket: BorrowedFd<'_>) -> io::Result<()> {
    let held = socket.try_clone_to_owned()?;
    HELD.lock().expect("no panic").push(held);
    Ok(())
}

fn asked_meanwhile(world: &World) {
    let task = world.task(1);
    drop(world.resolver_with(Sockets {
        keep: Some(hold),
        ..Sockets::default()
    }));
    // Nobody is there, and nobody says so.
    let socket = socket(&task);
    let mut stream = connection(&task);
    for id in 0..100 {
        let query = query(id, &task.name, RecordType::A);
        socket.send(&query).expect("sent");
    }
    assert!(answer(&socket, Instant::now() + A_WHILE).is_none());
    let mut left = Sockets::default();
    for held in HELD.lock().expect("no panic").drain(..) {
        match getsockopt(&held, sockopt::SockType).expect("a socket") {
            SockType::Datagram => left.datagrams.push(held.into()),
            _ => left.listeners.push(held.into()),
        }
    }
    let both = (left.datagrams.len(), left.listeners.len());
    assert_eq!(both, (RESOLVERS.len(), RESOLVERS.len()));
    let _resolver = world.resolver_with(left);
    for id in 0..100 {
        let answer = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
        assert_eq!(answer.metadata.id, id);
        assert_eq!(addresses(&answer), [task.address]);
    }
    let answer = ask(&mut stream, &task.name).expect("an answer");
    assert_eq!(addresses(&answer), [task.address]);
}
