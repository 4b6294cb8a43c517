//! What others do to the firewall's tables: `nft flush ruleset`, above all.

use berth_netns::{Network, NetworkConfig};

use crate::Case;
use crate::leaks;
use crate::world::{Reached, Task, World};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "tables_are_owned_where_the_kernel_has_that",
            tables_are_owned_where_possible,
        ),
        (
            "nobody_else_changes_tables_that_are_owned",
            nobody_else_changes_owned_tables,
        ),
        (
            "the_next_start_makes_tables_its_own_and_mends_them",
            the_next_start_takes_the_tables,
        ),
        (
            "tables_without_an_owner_are_replaced_with_owned_ones",
            plain_tables_become_owned,
        ),
        (
            "tables_that_another_process_owns_are_refused",
            tables_of_another_process_are_refused,
        ),
        (
            "tables_that_nobody_has_touched_are_taken_as_they_are",
            untouched_tables_are_taken,
        ),
        (
            "tables_are_made_anew_where_something_has_happened",
            touched_tables_are_made_anew,
        ),
        (
            "what_others_change_of_their_own_does_not_touch_the_tables",
            others_changes_are_nothing_to_us,
        ),
        (
            "a_removal_that_fails_can_be_repeated",
            a_failed_removal_can_be_repeated,
        ),
        (
            "six_hundred_interfaces_are_put_into_new_tables_at_once",
            many_interfaces_at_once,
        ),
    ]
}

/// The tests that show nothing where the kernel has no owned tables.
pub const NEED_OWNED_TABLES: [&str; 5] = [
    "firewall::nobody_else_changes_tables_that_are_owned",
    "firewall::the_next_start_makes_tables_its_own_and_mends_them",
    "firewall::tables_without_an_owner_are_replaced_with_owned_ones",
    "firewall::tables_that_another_process_owns_are_refused",
    "watch::what_can_not_be_put_back_is_tried_again",
];

/// Linux 6.9 and later.
pub fn kernel_has_owned_tables() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(9))
}

/// A network whose tables everybody can change, as before Linux 6.9.
pub fn plain(world: &World) -> NetworkConfig {
    NetworkConfig {
        own_tables: false,
        ..world.config()
    }
}

/// The numbers of our tables, which they have for their life.
fn handles() -> Vec<String> {
    let number = |family| {
        let table = leaks::nft(&["-a", "list", "table", family, "berth"]);
        let (_, number) = table.lines().next()?.split_once("# handle ")?;
        // After it, who owns the table.
        let number = number.split(' ').next()?;
        Some(format!("{family} {number}"))
    };
    ["inet", "bridge"].into_iter().filter_map(number).collect()
}

fn both_kinds(world: &World) -> [NetworkConfig; 2] {
    [world.config(), plain(world)]
}

fn untouched_tables_are_taken(world: &World) {
    for config in both_kinds(world) {
        let open = || Network::open(config.clone()).expect("opened");
        let network = open();
        let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
        two.serve(two.address, 80);
        let before = handles();
        assert_eq!(before.len(), 2, "{before:?}");
        drop(network);
        let network = open();
        assert_eq!(handles(), before);
        assert_eq!(
            network.firewall_is_owned(),
            config.own_tables && kernel_has_owned_tables()
        );
        // Changed by ourselves since, and left again.
        two.detach(&network);
        drop(network);
        let network = open();
        assert_eq!(handles(), before);
        let two = Task::attach(&network, 2);
        two.serve(two.address, 80);
        assert_eq!(one.connect(two.address, 80), Reached::Yes);
        one.detach(&network);
        two.detach(&network);
        drop(network);
        leaks::check(world);
    }
}

fn touched_tables_are_made_anew(world: &World) {
    let config = plain(world);
    let open = |config: &NetworkConfig| Network::open(config.clone()).expect("opened");
    let mut before = Vec::new();
    let mut is_made_anew = |why: &str| {
        let now = handles();
        assert_eq!(now.len(), 2, "{why}");
        assert_ne!(now, before, "{why}");
        before = now;
    };
    let network = open(&config);
    let task = Task::attach(&network, 1);
    drop(network);
    is_made_anew("the first time");
    for change in [
        "add element inet berth bridges { eth7 }",
        "delete element inet berth bridges { berth1 }",
        "flush set bridge berth sources",
        "add rule inet berth input accept",
        "insert rule inet berth forward accept",
        "flush chain inet berth input",
        "add chain inet berth another",
        "add set inet berth another { type ipv4_addr; }",
        "add chain bridge berth ports { policy drop; }",
        "add table inet berth { flags dormant; }",
        "delete table bridge berth",
        "flush ruleset",
    ] {
        leaks::nft(&change.split(' ').collect::<Vec<_>>());
        drop(open(&config));
        is_made_anew(change);
    }
    let changed = NetworkConfig {
        metadata_port: 51680,
        ..config.clone()
    };
    drop(open(&changed));
    is_made_anew("for other rules");
    let network = open(&config);
    is_made_anew("for the first rules again");
    task.detach(&network);
    drop(network);
    std::fs::write(world.run_dir().join("firewall.json"), "{").expect("ours");
    drop(open(&config));
    is_made_anew("with a record that was not written to the end");
}

/// The ruleset has changed, but not ours.
fn others_changes_are_nothing_to_us(world: &World) {
    for config in both_kinds(world) {
        let open = || Network::open(config.clone()).expect("opened");
        let network = open();
        let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
        two.serve(two.address, 80);
        let before = handles();
        drop(network);
        leaks::nft(&["add", "table", "inet", "another"]);
        let network = open();
        assert_eq!(handles(), before, "before it was opened");
        leaks::nft(&["add", "chain", "inet", "another", "theirs"]);
        two.detach(&network);
        leaks::nft(&["delete", "table", "inet", "another"]);
        drop(network);
        let network = open();
        assert_eq!(handles(), before, "and while it was open");
        assert_eq!(
            network.firewall_is_owned(),
            config.own_tables && kernel_has_owned_tables()
        );
        let two = Task::attach(&network, 2);
        two.serve(two.address, 80);
        assert_eq!(one.connect(two.address, 80), Reached::Yes);
        one.detach(&network);
        two.detach(&network);
        drop(network);
        leaks::check(world);
    }
}

/// What somebody else's rule looks at can't be removed.
fn a_failed_removal_can_be_repeated(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    let task = Task::attach(&network, 1);
    let sets = leaks::nft(&["list", "sets", "inet"]);
    let mut names = sets.split_whitespace();
    let policy = names.find(|name| name.starts_with("policy-"));
    let rule = format!(
        "add rule inet berth theirs ip saddr @{} accept",
        policy.expect("the task's")
    );
    leaks::nft(&["add", "chain", "inet", "berth", "theirs"]);
    leaks::nft(&rule.split(' ').collect::<Vec<_>>());
    let error = network.detach(&task.id).expect_err("it is in use");
    assert!(error.to_string().contains("firewall's sets"), "{error}");
    network.detach(&task.id).expect_err("it still is");
    assert_eq!(leaks::elements("set bridge berth sources"), 1);
    leaks::nft(&["delete", "chain", "inet", "berth", "theirs"]);
    task.detach(&network);
}

/// What is in the table, with the numbers that it would have anew in a table that is made anew.
fn numbered() -> Vec<String> {
    let table = leaks::nft(&["-a", "list", "table", "inet", "berth"]);
    // The first lines say whose the table is; after these chains come those that each start writes.
    let contents = table.lines().skip_while(|line| !line.contains("set "));
    let contents = contents.take_while(|line| !line.contains("chain egress"));
    contents.map(str::to_owned).collect()
}

fn tables_are_owned_where_possible(world: &World) {
    assert_eq!(
        world.network().firewall_is_owned(),
        kernel_has_owned_tables()
    );
    let network = Network::open(plain(world)).expect("opened");
    assert!(!network.firewall_is_owned());
}

fn nobody_else_changes_owned_tables(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    let before = numbered();
    leaks::nft(&["flush", "ruleset"]);
    for change in [
        &["delete", "table", "inet", "berth"][..],
        &["flush", "table", "bridge", "berth"],
        &["delete", "chain", "inet", "berth", "output"],
        &["flush", "set", "inet", "berth", "bridges"],
        &["add", "rule", "inet", "berth", "forward", "accept"],
    ] {
        assert!(!leaks::nft_may(change), "{change:?}");
    }
    assert_eq!(numbered(), before);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    assert_eq!(leaks::elements("set bridge berth sources"), 2);
    one.detach(&network);
    two.detach(&network);
}

fn the_next_start_takes_the_tables(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    let before = numbered();
    drop(network);
    assert_eq!(numbered(), before, "they outlive their owner");
    let network = world.network();
    assert!(network.firewall_is_owned());
    // What someone did in between is undone.
    drop(network);
    leaks::nft_at_last(&["flush", "chain", "inet", "berth", "input"]);
    leaks::nft(&[
        "add",
        "element",
        "inet",
        "berth",
        "host_addresses",
        "{ 192.0.2.200 }",
    ]);
    let network = world.network();
    let contents = |lines: &[String]| -> Vec<String> {
        let lines = lines
            .iter()
            .filter_map(|line| line.split(" # handle").next());
        lines.map(str::to_owned).collect()
    };
    let (now, before) = (contents(&numbered()), contents(&before));
    assert_eq!(now, before, "they are as they were");
    assert!(!leaks::nft_may(&["delete", "table", "inet", "berth"]));
    assert!(!leaks::nft_may(&["delete", "table", "bridge", "berth"]));
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    one.detach(&network);
    two.detach(&network);
}

fn plain_tables_become_owned(world: &World) {
    let network = Network::open(plain(world)).expect("opened");
    assert!(!network.firewall_is_owned());
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    drop(network);
    let network = world.network();
    assert!(network.firewall_is_owned());
    assert!(!leaks::nft_may(&["delete", "table", "inet", "berth"]));
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    assert_eq!(leaks::elements("set bridge berth sources"), 2);
    drop(network);
    // And back, as a start with an older version would.
    let network = Network::open(plain(world)).expect("opened");
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    one.detach(&network);
    two.detach(&network);
    leaks::nft(&["delete", "table", "inet", "berth"]);
}

fn tables_of_another_process_are_refused(world: &World) {
    let network = world.network();
    let elsewhere = NetworkConfig::new(world.state_dir().join("2"), world.run_dir());
    let error = Network::open(elsewhere.clone()).expect_err("refused");
    assert!(
        error.to_string().contains("owned by another process"),
        "{error}"
    );
    assert!(Network::undo(&elsewhere).is_err());
    drop(network);
    std::fs::remove_dir_all(elsewhere.state_dir).expect("ours");
}

fn many_interfaces_at_once(world: &World) {
    const MANY: u32 = 600;
    let subnet = berth_netns::Subnet::new(
        berth_netns::Subnet::default_subnet().id().clone(),
        "10.231.0.0/20".parse().expect("a network"),
        "berth0",
    );
    let config = NetworkConfig {
        subnets: vec![subnet.expect("valid")],
        ..plain(world)
    };
    let network = Network::open(config.clone()).expect("opened");
    for number in 1..=MANY {
        let request = crate::world::request(number);
        network.attach(&request).expect("attached");
    }
    drop(network);
    leaks::nft(&["flush", "ruleset"]);
    let network = Network::open(config).expect("opened");
    assert_eq!(leaks::elements("set bridge berth sources"), MANY as usize);
    network.reconcile(&[], &[]).expect("all are gone");
}
