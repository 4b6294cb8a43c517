//! Many that ask at once, and some that ask for too much.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::Case;
use crate::client::{PATIENCE, addresses, answer, ask, connection, dig, query, socket};
use crate::upstream::{Dnsmasq, Fake};
use crate::world::{OUTSIDE, Task, World};

pub fn cases() -> Vec<Case> {
    vec![
        ("150_tasks_that_ask_at_once_are_all_answered", many),
        (
            "a_task_that_asks_for_too_much_takes_nothing_from_others",
            greedy,
        ),
        (
            "a_task_that_holds_connections_takes_none_from_others",
            connections,
        ),
        (
            "all_tasks_together_hold_the_connections_that_the_agent_can_spare",
            all_connections,
        ),
        (
            "a_connection_that_is_silent_or_says_nonsense_ends",
            bad_connections,
        ),
        ("garbage_is_nothing_to_the_resolver", garbage),
    ]
}

fn many(world: &World) {
    const TASKS: u32 = 150;
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let tasks: Vec<Task> = (1..=TASKS).map(|number| world.task(number)).collect();
    let sockets: Vec<_> = tasks.iter().map(socket).collect();
    let start = Instant::now();
    // As the C library does it: both families of a name. Each once: one that is lost is a failure.
    for (n, socket) in sockets.iter().enumerate() {
        let neighbour = &tasks[(n + 1) % tasks.len()].name;
        for (id, (name, wanted)) in [
            (neighbour.as_str(), RecordType::A),
            (neighbour, RecordType::AAAA),
            ("x.example", RecordType::A),
            ("who.example", RecordType::A),
        ]
        .into_iter()
        .enumerate()
        {
            let id = u16::try_from(id).expect("small");
            socket.send(&query(id, name, wanted)).expect("sent");
        }
    }
    let until = start + PATIENCE;
    for (n, socket) in sockets.iter().enumerate() {
        let mut got = HashSet::new();
        while got.len() < 4 {
            let answer = answer(socket, until);
            let answer = answer.unwrap_or_else(|| panic!("task {n} got {got:?} only"));
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            let expected = match answer.metadata.id {
                0 => vec![tasks[(n + 1) % tasks.len()].address],
                1 => vec![],
                2 => vec![[198, 51, 100, 7].into()],
                _ => vec![OUTSIDE[0]],
            };
            assert_eq!(addresses(&answer), expected);
            got.insert(answer.metadata.id);
        }
    }
    println!(
        "{TASKS} tasks have their four answers after {:?}",
        start.elapsed()
    );
}

fn greedy(world: &World) {
    let _dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let (greedy, other) = (world.task(1), world.task(2));
    let is_no_trouble = || {
        let socket = socket(&greedy);
        for id in 0..500 {
            let name = format!("n{id}.slow.example");
            socket.send(&query(id, &name, RecordType::A)).expect("sent");
        }
        let start = Instant::now();
        has(&other, "x.example", [198, 51, 100, 7].into());
        has(&other, &greedy.name, greedy.address);
        // What is known here it is told all the while.
        has(&greedy, &other.name, other.address);
        let time = start.elapsed();
        for _ in 0..64 {
            let answer = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
            assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        }
        let more = answer(&socket, Instant::now() + Duration::from_secs(1));
        assert!(more.is_none(), "its share of what is asked at once");
        time < Duration::from_secs(2)
    };
    // A busy machine may hold up anything.
    assert!((0..5).any(|_| is_no_trouble()), "others wait");
    dig(&greedy, &["x.example"]).is("NOERROR", &["0 IN A 198.51.100.7"]);
}

/// The task must be told this address.
fn has(task: &Task, name: &str, address: Ipv4Addr) {
    let socket = socket(task);
    socket.send(&query(1, name, RecordType::A)).expect("sent");
    let answer = answer(&socket, Instant::now() + PATIENCE).expect("an answer");
    assert_eq!(addresses(&answer), [address]);
}

fn connections(world: &World) {
    let _resolver = world.resolver();
    let (greedy, other) = (world.task(1), world.task(2));
    let mut held: Vec<TcpStream> = (0..16).map(|_| connection(&greedy)).collect();
    for stream in &mut held {
        let answer = ask(stream, &other.name).expect("an answer");
        assert_eq!(addresses(&answer), [other.address]);
    }
    assert!(ask(&mut connection(&greedy), &other.name).is_none());
    assert!(ask(&mut connection(&other), &other.name).is_some());
    assert!(ask(&mut held[3], &other.name).is_some(), "they go on");
    drop(held);
    let end = Instant::now() + PATIENCE;
    while ask(&mut connection(&greedy), &other.name).is_none() {
        assert!(Instant::now() < end, "connections that ended still count");
        thread::sleep(Duration::from_millis(10));
    }
}

fn all_connections(world: &World) {
    let _resolver = world.resolver();
    let tasks: Vec<Task> = (1..=17).map(|number| world.task(number)).collect();
    let name = &tasks[0].name;
    let streams = tasks
        .iter()
        .flat_map(|task| (0..16).map(|_| connection(task)));
    let mut held: Vec<TcpStream> = streams.collect();
    let answered = held
        .iter_mut()
        .filter_map(|stream| ask(stream, name))
        .count();
    assert_eq!(answered, 256);
    // Datagrams are not connections.
    let address = format!("60 IN A {}", tasks[0].address);
    dig(&tasks[16], &[name]).is("NOERROR", &[&address]);
}

fn bad_connections(world: &World) {
    let _resolver = world.resolver();
    let task = world.task(1);
    let ends = |said: &[u8]| {
        let start = Instant::now();
        let mut stream = connection(&task);
        stream.write_all(said).expect("written");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest).expect("it ends");
        (read, start.elapsed())
    };
    // Nothing, and the beginning of something.
    thread::scope(|scope| {
        let both = [&[][..], &[0, 40, 1, 2]].map(|said| scope.spawn(|| ends(said)));
        for ended in both {
            let (read, time) = ended.join().expect("no panic");
            assert_eq!(read, 0);
            assert!(time > Duration::from_secs(9), "{time:?}");
        }
    });
    // An answer: two servers that answer each other's answers would never end.
    let mut answer = query(1, &task.name, RecordType::A);
    answer[2] |= 0x80;
    let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
    let (read, time) = ends(&[&length[..], &answer].concat());
    assert_eq!(read, 0);
    assert!(time < Duration::from_secs(5), "{time:?}");
    // What can't be read is said to be so, and the connection goes on.
    let mut stream = connection(&task);
    stream
        .write_all(&[0, 12, 7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .expect("written");
    let mut refusal = [0; 14];
    stream.read_exact(&mut refusal).expect("an answer");
    assert_eq!(refusal[..6], [0, 12, 7, 7, 0x81, 1]);
    assert!(ask(&mut stream, &task.name).is_some());
}

fn garbage(world: &World) {
    let _silent = Fake::silent(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    let socket = socket(&task);
    let mut state = 1u32;
    for round in 0..5000usize {
        let mut bytes = query(1, &task.name, RecordType::A);
        for _ in 0..=round % 4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = state.to_be_bytes()[0];
        }
        bytes.truncate(bytes.len() - round % 7);
        // The task's own queue may be full, of what nobody reads.
        socket.send(&bytes).ok();
    }
    let address = format!("60 IN A {}", task.address);
    dig(&task, &[&task.name]).is("NOERROR", &[&address]);
    dig(&task, &["+tcp", &task.name]).is("NOERROR", &[&address]);
}
