//! Interfaces that are prepared before a task wants one, and namespaces that somebody else has made.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use berth_netns::netlink::{LOOPBACK, NewVeth, RouteSocket};
use berth_netns::{AttachRequest, EniId, MacAddress, Network, Subnet, SubnetId};
use nix::sched::{CloneFlags, unshare};

use crate::Case;
use crate::leaks;
use crate::world::{
    BEFORE_REMOVAL, PATIENCE, Reached, Task, World, eni, inside, new_namespace, request,
};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "a_prepared_interface_is_a_tasks_own_at_once",
            a_prepared_interface_becomes_a_tasks,
        ),
        (
            "more_tasks_than_are_prepared_get_interfaces_too",
            more_than_prepared,
        ),
        (
            "what_is_prepared_stays_through_a_reconciliation_and_goes_when_told",
            stays_and_goes,
        ),
        (
            "what_is_prepared_goes_with_its_process",
            goes_with_its_process,
        ),
        (
            "a_namespace_that_is_given_is_joined_and_left",
            a_given_namespace,
        ),
        (
            "a_user_namespace_can_own_a_tasks_network",
            a_namespace_of_a_user_namespace,
        ),
        (
            "what_is_no_namespace_or_has_an_interface_is_left_as_it_is",
            what_can_not_be_joined,
        ),
    ]
}

fn subnet() -> SubnetId {
    Subnet::default_subnet().id().clone()
}

fn prepared_links() -> Vec<String> {
    let links = leaks::links().into_iter();
    links.filter(|name| name.starts_with("eni-")).collect()
}

fn attach_chosen(network: &Network, number: u32) -> Task {
    let request = AttachRequest {
        eni: network.choose_eni(&subnet()).expect("an id"),
        ..request(number)
    };
    Task::of(&network.attach(&request).expect("attached"))
}

fn a_prepared_interface_becomes_a_tasks(world: &World) {
    let network = world.network();
    let made = network.prepare_interfaces(&subnet(), 2).expect("prepared");
    assert_eq!((made, prepared_links().len()), (2, 2));
    let again = network.prepare_interfaces(&subnet(), 2).expect("prepared");
    assert_eq!((again, prepared_links().len()), (0, 2));
    let (one, two) = (attach_chosen(&network, 1), attach_chosen(&network, 2));
    assert_eq!(prepared_links().len(), 2, "no other was made");
    for (from, to) in [(&one, &two), (&two, &one)] {
        for address in to.addresses() {
            to.serve(address, 80);
            assert_eq!(from.connect(address, 80), Reached::Yes, "{address}");
        }
    }
    assert_eq!(one.connect(crate::world::OUTSIDE, 1), Reached::Refused);
    one.detach(&network);
    two.detach(&network);
}

fn more_than_prepared(world: &World) {
    let network = world.network();
    network.prepare_interfaces(&subnet(), 1).expect("prepared");
    let tasks: Vec<Task> = (1..=3).map(|n| attach_chosen(&network, n)).collect();
    let [first, .., last] = tasks.as_slice() else {
        panic!("three")
    };
    last.serve(last.address, 80);
    assert_eq!(first.connect(last.address, 80), Reached::Yes);
    // One of another subnet than the id was chosen for.
    network.prepare_interfaces(&subnet(), 1).expect("prepared");
    let elsewhere = AttachRequest {
        eni: network.choose_eni(&subnet()).expect("an id"),
        subnet: Subnet::defaults()[1].id().clone(),
        ..request(4)
    };
    let attached = network.attach(&elsewhere).expect("attached");
    assert!(Subnet::defaults()[1].cidr().contains(&attached.eni.address));
    let tasks = tasks.into_iter().chain([Task::of(&attached)]);
    tasks.for_each(|task| task.detach(&network));
}

fn stays_and_goes(world: &World) {
    let network = world.network();
    network.prepare_interfaces(&subnet(), 3).expect("prepared");
    let chosen = network.choose_eni(&subnet()).expect("an id");
    assert_eq!(network.reconcile(&[], &[]).expect("done").links, [""; 0]);
    assert_eq!(prepared_links().len(), 3);
    // One that was asked for and is not wanted after all.
    network.detach(&chosen).expect("detached");
    network
        .wait_until_gone(&chosen, BEFORE_REMOVAL)
        .expect("gone");
    assert_eq!(prepared_links().len(), 2);
    network.discard_prepared().expect("removed");
    assert_eq!(prepared_links(), [""; 0]);
}

fn goes_with_its_process(world: &World) {
    let network = world.network();
    network.prepare_interfaces(&subnet(), 2).expect("prepared");
    drop(network);
    // The kernel ends namespaces of the whole host one after the other.
    let deadline = Instant::now() + 2 * PATIENCE;
    while !prepared_links().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", prepared_links());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_given_namespace(world: &World) {
    let network = world.network();
    let given = new_namespace();
    let attachment = network
        .attach_namespace(&request(1), given.as_fd())
        .expect("attached");
    let (one, two) = (Task::of(&attachment), Task::attach(&network, 2));
    for address in one.addresses() {
        one.serve(address, 80);
        assert_eq!(two.connect(address, 80), Reached::Yes, "{address}");
    }
    let links = |netns: &OwnedFd| {
        let names = inside(netns, leaks::links).into_iter();
        names.filter(|name| name == "eth0").count()
    };
    assert_eq!(links(&given), 1);
    // Detached, but kept: the link goes when patience ends.
    let id = one.id.clone();
    network.detach(&id).expect("detached");
    drop(one);
    network.wait_until_gone(&id, Duration::ZERO).expect("gone");
    assert_eq!(links(&given), 0);
    // And can be joined again.
    let attachment = network.attach_namespace(&request(3), given.as_fd());
    let three = Task::of(&attachment.expect("attached"));
    three.serve(three.address, 80);
    assert_eq!(two.connect(three.address, 80), Reached::Yes);
    drop(given);
    two.detach(&network);
    three.detach(&network);
}

/// What the child process of a test does: it makes a user namespace with a network namespace, and waits for its end.
pub fn own_user_namespace() -> ExitCode {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    println!("made");
    let end = std::io::stdin().lines().next();
    ExitCode::from(u8::from(end.is_some()))
}

fn spawn_owner() -> (Child, OwnedFd) {
    let mut child = Command::new("/proc/self/exe")
        .args(["--child", "own-user-namespace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = String::new();
    let output = child.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut said).expect("read");
    assert_eq!(said, "made\n");
    let netns = File::open(format!("/proc/{}/ns/net", child.id())).expect("there");
    (child, netns.into())
}

fn a_namespace_of_a_user_namespace(world: &World) {
    let network = world.network();
    let (mut owner, netns) = spawn_owner();
    let attachment = network
        .attach_namespace(&request(1), netns.as_fd())
        .expect("attached");
    let (one, two) = (Task::of(&attachment), Task::attach(&network, 2));
    for address in one.addresses() {
        one.serve(address, 80);
        assert_eq!(two.connect(address, 80), Reached::Yes, "{address}");
    }
    let unprivileged = inside(&netns, || {
        crate::world::sysctl("ipv4/ip_unprivileged_port_start")
    });
    assert_eq!(unprivileged, "0");
    drop(netns);
    drop(owner.stdin.take());
    assert!(owner.wait().expect("it ends").success());
    // The mount keeps it beyond its owner.
    assert_eq!(two.connect(one.address, 80), Reached::Yes);
    one.detach(&network);
    two.detach(&network);
}

fn what_can_not_be_joined(world: &World) {
    let network = world.network();
    let file = File::open("/proc/self/status").expect("there");
    let error = network.attach_namespace(&request(1), file.as_fd());
    let error = error.expect_err("no namespace").to_string();
    assert!(
        error.contains("network namespace that was given"),
        "{error}"
    );
    // One that has an eth0: whose that is, nobody asks.
    let given = new_namespace();
    let mut inner = inside(&given, || RouteSocket::open().expect("a socket"));
    let veth = NewVeth {
        name: "foreign",
        mac: None,
        bridge: None,
        peer_name: "eth0",
        peer_mac: MacAddress([2, 0, 0, 0, 0, 7]),
        peer_netns: given.as_fd(),
        mtu: 1500,
    };
    let mut routes = RouteSocket::open().expect("a socket");
    routes.add_veth(&veth).expect("made");
    let error = network.attach_namespace(&request(1), given.as_fd());
    let error = error.expect_err("it has one").to_string();
    assert!(error.contains("veth pair"), "{error}");
    let eth0 = inner.link("eth0").expect("readable").expect("still there");
    assert_eq!(eth0.mac, Some(veth.peer_mac));
    assert_ne!(eth0.index, LOOPBACK);
    routes.delete_link("foreign").expect("ours");
    assert_eq!(network.list().expect("listed"), []);
    let id: EniId = eni(1);
    assert!(!leaks::links().contains(&id.host_link()));
}
