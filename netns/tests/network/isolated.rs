//! Network namespaces that lead nowhere: what root can do in one, whose the ids are, and what is left of it when.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use berth_netns::{Error, Isolated, NetnsName, Network, NetworkConfig, Report, Snapshot, Subnet};

use crate::Case;
use crate::leaks;
use crate::user_namespaces::{is_the_hosts, small, try_as_root};
use crate::world::{OUTSIDE, Reached, Task, World, connect, inside, listen_in, request};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "there_is_loopback_and_nothing_else",
            loopback_and_nothing_else,
        ),
        ("root_of_one_has_it_and_not_the_hosts", root_has_it),
        (
            "its_ids_are_no_interfaces_and_come_back",
            ids_are_its_own_and_come_back,
        ),
        (
            "the_ids_of_prepared_interfaces_give_way_to_it",
            prepared_ones_give_way,
        ),
        (
            "without_subordinate_ids_the_host_owns_it",
            without_ids_the_host_owns_it,
        ),
        (
            "a_name_is_one_namespaces_or_one_interfaces",
            a_name_is_taken_once,
        ),
        ("it_stays_through_a_restart", it_stays_through_a_restart),
        (
            "reconcile_frees_those_that_nobody_wants",
            reconcile_frees_the_unwanted,
        ),
        (
            "the_network_is_not_undone_while_there_is_one",
            no_undo_while_there_is_one,
        ),
        (
            "it_is_no_interface_to_those_who_list_and_ask",
            it_is_no_interface,
        ),
    ]
}

fn name(text: &str) -> NetnsName {
    text.parse().expect("valid")
}

fn open(config: NetworkConfig) -> Network {
    Network::open(config).expect("the network opens")
}

fn isolate(network: &Network, text: &str) -> Isolated {
    network.isolate(&name(text)).expect("isolated")
}

fn release(network: &Network, isolated: &Isolated) {
    network.release(&isolated.netns).expect("released");
}

fn first(isolated: &Isolated) -> u32 {
    isolated.id_range.expect("it has one").first
}

fn loopback_and_nothing_else(world: &World) {
    let network = world.network();
    let isolated = isolate(&network, "one");
    let path = network.netns_path(&isolated.netns);
    let netns: OwnedFd = File::open(&path).expect("mounted").into();
    let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
    let listener = listen_in(&netns, localhost, 80);
    inside(&netns, || {
        assert_eq!(leaks::links_of_somebody(), ["lo"]);
        assert_eq!(connect(localhost, 80), Reached::Yes);
        assert_eq!(connect(OUTSIDE, 80), Reached::NoRoute);
    });
    drop((listener, netns));
    release(&network, &isolated);
    assert!(!path.exists());
    network.release(&isolated.netns).expect("again");
    network.release(&name("never")).expect("never made");
}

fn root_has_it(world: &World) {
    let network = world.network();
    let isolated = isolate(&network, "one");
    assert!(try_as_root(&network.netns_path(&isolated.netns), "lo"));
    release(&network, &isolated);
}

fn ids_are_its_own_and_come_back(world: &World) {
    let network = open(small(world));
    let task = network.attach(&request(1)).expect("attached");
    let one = isolate(&network, "one");
    let of_task = task.eni.id_range.expect("it has one").first;
    assert_eq!((of_task, first(&one)), (3_000_000, 3_065_536));
    let error = network.isolate(&name("two")).expect_err("no more ids");
    assert!(matches!(error, Error::IdsExhausted(_)), "{error}");
    assert!(network.attach(&request(2)).is_err());
    release(&network, &one);
    let two = isolate(&network, "two");
    assert_eq!(first(&two), 3_065_536);
    release(&network, &two);
    Task::of(&task).detach(&network);
}

fn prepared_ones_give_way(world: &World) {
    let network = open(small(world));
    let subnet = Subnet::default_subnet().id().clone();
    network.prepare_interfaces(&subnet, 2).expect("prepared");
    let one = isolate(&network, "one");
    assert_eq!(first(&one), 3_000_000);
    release(&network, &one);
}

fn without_ids_the_host_owns_it(world: &World) {
    let mut config = world.config();
    config.subordinate_ids = None;
    let network = open(config);
    let isolated = isolate(&network, "one");
    assert_eq!(isolated.id_range, None);
    let path = network.netns_path(&isolated.netns);
    assert!(is_the_hosts(&path));
    release(&network, &isolated);
}

fn a_name_is_taken_once(world: &World) {
    let network = open(small(world));
    let one = isolate(&network, "task-1");
    let path = network.netns_path(&one.netns);
    let error = network.isolate(&one.netns).expect_err("isolated already");
    assert!(matches!(error, Error::NamespaceInUse(_)), "{error}");
    let error = network.attach(&request(1)).expect_err("not attached");
    assert!(matches!(error, Error::AlreadyAttached(_)), "{error}");
    assert!(try_as_root(&path, "lo"), "it is undisturbed");
    release(&network, &one);
    // What was refused has given its ids back.
    let task = Task::attach(&network, 1);
    let error = network.isolate(&name("task-1")).expect_err("attached");
    assert!(matches!(error, Error::NamespaceInUse(_)), "{error}");
    assert!(try_as_root(&path, "eth0"), "it is undisturbed");
    task.detach(&network);
}

fn it_stays_through_a_restart(world: &World) {
    let network = open(small(world));
    let one = isolate(&network, "one");
    drop(network);
    let network = open(small(world));
    let wanted = [one.netns.clone(), name("never")];
    let report = network.reconcile(&[], &wanted).expect("reconciled");
    assert_eq!(report, Report::default(), "there was nothing to do");
    assert!(try_as_root(&network.netns_path(&one.netns), "lo"));
    let two = isolate(&network, "two");
    assert_eq!(first(&two), 3_065_536);
    network.isolate(&name("three")).expect_err("no more ids");
    for isolated in [one, two] {
        release(&network, &isolated);
    }
}

fn reconcile_frees_the_unwanted(world: &World) {
    let network = open(small(world));
    let (alive, dead) = (isolate(&network, "alive"), isolate(&network, "dead"));
    let wanted = std::slice::from_ref(&alive.netns);
    let report = network.reconcile(&[], wanted).expect("reconciled");
    assert_eq!(report.isolated, std::slice::from_ref(&dead.netns));
    assert_eq!(report.namespaces, [""; 0]);
    assert!(!network.netns_path(&dead.netns).exists());
    assert!(try_as_root(&network.netns_path(&alive.netns), "lo"));
    // Its ids are free.
    let next = isolate(&network, "next");
    assert_eq!(next.id_range, dead.id_range);
    // One whose mount is gone is gone, too.
    nix::mount::umount(&network.netns_path(&next.netns)).expect("mounted");
    fs::remove_file(network.netns_path(&next.netns)).expect("there");
    let report = network.reconcile(&[], &[]).expect("reconciled");
    assert_eq!(report.isolated, [alive.netns, next.netns]);
}

fn no_undo_while_there_is_one(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let one = isolate(&network, "one");
    drop(network);
    let refused = |count| match Network::undo(&world.config()) {
        Err(Error::InUse(in_use)) => assert_eq!(in_use, count),
        outcome => panic!("{outcome:?}"),
    };
    refused(2);
    let network = world.network();
    task.detach(&network);
    drop(network);
    refused(1);
    let network = world.network();
    assert!(network.netns_path(&one.netns).exists());
    release(&network, &one);
}

fn it_is_no_interface(world: &World) {
    let network = world.network();
    let one = isolate(&network, "one");
    assert_eq!(network.list().expect("listed"), []);
    let snapshot = Snapshot::take(world.config()).expect("taken");
    assert_eq!(snapshot.enis(), []);
    assert_eq!(snapshot.interface_views().len(), 0);
    assert_eq!(snapshot.differences(), [""; 0]);
    release(&network, &one);
}
