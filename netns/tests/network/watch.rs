//! The watch over the firewall's rules, where the kernel lets others change them.

use std::fmt::Write;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use berth_netns::netlink::{PolicyRule, RouteSocket};
use berth_netns::{FirewallWatch, Network, NetworkConfig, WatchEvent};

use crate::Case;
use crate::closed::ip;
use crate::firewall::plain;
use crate::leaks::nft;
use crate::world::{
    OUTSIDE, PATIENCE, Reached, StopAtEnd, Task, World, briefly, connect, in_machine, inside,
    within,
};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "rules_that_someone_flushes_are_back_within_a_second",
            flushed_rules_are_back,
        ),
        (
            "whatever_someone_changes_is_put_back",
            every_change_is_put_back,
        ),
        (
            "what_concerns_us_not_and_what_we_do_ourselves_is_left_alone",
            nothing_is_done_without_need,
        ),
        (
            "rules_that_were_removed_before_the_watch_began_are_put_back",
            removed_before,
        ),
        (
            "rules_of_the_routing_policy_that_someone_removes_are_back",
            removed_policy_is_back,
        ),
        (
            "what_someone_else_changes_while_it_waits_for_its_turn_is_put_back",
            changed_during_a_pause,
        ),
        (
            "more_than_could_be_told_counts_as_a_change",
            an_overrun_is_a_change,
        ),
        (
            "with_someone_who_removes_rules_in_a_loop_it_takes_turns",
            it_takes_turns,
        ),
        (
            "what_can_not_be_put_back_is_tried_again",
            failures_are_retried,
        ),
        (
            "an_attach_that_finds_no_tables_puts_them_back",
            attach_without_tables,
        ),
        (
            "there_is_nothing_to_do_for_tables_that_are_owned",
            owned_tables_need_nothing,
        ),
    ]
}

const A_SECOND: Duration = Duration::from_secs(1);

/// Does something while a watch runs that was opened before.
fn during(watch: FirewallWatch, network: &Network, work: impl FnOnce(&Receiver<WatchEvent>)) {
    let (tell, told) = channel();
    thread::scope(|scope| {
        let stop = StopAtEnd(watch.stop());
        scope.spawn(move || watch.run(network, |event| tell.send(event).expect("heard")));
        work(&told);
        drop(stop);
    });
}

/// Does something while a watch runs which has been seen at work: it has looked at what was there before.
pub fn watched(network: &Network, work: impl FnOnce(&Receiver<WatchEvent>)) {
    remove_a_policy_rule();
    let watch = FirewallWatch::open(network).expect("opened");
    during(watch, network, |told| {
        policy_is_back(told);
        work(told);
    });
}

fn remove_a_policy_rule() {
    let mut socket = RouteSocket::open().expect("a socket");
    let rules = socket.policy_rules().expect("readable");
    socket.delete_rule(&rules[0]).expect("removed");
}

/// The name of the program that changed the rules which are back.
fn restored(told: &Receiver<WatchEvent>) -> Option<String> {
    match told.recv_timeout(PATIENCE).expect("rules are back") {
        WatchEvent::Restored { by } => by.map(|process| process.name),
        other => panic!("{other:?}"),
    }
}

/// Lets `nft` change the rules, and waits until they are back. Its name may come too late from an emulated processor.
#[track_caller]
fn nft_is_undone(told: &Receiver<WatchEvent>, change: &[&str], promised: Duration) {
    nft(change);
    let start = Instant::now();
    let by = restored(told);
    let took = start.elapsed();
    assert!(took < within(promised), "{change:?}: {took:?}");
    let is_late = in_machine() && by.is_none();
    assert!(
        is_late || by.as_deref() == Some("nft"),
        "{change:?}: {by:?}"
    );
}

/// The ruleset without what it has counted.
fn ruleset() -> String {
    let text = nft(&["list", "ruleset"]);
    let lines = text.lines().map(|line| {
        let Some((before, after)) = line.split_once("counter packets ") else {
            return line.to_owned();
        };
        let verdict = after.split(' ').skip(3).collect::<Vec<_>>();
        format!("{before} {}", verdict.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The ruleset is what it was, or becomes it in that time.
#[track_caller]
fn is_whole_within(patience: Duration, before: &str) {
    let end = Instant::now() + patience;
    let mut now = ruleset();
    while now != before && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
        now = ruleset();
    }
    assert_eq!(now, before);
}

fn flushed_rules_are_back(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    let before = ruleset();
    watched(&network, |told| {
        nft_is_undone(told, &["flush", "ruleset"], A_SECOND);
        assert_eq!(ruleset(), before);
        assert_eq!(one.connect(two.address, 80), Reached::Yes);
        let from_outside = inside(&world.outside, || connect(two.address, 80));
        assert_eq!(from_outside, Reached::Silence);
    });
    one.detach(&network);
    two.detach(&network);
}

fn every_change_is_put_back(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let task = Task::attach(&network, 1);
    let before = ruleset();
    let element = format!("{{ {} }}", task.address);
    let map = ["inet", "berth", "members-sg-00000000000000001"];
    watched(&network, |told| {
        for change in [
            &["delete", "table", "bridge", "berth"][..],
            &["delete", "table", "inet", "berth"],
            &["flush", "table", "inet", "berth"],
            &["flush", "chain", "inet", "berth", "forward"],
            &["add", "rule", "inet", "berth", "forward", "accept"],
            &["insert", "rule", "bridge", "berth", "ports", "accept"],
            &["delete", "chain", "inet", "berth", "output"],
            &["flush", "set", "inet", "berth", "bridges"],
            &["flush", "set", "bridge", "berth", "sources"],
            &[&["delete", "element"][..], &map[..], &[&element]].concat(),
            &["add", "chain", "inet", "berth", "another"],
            &["add", "table", "inet", "berth", "{ flags dormant; }"],
        ] {
            nft_is_undone(told, change, PATIENCE);
            // What is told late of one change may be taken for the next.
            is_whole_within(within(Duration::ZERO), &before);
        }
    });
    task.detach(&network);
}

fn nothing_is_done_without_need(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    watched(&network, |told| {
        let task = Task::attach(&network, 1);
        network.set_security_groups(&[]).expect("replaced");
        nft(&["add", "table", "inet", "other"]);
        nft(&["add", "table", "ip", "berth"]);
        nft(&["delete", "table", "ip", "berth"]);
        nft(&["delete", "table", "inet", "other"]);
        task.detach(&network);
        assert!(told.recv_timeout(briefly()).is_err(), "something was done");
    });
}

fn policy_is_back(told: &Receiver<WatchEvent>) {
    let event = told.recv_timeout(PATIENCE).expect("rules are back");
    assert!(
        matches!(event, WatchEvent::RestoredRoutingPolicy),
        "{event:?}"
    );
}

/// Waits until the policy's rules are back: what was told last before.
fn before_policy_is_back(told: &Receiver<WatchEvent>) -> Option<WatchEvent> {
    let mut last = None;
    loop {
        match told.recv_timeout(PATIENCE).expect("rules are back") {
            WatchEvent::RestoredRoutingPolicy => return last,
            event => last = Some(event),
        }
    }
}

/// It waits for what it was woken by, and is told of something else meanwhile.
fn changed_during_a_pause(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let elsewhere = NetworkConfig {
        state_dir: world.state_dir().join("2"),
        metadata_port: 51680,
        ..plain(world)
    };
    // Somebody whose tables have the same names and other rules: a process would take its time to begin.
    let other = Network::open(elsewhere.clone()).expect("opened");
    network.restore_firewall().expect("restored");
    let before = ruleset();
    watched(&network, |told| {
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "no turn waited for what came besides");
            remove_a_policy_rule();
            other.restore_firewall().expect("changed");
            // Each turn is waited for longer, until there is time for both. The tables come first then, and what was told
            // in a pause has no name.
            match before_policy_is_back(told) {
                Some(WatchEvent::Restored { by: None }) => break,
                Some(WatchEvent::Restored { .. }) => {}
                Some(other) => panic!("{other:?}"),
                None => drop(restored(told)),
            }
        }
        is_whole_within(PATIENCE, &before);
    });
    drop(other);
    std::fs::remove_dir_all(elsewhere.state_dir).expect("ours");
}

fn removed_policy_is_back(world: &World) {
    let network = world.network();
    let mut socket = RouteSocket::open().expect("a socket");
    let before = socket.policy_rules().expect("readable");
    let sorted = |mut rules: Vec<PolicyRule>| {
        rules.sort_by_key(|rule| format!("{rule:?}"));
        rules
    };
    let before = sorted(before);
    watched(&network, |told| {
        for rule in &before {
            socket.delete_rule(rule).expect("removed");
            policy_is_back(told);
            let now = socket.policy_rules().expect("readable");
            assert_eq!(sorted(now), before, "{rule:?}");
        }
        for rule in &before {
            socket.delete_rule(rule).expect("removed");
        }
        policy_is_back(told);
        // It may have begun before the last was gone.
        let end = Instant::now() + PATIENCE;
        while sorted(socket.policy_rules().expect("readable")) != before {
            assert!(Instant::now() < end, "rules are missing");
            thread::sleep(Duration::from_millis(10));
        }
    });
    // One that was removed before the watch began is back by now.
    watched(&network, |told| {
        // What is another's is nothing to it.
        ip("rule add pref 5210 to 192.0.2.77 blackhole");
        ip("rule del pref 5210");
        assert!(told.recv_timeout(briefly()).is_err(), "something was done");
    });
}

fn removed_before(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let before = ruleset();
    nft(&["delete", "table", "bridge", "berth"]);
    let watch = FirewallWatch::open(&network).expect("opened");
    during(watch, &network, |told| {
        assert_eq!(restored(told), None);
        assert_eq!(ruleset(), before);
    });
}

fn an_overrun_is_a_change(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let before = ruleset();
    let watch = FirewallWatch::open(&network).expect("opened");
    // Nobody reads what is told of this, until there is no room for more.
    let mut elements = String::new();
    for number in 0..60_000 {
        write!(elements, "{number}, ").expect("written");
    }
    let file = world.state_dir().join("many");
    let many = format!(
        "table ip other {{ set many {{ typeof meta mark; elements = {{ {elements} }}; }}; }}"
    );
    std::fs::write(&file, many).expect("written");
    for _ in 0..2 {
        nft(&["-f", file.to_str().expect("a path")]);
        nft(&["delete", "table", "ip", "other"]);
    }
    std::fs::remove_file(file).expect("ours");
    // The comment of the table is still the same.
    nft(&["flush", "set", "inet", "berth", "bridges"]);
    during(watch, &network, |told| {
        assert_eq!(restored(told), None);
        assert_eq!(ruleset(), before);
    });
}

fn it_takes_turns(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let before = ruleset();
    watched(&network, |told| {
        let start = Instant::now();
        let mut turns = 0;
        while turns < 8 {
            assert!(start.elapsed() < PATIENCE, "only {turns} turns");
            nft(&["flush", "ruleset"]);
            let is_turn = |event: &WatchEvent| matches!(event, WatchEvent::Restored { .. });
            turns += told.try_iter().filter(is_turn).count();
        }
        // Before the second 10 ms, and twice as long each time, up to 640.
        let pauses = Duration::from_millis(1270);
        let took = start.elapsed();
        assert!(took >= pauses, "{turns} turns in {took:?}");
        is_whole_within(within(2 * A_SECOND), &before);
    });
}

fn failures_are_retried(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let before = ruleset();
    watched(&network, |told| {
        let elsewhere = NetworkConfig {
            own_tables: true,
            state_dir: world.state_dir().join("2"),
            ..plain(world)
        };
        // Somebody takes the tables, and nobody else may change them.
        let other = Network::open(elsewhere.clone()).expect("opened");
        let failed = told.recv_timeout(PATIENCE).expect("told");
        assert!(matches!(failed, WatchEvent::Failed(_)), "{failed:?}");
        assert!(
            told.recv_timeout(2 * A_SECOND).is_err(),
            "it is told but once"
        );
        // What closes the subnets is put back all the same.
        let mut socket = RouteSocket::open().expect("a socket");
        let rules = socket.policy_rules().expect("readable");
        socket.delete_rule(&rules[0]).expect("removed");
        policy_is_back(told);
        drop(other);
        let back = told.recv_timeout(PATIENCE).expect("told");
        assert!(matches!(back, WatchEvent::Restored { .. }), "{back:?}");
        assert_eq!(ruleset(), before);
        std::fs::remove_dir_all(elsewhere.state_dir).expect("ours");
    });
}

fn attach_without_tables(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let one = Task::attach(&network, 1);
    nft(&["flush", "ruleset"]);
    let two = Task::attach(&network, 2);
    two.serve(two.address, 80);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    let address = two.address;
    let from_outside = inside(&world.outside, || connect(address, 80));
    assert_eq!(from_outside, Reached::Silence);
    one.detach(&network);
    two.detach(&network);
}

fn owned_tables_need_nothing(world: &World) {
    let network = world.network();
    if !network.firewall_is_owned() {
        return;
    }
    let (one, before) = (Task::attach(&network, 1), ruleset());
    watched(&network, |told| {
        nft(&["flush", "ruleset"]);
        assert!(told.recv_timeout(briefly()).is_err(), "something was done");
        assert_eq!(ruleset(), before);
        let outside = inside(&world.outside, || connect(one.address, 80));
        assert_eq!(outside, Reached::Silence);
        assert_eq!(one.connect(OUTSIDE, 80), Reached::Refused);
    });
    assert!(!network.restore_firewall().expect("asked"));
    one.detach(&network);
}
