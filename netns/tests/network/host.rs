//! The host beneath: ranges that are taken, and leaving it as it was.

use std::fs::{self, File};
use std::os::fd::OwnedFd;

use berth_netns::netlink::{NewBridge, RouteSocket, add_address, add_route};
use berth_netns::{Error, MacAddress, Network, NetworkConfig, Subnet};

use ipnet::Ipv4Net;

use crate::Case;
use crate::leaks;
use crate::world::{BEFORE_REMOVAL, OUTSIDE, World, eni, inside, request, sysctl};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "a_range_that_an_address_of_the_host_is_in_is_refused",
            an_address_overlaps,
        ),
        (
            "a_range_that_a_route_of_the_host_covers_is_refused",
            a_route_overlaps,
        ),
        (
            "a_link_with_the_bridges_name_is_refused",
            a_foreign_link_is_refused,
        ),
        (
            "subnets_that_overlap_are_refused",
            subnets_that_overlap_are_refused,
        ),
        (
            "undo_leaves_the_host_as_it_was",
            undo_leaves_the_host_as_it_was,
        ),
        (
            "undo_of_what_was_never_opened_does_nothing",
            undo_of_nothing,
        ),
        (
            "a_link_goes_on_taking_routers_advertisements",
            advertisements_are_still_taken,
        ),
        (
            "a_bridge_that_somebody_has_loosened_is_strict_again",
            a_loosened_bridge_is_strict_again,
        ),
        (
            "a_host_without_ipv6_has_tasks_without_it",
            a_host_without_ipv6,
        ),
    ]
}

fn uplink() -> (RouteSocket, u32) {
    let mut socket = RouteSocket::open().expect("a socket");
    let index = socket.index_of("uplink").expect("there");
    (socket, index)
}

fn an_address_overlaps(world: &World) {
    let (mut socket, uplink) = uplink();
    let address: Ipv4Net = "10.231.0.77/25".parse().expect("a network");
    socket
        .send(&[add_address(uplink, address, true)])
        .expect("added");
    let error = Network::open(world.config()).expect_err("refused");
    assert!(matches!(error, Error::Overlap { .. }));
    assert_eq!(
        error.to_string(),
        "the range 10.231.0.0/24 of subnet-00000000000000001 overlaps 10.231.0.77/25, which the host \
         has on uplink; choose another range for the subnet"
    );
    assert!(
        !leaks::links().contains(&"berth0".to_owned()),
        "nothing was made"
    );
}

fn a_route_overlaps(world: &World) {
    let (mut socket, uplink) = uplink();
    let vpn: Ipv4Net = "10.224.0.0/11".parse().expect("a network");
    socket
        .send(&[add_route(uplink, vpn, OUTSIDE)])
        .expect("added");
    let error = Network::open(world.config()).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("overlaps 10.224.0.0/11, which the host has on uplink"),
        "{error}"
    );
    // Half of everything is as good as a default route, and overlaps nothing.
    let (mut socket, uplink) = self::uplink();
    let half: Ipv4Net = "0.0.0.0/1".parse().expect("a network");
    socket
        .send(&[add_route(uplink, half, OUTSIDE)])
        .expect("added");
    let id = Subnet::default_subnet().id().clone();
    let elsewhere =
        Subnet::new(id, "10.9.8.0/24".parse().expect("a network"), "berth0").expect("valid");
    Network::open(NetworkConfig {
        subnets: vec![elsewhere],
        ..world.config()
    })
    .expect("opened");
}

fn a_foreign_link_is_refused(world: &World) {
    let mut socket = RouteSocket::open().expect("a socket");
    let foreign = NewBridge {
        name: "berth0",
        mac: MacAddress([2, 0, 0, 0, 0, 5]),
        mtu: 1500,
    };
    socket.add_bridge(&foreign).expect("made");
    let error = Network::open(world.config()).expect_err("refused");
    assert!(matches!(error, Error::ForeignLink { .. }), "{error}");
    assert!(Network::undo(&world.config()).is_err(), "nor is it removed");
    socket.delete_link("berth0").expect("removed");
}

fn subnets_that_overlap_are_refused(world: &World) {
    let id = "subnet-00000000000000002".parse().expect("valid");
    let other =
        Subnet::new(id, "10.231.0.128/25".parse().expect("a network"), "berth1").expect("valid");
    let config = NetworkConfig {
        subnets: vec![Subnet::default_subnet(), other],
        ..world.config()
    };
    assert!(matches!(
        Network::open(config),
        Err(Error::SubnetsCollide(..))
    ));
}

fn undo_leaves_the_host_as_it_was(world: &World) {
    let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("readable");
    assert_eq!(forwarding(), "0\n");
    let network = world.network();
    assert_eq!(forwarding(), "1\n");
    drop(network);
    // Opened again, the value before is still the one from before the first time.
    drop(world.network());
    Network::undo(&world.config()).expect("undone");
    leaks::check_nothing(world);
}

fn advertisements_are_still_taken(world: &World) {
    const UPLINK: &str = "ipv6/conf/uplink/accept_ra";
    const OTHER: &str = "ipv6/conf/lo/accept_ra";
    fs::write(format!("/proc/sys/net/{UPLINK}"), "1").expect("root may write");
    fs::write(format!("/proc/sys/net/{OTHER}"), "0").expect("root may write");
    drop(world.network());
    assert_eq!(sysctl("ipv6/conf/all/forwarding"), "1");
    assert_eq!((sysctl(UPLINK), sysctl(OTHER)), ("2".into(), "0".into()));
    // The bridges take none.
    assert_eq!(sysctl("ipv6/conf/berth0/accept_ra"), "0");
    Network::undo(&world.config()).expect("undone");
    assert_eq!((sysctl(UPLINK), sysctl(OTHER)), ("1".into(), "0".into()));
}

fn a_loosened_bridge_is_strict_again(world: &World) {
    const STRICT: [(&str, &str); 5] = [
        ("ipv4/conf/berth0/rp_filter", "1"),
        ("ipv4/conf/berth0/src_valid_mark", "1"),
        ("ipv4/conf/berth0/arp_ignore", "1"),
        ("ipv6/conf/berth0/accept_ra", "0"),
        ("ipv6/conf/berth0/disable_ipv6", "0"),
    ];
    let is_strict = || STRICT.iter().all(|(key, value)| sysctl(key) == *value);
    drop(world.network());
    assert!(is_strict());
    for (key, value) in STRICT {
        let other = if value == "1" { "0" } else { "1" };
        fs::write(format!("/proc/sys/net/{key}"), other).expect("root may write");
        assert!(!is_strict());
        drop(world.network());
        assert!(is_strict(), "{key}");
    }
}

fn a_host_without_ipv6(world: &World) {
    fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("root may write");
    let network = world.network();
    assert_eq!(network.subnets()[0].ipv6_cidr(), None);
    let attachment = network.attach(&request(1)).expect("attached");
    assert_eq!(attachment.eni.ipv6_address, None);
    let netns = OwnedFd::from(File::open(&attachment.netns_path).expect("mounted"));
    let addresses = || fs::read_to_string("/proc/thread-self/net/if_inet6").expect("readable");
    let addresses = inside(&netns, addresses);
    assert!(!addresses.contains("eth0"), "{addresses}");
    assert_eq!(sysctl("ipv6/conf/berth0/disable_ipv6"), "1");
    assert_eq!(sysctl("ipv6/conf/all/forwarding"), "0", "left alone");
    drop(netns);
    network.detach(&eni(1)).expect("detached");
    network
        .wait_until_gone(&eni(1), BEFORE_REMOVAL)
        .expect("gone");
}

fn undo_of_nothing(world: &World) {
    Network::undo(&world.config()).expect("undone");
}
