//! What the resolver asks of the host's resolvers, which come, go, change and misbehave.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::Case;
use crate::client::{PATIENCE, addresses, answer, dig, query, socket};
use crate::upstream::{Dnsmasq, Fake};
use crate::world::{OUTSIDE, Task, World, inside, resolv_conf};

/// An address that answers carry.
const RIGHT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const WRONG: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// Less than what a client waits before it asks again.
const BEFORE_CLIENTS: Duration = Duration::from_millis(4900);

pub fn cases() -> Vec<Case> {
    vec![
        ("an_outside_name_is_found", an_outside_name),
        ("a_resolver_on_the_hosts_loopback_is_asked", loopback),
        (
            "a_large_answer_is_cut_as_the_client_says_and_whole_over_tcp",
            large,
        ),
        ("a_resolver_that_cuts_is_asked_over_tcp", cut_upstream),
        ("a_silent_resolver_costs_one_query_some_time", silent_first),
        (
            "a_dead_resolver_is_said_and_found_again_when_it_lives",
            dead_then_alive,
        ),
        (
            "a_resolver_that_can_not_find_out_makes_the_next_one_asked",
            failing_first,
        ),
        ("no_query_is_lost_while_the_hosts_resolvers_change", change),
        ("an_answer_is_taken_only_if_it_is_to_the_question", forged),
        ("no_two_queries_look_alike", unpredictable),
        ("a_resolver_that_knows_no_edns_is_asked_without", no_edns),
    ]
}

fn an_outside_name(world: &World) {
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    let found = dig(&task, &["who.example"]);
    found.is("NOERROR", &["0 IN A 192.0.2.2"]);
    assert!(
        found.has("ra") && !found.has("aa") && !found.has("tc"),
        "{}",
        found.text
    );
    dig(&task, &["+tcp", "who.example"]).is("NOERROR", &["0 IN A 192.0.2.2"]);
    dig(&task, &["TXT", "text.example"]).is("NOERROR", &["0 IN TXT \"hello\""]);
    dig(&task, &["AAAA", "x.example"]).is("NOERROR", &[]);
    // Nobody there knows it.
    dig(&task, &["who.test"]).is("REFUSED", &[]);
    // The host's resolvers are nobody's to use without the wish to be helped.
    dig(&task, &["+norecurse", "who.example"]).is("REFUSED", &[]);
}

/// Takes one query of the host's at this address, if one comes in that time, and answers it without records.
fn answer_one(at: IpAddr, patience: Duration) -> JoinHandle<bool> {
    let socket = UdpSocket::bind((at, 53)).expect("bound");
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    thread::spawn(move || {
        let mut buffer = [0; 512];
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            return false;
        };
        buffer[2] |= 0x80;
        socket.send_to(&buffer[..length], from).expect("sent");
        true
    })
}

fn loopback(world: &World) {
    let _resolver = world.resolver();
    let task = world.task(1);
    for local in ["127.0.0.53", "::1"] {
        let text = format!("nameserver {local}\n");
        fs::write(world.file("resolv.conf"), text).expect("written");
        let server = answer_one(local.parse().expect("an address"), PATIENCE);
        dig(&task, &["x.example"]).is("NOERROR", &[]);
        assert!(server.join().expect("no panic"), "it was asked");
    }
}

fn large(world: &World) {
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    for (args, limit) in [
        (&["+noedns"][..], 512),
        (&["+bufsize=600"], 600),
        (&["+bufsize=1232"], 1232),
    ] {
        let cut = dig(&task, &[args, &["+ignore", "big.example"]].concat());
        assert!(cut.has("tc"), "{args:?}: {}", cut.text);
        let size = cut.text.split("MSG SIZE  rcvd: ").nth(1);
        let size: usize = size.expect("a size").trim().parse().expect("a number");
        assert!(size <= limit && size + 16 > limit, "{args:?}: {size}");
        assert!(cut.answers.len() > 20, "{args:?}: {}", cut.text);
    }
    // dig doesn't say that it takes more.
    let query = query(1, "big.example", RecordType::A);
    let mut query = Message::from_vec(&query).expect("a query");
    query.edns.insert(Edns::new()).set_max_payload(65_000);
    let socket = socket(&task);
    let bytes = query.to_vec().expect("it can be written");
    socket.send(&bytes).expect("sent");
    let cut = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
    assert!(cut.metadata.truncation && cut.answers.len() < 100);
    for args in [&[][..], &["+noedns"], &["+tcp"]] {
        let whole = dig(&task, &[args, &["big.example"]].concat());
        assert!(!whole.has("tc"), "{}", whole.text);
        let addresses: HashSet<&String> = whole.answers.iter().collect();
        assert_eq!(addresses.len(), 100, "{args:?}: {}", whole.text);
    }
}

fn cut_upstream(world: &World) {
    let address = OUTSIDE[0];
    let datagrams = Fake::start(world, address, |got| {
        let mut answer = got.answer(WRONG);
        answer.metadata.truncation = true;
        got.send(&answer);
    });
    world.host_asks(&[address]);
    let _resolver = world.resolver();
    let task = world.task(1);
    // Nobody there over TCP: a part is more than nothing.
    let part = dig(&task, &["+ignore", "who.example"]);
    part.is("NOERROR", &[&format!("60 IN A {WRONG}")]);
    assert!(part.has("tc"), "{}", part.text);
    drop(datagrams);
    let dnsmasq = Dnsmasq::start(world, address);
    let whole = dig(&task, &["+tcp", "big.example"]);
    assert_eq!(whole.answers.len(), 100, "{}", whole.text);
    let over_tcp = dnsmasq
        .log()
        .lines()
        .filter(|l| l.contains("query[A] big"))
        .count();
    assert_eq!(over_tcp, 2, "by datagram, then over TCP: {}", dnsmasq.log());
}

fn silent_first(world: &World) {
    let asked = Arc::new(Mutex::new(HashSet::new()));
    let noted = Arc::clone(&asked);
    let _silent = Fake::start(world, OUTSIDE[0], move |got| {
        let name = got.message.queries[0].name().to_ascii();
        noted.lock().expect("no panic").insert(name);
    });
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[1]);
    world.host_asks(&OUTSIDE);
    let _resolver = world.resolver();
    let task = world.task(1);
    let finds = |name| dig(&task, &[name]).is("NOERROR", &["0 IN A 198.51.100.7"]);
    let was_asked = |name| {
        let asked = asked.lock().expect("no panic");
        asked.contains(&format!("{name}."))
    };
    finds("a.example");
    let end = Instant::now() + PATIENCE;
    while !was_asked("a.example") {
        assert!(Instant::now() < end, "it was asked first");
        thread::sleep(Duration::from_millis(5));
    }
    let costs_time = |name| {
        finds(name);
        was_asked(name)
    };
    // A busy machine may hold up the other one for as long, which makes this one the first again.
    let later = ["b.example", "c.example", "d.example"];
    assert!(!later.into_iter().all(costs_time), "it still is");
}

/// The host's resolvers must be given up within that time, at one of a few queries: a busy machine may hold up others.
fn are_given_up_within(task: &Task, limit: Duration) {
    let socket = socket(task);
    let query = query(1, "who.example", RecordType::A);
    let time = || {
        let start = Instant::now();
        socket.send(&query).expect("sent");
        let answer = answer(&socket, start + PATIENCE).expect("an answer");
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        start.elapsed()
    };
    let mut times = Vec::new();
    while times.iter().all(|time| *time >= limit) {
        assert!(times.len() < 5, "{times:?}");
        times.push(time());
    }
}

/// Whether a query that nobody is there for yet has its answer from who comes a little later.
fn is_kept_for(task: &Task, later: IpAddr) -> bool {
    let socket = socket(task);
    let query = query(1, "who.example", RecordType::A);
    socket.send(&query).expect("sent");
    thread::sleep(Duration::from_millis(400));
    let server = answer_one(later, Duration::from_secs(3));
    let found = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
    let asked = server.join().expect("no panic");
    asked && found.metadata.response_code == ResponseCode::NoError
}

fn dead_then_alive(world: &World) {
    // On loopback, where the kernel says each time that nobody is there.
    let local = Ipv4Addr::new(127, 0, 0, 53);
    world.host_asks(&[local]);
    let _resolver = world.resolver();
    let task = world.task(1);
    dig(&task, &["who.example"]).is("SERVFAIL", &[]);
    are_given_up_within(&task, Duration::from_millis(1600));
    // One that is just being started again has its queries all the same. A busy machine may start it too late.
    let mut tries = 0..5;
    assert!(tries.any(|_| is_kept_for(&task, local.into())));
    // All silent: the client is told before it gives up.
    let silent = OUTSIDE.map(|address| Fake::silent(world, address));
    world.host_asks(&OUTSIDE);
    are_given_up_within(&task, BEFORE_CLIENTS);
    drop(silent);
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    dig(&task, &["who.example"]).is("NOERROR", &["0 IN A 192.0.2.2"]);
}

fn failing_first(world: &World) {
    let codes = [ResponseCode::ServFail, ResponseCode::Refused];
    let mut turn = 0;
    let failing = Fake::start(world, OUTSIDE[0], move |got| {
        turn += 1;
        got.send(&got.refusal(codes[turn % 2]));
    });
    world.host_asks(&OUTSIDE);
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    for name in ["a.example", "b.example"] {
        dig(&task, &[name]).is("NOERROR", &["0 IN A 198.51.100.7"]);
    }
    drop(failing);
    // That there is no such name is an answer, and no failure.
    let _denying = Fake::start(world, OUTSIDE[0], |got| {
        got.send(&got.refusal(ResponseCode::NXDomain));
    });
    dig(&task, &["c.example"]).is("NXDOMAIN", &[]);
}

fn change(world: &World) {
    let _both = OUTSIDE.map(|address| Dnsmasq::start(world, address));
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    let socket = socket(&task);
    let both_seen = AtomicBool::new(false);
    let end = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        let changes = scope.spawn(|| {
            // As many as it takes until each has been asked: a busy machine may not come to it for a while.
            let goes_on = |round| round < 200 || !both_seen.load(Ordering::Relaxed);
            for round in (0..).take_while(|round| goes_on(*round) && Instant::now() < end) {
                let now = &OUTSIDE[round % 2..][..1];
                if round % 3 == 0 {
                    // Emptied first, as an editor or a script does it.
                    fs::write(world.file("resolv.conf"), resolv_conf(now)).expect("written");
                } else {
                    world.host_asks(now);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let mut asked = 0;
        let mut seen = HashSet::new();
        while !changes.is_finished() {
            asked += 1;
            let query = query(asked, "who.example", RecordType::A);
            socket.send(&query).expect("sent");
            let answer = answer(&socket, Instant::now() + PATIENCE);
            let answer = answer.unwrap_or_else(|| panic!("query {asked} is lost"));
            assert_eq!(answer.metadata.id, asked);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            seen.extend(addresses(&answer));
            both_seen.store(seen.len() == 2, Ordering::Relaxed);
        }
        assert_eq!(seen, HashSet::from(OUTSIDE), "of {asked}");
    });
    world.host_asks(&OUTSIDE[1..]);
    dig(&task, &["who.example"]).is("NOERROR", &["0 IN A 192.0.2.3"]);
}

fn forged(world: &World) {
    let stranger = inside(&world.outside, || {
        UdpSocket::bind((OUTSIDE[1], 0)).expect("bound")
    });
    let _fake = Fake::start(world, OUTSIDE[0], move |got| {
        let wrong = got.answer(WRONG);
        let mut other_number = wrong.clone();
        other_number.metadata.id ^= 1;
        got.send(&other_number);
        let mut other_question = wrong.clone();
        other_question.queries[0].set_query_type(RecordType::AAAA);
        got.send(&other_question);
        let mut no_question = wrong.clone();
        no_question.queries.clear();
        got.send(&no_question);
        got.send(&got.message);
        got.socket.send_to(b"nonsense", got.from).expect("sent");
        // The right bytes of somebody else.
        let bytes = wrong.to_vec().expect("it can be written");
        stranger.send_to(&bytes, got.from).expect("sent");
        got.send(&got.answer(RIGHT));
    });
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    for _ in 0..20 {
        dig(&task, &["x.example"]).is("NOERROR", &[&format!("60 IN A {RIGHT}")]);
    }
}

fn unpredictable(world: &World) {
    let seen = Arc::new(Mutex::new((HashSet::new(), HashSet::new())));
    let noted = Arc::clone(&seen);
    let _fake = Fake::start(world, OUTSIDE[0], move |got| {
        let mut noted = noted.lock().expect("no panic");
        noted.0.insert(got.message.metadata.id);
        noted.1.insert(got.from.port());
        got.send(&got.answer(RIGHT));
    });
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    let socket = socket(&task);
    for _ in 0..200 {
        // Always the same number, and the same port, of the client's.
        let query = query(77, "x.example", RecordType::A);
        socket.send(&query).expect("sent");
        answer(&socket, Instant::now() + PATIENCE).expect("an answer");
    }
    let seen = seen.lock().expect("no panic");
    // Of 65,536 and of some 28,000: a few may come twice.
    assert!(seen.0.len() > 190, "{} numbers", seen.0.len());
    assert!(seen.1.len() > 180, "{} ports", seen.1.len());
}

fn no_edns(world: &World) {
    let queries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&queries);
    let _fake = Fake::start(world, OUTSIDE[0], move |got| {
        counted.fetch_add(1, Ordering::Relaxed);
        if got.message.edns.is_some() {
            let mut refusal = got.refusal(ResponseCode::FormErr);
            refusal.queries.clear();
            refusal.edns = None;
            got.send(&refusal);
        } else {
            got.send(&got.answer(RIGHT));
        }
    });
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    let is_asked_twice = || {
        let found = dig(&task, &["x.example"]);
        found.is("NOERROR", &[&format!("60 IN A {RIGHT}")]);
        // To the client EDNS is between it and us.
        assert!(found.text.contains("EDNS: version: 0"), "{}", found.text);
        queries.swap(0, Ordering::Relaxed) == 2
    };
    // With it and without. A busy machine may hold up an answer until it is asked once more.
    assert!((0..3).any(|_| is_asked_twice()));
}
