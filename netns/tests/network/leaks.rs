//! What a test must not leave: links, neighbours, firewall elements, mounts, files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use berth_netns::netlink::RouteSocket;
use berth_netns::{AttachmentMode, Network};

use crate::world::{self, PATIENCE, World};

/// Takes the network down and compares what is there with what was there before the test.
pub fn check(world: &World) {
    assert_eq!(
        allocations(world),
        Vec::<String>::new(),
        "addresses or isolated namespaces are left"
    );
    assert_eq!(mounts(world), Vec::<String>::new(), "mounts are left");
    let links: Vec<String> = links()
        .into_iter()
        .filter(|name| name.starts_with("eni-"))
        .collect();
    assert_eq!(links, Vec::<String>::new(), "links are left");
    if nft_is_installed() {
        assert_eq!(
            task_elements(),
            0,
            "firewall elements are left: {}",
            nft(&["list", "ruleset"])
        );
        let chains = nft(&["list", "chains"]);
        assert!(
            !chains.contains("ingress-") && !chains.contains("egress-"),
            "rules of security groups are left: {chains}"
        );
        let sets = nft(&["list", "sets"]);
        assert!(
            !sets.contains("policy"),
            "sets of addresses are left: {sets}"
        );
    }
    Network::undo(&world.config()).expect("the network can be taken down");
    check_nothing(world);
}

/// After the undo, nothing at all is there.
pub fn check_nothing(world: &World) {
    assert_eq!(links_of_somebody(), ["lo", "uplink"], "links are left");
    let rules = RouteSocket::open().expect("a socket").policy_rules();
    assert_eq!(
        rules.expect("readable"),
        [],
        "rules of the routing policy are left"
    );
    if nft_is_installed() {
        let tables = nft(&["list", "tables"]);
        assert!(!tables.contains("berth"), "tables are left: {tables}");
    }
    for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        assert_eq!(world::sysctl(forwarding), "0", "{forwarding}");
    }
    let state: Vec<String> = names_in(&world.state_dir());
    assert!(
        state.is_empty() || state == ["lock"],
        "files are left: {state:?}"
    );
    assert_eq!(
        names_in(&world.run_dir()),
        Vec::<String>::new(),
        "files are left"
    );
    fs::remove_dir_all(world.state_dir()).expect("ours");
    fs::remove_dir_all(world.run_dir()).expect("ours");
}

/// Kernels with tunnels built in give each namespace a link of each kind.
fn is_born_with_a_namespace(name: &str) -> bool {
    [
        "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
    ]
    .contains(&name)
}

pub fn links() -> Vec<String> {
    let links = RouteSocket::open()
        .expect("a socket")
        .links()
        .expect("readable");
    links.into_iter().map(|link| link.name).collect()
}

/// The links of the calling thread's namespace that somebody has made.
pub fn links_of_somebody() -> Vec<String> {
    let mut names = links();
    names.sort();
    names.retain(|name| !is_born_with_a_namespace(name));
    names
}

pub fn allocations(world: &World) -> Vec<String> {
    let folder = world.state_dir().join("addresses");
    let subnets = names_in(&folder);
    let addresses = subnets
        .iter()
        .flat_map(|subnet| names_in(&folder.join(subnet)))
        // These wait until connections are forgotten, and belong to nobody.
        .filter(|name| !name.ends_with(".spent"));
    addresses
        .chain(names_in(&world.state_dir().join("isolated")))
        .collect()
}

pub fn mounts(world: &World) -> Vec<String> {
    let all = fs::read_to_string("/proc/thread-self/mountinfo").expect("readable");
    let folder = world.folder().display().to_string();
    all.lines()
        .filter(|line| line.contains(&folder))
        .map(str::to_owned)
        .collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name();
    entries
        .map(name)
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

pub fn nft_is_installed() -> bool {
    static IS_INSTALLED: OnceLock<bool> = OnceLock::new();
    *IS_INSTALLED.get_or_init(|| {
        let silent = Command::new("nft")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        silent.is_ok_and(|status| status.success())
    })
}

fn run_nft(arguments: &[&str]) -> Output {
    let output = Command::new("nft").args(arguments).output();
    output.expect("nft runs")
}

/// Whether nft may do that, in the calling thread's namespace; then it has.
pub fn nft_may(arguments: &[&str]) -> bool {
    run_nft(arguments).status.success()
}

/// What nft says, of the calling thread's namespace.
pub fn nft(arguments: &[&str]) -> String {
    let output = run_nft(arguments);
    assert!(
        output.status.success(),
        "nft {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Changes tables whose owner is gone: a child that another test is just making has its descriptors, too, until it runs
/// its program.
pub fn nft_at_last(change: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    while !nft_may(change) {
        if Instant::now() >= deadline {
            nft(change);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// How many elements of the sets are tasks'.
fn task_elements() -> usize {
    let tables = nft(&["list", "tables"]);
    let sets = [
        (source_set(AttachmentMode::Routed), "inet berth"),
        ("set inet berth port_sources6", "inet berth"),
        (source_set(AttachmentMode::Bridged), "bridge berth"),
        ("set bridge berth sources6", "bridge berth"),
    ];
    let present = sets.into_iter().filter(|(_, table)| tables.contains(table));
    present.map(|(set, _)| elements(set)).sum()
}

/// Where the sources of tasks are.
pub fn source_set(mode: AttachmentMode) -> &'static str {
    match mode {
        AttachmentMode::Bridged => "set bridge berth sources",
        AttachmentMode::Routed => "set inet berth port_sources",
    }
}

/// How many elements a set has.
pub fn elements(set: &str) -> usize {
    let mut arguments = vec!["-j", "list"];
    arguments.extend(set.split(' '));
    let json: serde_json::Value = serde_json::from_str(&nft(&arguments)).expect("JSON");
    let found = json["nftables"].as_array().into_iter().flatten();
    let found = found.flat_map(|object| {
        object
            .as_object()
            .into_iter()
            .flat_map(|object| object.values())
    });
    found
        .filter_map(|object| object["elem"].as_array())
        .map(Vec::len)
        .sum()
}
