//! The watch over the host's address.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use berth_netns::netlink::{NewVeth, RouteSocket};
use berth_netns::{HostAddressWatch, MacAddress};
use ipnet::Ipv4Net;

use crate::Case;
use crate::closed::ip;
use crate::world::{StopAtEnd, World, inside, new_namespace, within};

pub fn cases() -> Vec<Case> {
    vec![(
        "the_hosts_address_is_told_as_its_uplinks_come_and_go",
        uplinks_come_and_go,
    )]
}

type Told = Option<Ipv4Addr>;

/// Sooner than the watch looks for the last time: what is told by then has been heard. In the machine that is waited for
/// with patience, and shown natively alone.
const SOON: Duration = Duration::from_secs(6);

/// Waits until the watch tells this. Before, it may tell again what it has told.
#[track_caller]
fn until(told: &Receiver<Told>, expected: Told) {
    let end = Instant::now() + within(SOON);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if told.recv_timeout(left).expect("told") == expected {
            return;
        }
    }
}

/// Makes a link with an address.
fn uplink(world: &World, name: &str, address: Ipv4Net) {
    let mut here = RouteSocket::open().expect("a socket");
    let veth = NewVeth {
        name,
        mac: None,
        bridge: None,
        peer_name: name,
        peer_mac: MacAddress([2, 0, 0, 0, 0, 9]),
        peer_netns: world.outside.as_fd(),
        mtu: 1500,
    };
    here.add_veth(&veth).expect("a veth pair");
    inside(&world.outside, || ip(&format!("link set {name} up")));
    ip(&format!("link set {name} up"));
    ip(&format!("address add {address} dev {name}"));
}

/// Waits until the watch looks for the last time only, much later: until then only what it hears makes it look again.
fn quiet(told: &Receiver<Told>) {
    const LONGER_THAN_UNTIL_ITS_NEXT_LOOK: Duration = Duration::from_millis(1500);
    while told.recv_timeout(LONGER_THAN_UNTIL_ITS_NEXT_LOOK).is_ok() {}
}

/// Ways that come and go, each heard of by other words of the kernel's.
fn uplinks_come_and_go(world: &World) {
    let [first, second]: [Ipv4Net; 2] =
        ["192.0.2.5/24", "203.0.113.5/24"].map(|net| net.parse().expect("a range"));
    // As a VPN's, to half of all addresses.
    let second_way = "route replace 128.0.0.0/1 via 203.0.113.254 dev second";
    inside(new_namespace(), || {
        let mut watch = HostAddressWatch::open().expect("opened");
        assert_eq!(watch.look().expect("known"), None);
        let (tell, told) = channel();
        let ends = watch.stop();
        thread::scope(|scope| {
            let stop = StopAtEnd(ends);
            scope.spawn(move || {
                watch.run(|looked| tell.send(looked.expect("known")).expect("heard"));
            });
            let at = |net: Ipv4Net| {
                until(&told, Some(net.addr()));
                quiet(&told);
            };
            uplink(world, "first", first);
            ip("route add default via 192.0.2.254 dev first");
            at(first);
            uplink(world, "second", second);
            quiet(&told);
            ip(second_way);
            at(second);
            // The kernel takes the route away, and speaks only of the link.
            ip("link set second down");
            at(first);
            ip("link set second up");
            ip(second_way);
            at(second);
            // Without a carrier the link is the way still, unless it is said that it isn't.
            inside(&world.outside, || ip("link set second down"));
            quiet(&told);
            let ignore = "/proc/sys/net/ipv4/conf/second/ignore_routes_with_linkdown";
            fs::write(ignore, "1").expect("root may write");
            at(first);
            inside(&world.outside, || ip("link set second up"));
            at(second);
            ip("route add default via 192.0.2.254 dev first table 77");
            quiet(&told);
            ip("rule add to 198.51.100.0/24 lookup 77");
            at(first);
            ip("rule delete to 198.51.100.0/24 lookup 77");
            at(second);
            ip("nexthop add id 7 via 203.0.113.254 dev second");
            ip("route replace 128.0.0.0/1 nhid 7");
            quiet(&told);
            ip("nexthop delete id 7");
            at(first);
            ip("link delete second");
            ip("link delete first");
            until(&told, None);
            drop(stop);
        });
    });
}
