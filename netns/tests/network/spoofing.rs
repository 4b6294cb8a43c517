//! A task with every capability in its namespace still sends as itself only, and hears what is its own only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use berth_netns::{AttachmentMode, MacAddress, Subnet};

use crate::Case;
use crate::packet::{
    BROADCAST, Capture, Datagram, arp_question, forged_arp, forged_neighbour, forged_router,
    transmit,
};
use crate::world::{HOST, PATIENCE, Task, World, arrives, briefly, receive, receive_within};

/// IPv4 and IPv6.
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const PORT: u16 = 5000;

pub fn cases() -> Vec<Case> {
    vec![
        ("an_honest_frame_arrives", an_honest_frame_arrives),
        (
            "another_tasks_address_is_dropped",
            another_tasks_address_is_dropped,
        ),
        ("an_unused_address_is_dropped", an_unused_address_is_dropped),
        (
            "another_tasks_mac_is_dropped_and_diverts_nothing",
            another_tasks_mac_is_dropped,
        ),
        (
            "a_frame_straight_to_another_task_is_dropped",
            a_frame_straight_to_another_is_dropped,
        ),
        (
            "forged_arp_changes_no_neighbour",
            forged_arp_changes_no_neighbour,
        ),
        (
            "arp_on_a_bridge_is_answered_for_its_addresses_only",
            arp_is_answered_for_the_bridges_addresses,
        ),
        (
            "forged_neighbour_and_router_advertisements_change_nothing",
            forged_advertisements_change_nothing,
        ),
        ("dhcp_reaches_nobody", dhcp_reaches_nobody),
        ("another_tasks_packets_are_not_heard", others_are_not_heard),
        (
            "a_link_local_group_frame_does_not_reach_the_host",
            a_group_frame_does_not_reach_the_host,
        ),
        (
            "a_link_has_no_route_for_groups_of_ipv6",
            no_route_for_groups,
        ),
    ]
}

/// A sender, a receiver and the one that the sender claims to be.
struct Stage {
    network: berth_netns::Network,
    sender: Task,
    receiver: Task,
    victim: Task,
    socket: UdpSocket,
}

impl Stage {
    fn new(world: &World) -> Self {
        let network = world.network();
        let [sender, receiver, victim] = [1, 2, 3].map(|number| Task::attach(&network, number));
        let socket = receiver.udp(ANY, PORT);
        Self {
            network,
            sender,
            receiver,
            victim,
            socket,
        }
    }

    /// What the sender would send in all honesty, in both families.
    fn honest(&self) -> [Datagram; 2] {
        [0, 1].map(|family| Datagram {
            to_mac: Subnet::default_subnet().router_mac(),
            from_mac: self.sender.mac,
            from: self.sender.addresses()[family],
            to: self.receiver.addresses()[family],
            port: PORT,
            text: b"it is me",
        })
    }

    /// Whether it comes in that time.
    fn delivered(&self, datagram: &Datagram, patience: Duration) -> bool {
        transmit(&self.sender, &datagram.frame());
        receive_within(&self.socket, patience).is_some()
    }

    fn is_dropped(&self, datagram: &Datagram) -> bool {
        !self.delivered(datagram, briefly())
    }

    /// Whether what the receiver sends to the victim still finds it.
    fn victim_is_found(&self) -> bool {
        let theirs = self.victim.udp(ANY, PORT);
        let own = self.receiver.addresses().into_iter();
        let mut both = own.zip(self.victim.addresses());
        both.all(|(own, victim)| {
            let from = self.receiver.udp(own, 0);
            from.send_to(b"for the victim", (victim, PORT))
                .expect("sent");
            arrives(&theirs).is_some()
        })
    }

    fn end(self) {
        drop(self.socket);
        for task in [self.sender, self.receiver, self.victim] {
            task.detach(&self.network);
        }
    }
}

fn an_honest_frame_arrives(world: &World) {
    let stage = Stage::new(world);
    for honest in stage.honest() {
        assert!(stage.delivered(&honest, PATIENCE), "{}", honest.from);
    }
    stage.end();
}

fn another_tasks_address_is_dropped(world: &World) {
    let stage = Stage::new(world);
    for (honest, from) in stage.honest().into_iter().zip(stage.victim.addresses()) {
        assert!(stage.is_dropped(&Datagram { from, ..honest }), "{from}");
    }
    stage.end();
}

fn an_unused_address_is_dropped(world: &World) {
    let stage = Stage::new(world);
    let [ipv4, ipv6] = stage.honest();
    let unused = ["10.231.0.200", "10.231.0.1", "8.8.8.8"].map(|from| (ipv4.clone(), from));
    let unused6 = [
        "fd62:6572:7468::c8",
        "fd62:6572:7468::1",
        "2001:db8::2",
        "fe80::1",
        "::",
    ];
    let unused6 = unused6.map(|from| (ipv6.clone(), from));
    for (honest, from) in unused.into_iter().chain(unused6) {
        let from = from.parse().expect("an address");
        assert!(stage.is_dropped(&Datagram { from, ..honest }), "{from}");
    }
    stage.end();
}

fn another_tasks_mac_is_dropped(world: &World) {
    let stage = Stage::new(world);
    let from_mac = stage.victim.mac;
    for (honest, from) in stage.honest().into_iter().zip(stage.victim.addresses()) {
        let with_mac = Datagram { from_mac, ..honest };
        assert!(stage.is_dropped(&with_mac), "{}", with_mac.from);
        assert!(stage.is_dropped(&Datagram { from, ..with_mac }), "{from}");
    }
    assert!(stage.victim_is_found());
    stage.end();
}

fn a_frame_straight_to_another_is_dropped(world: &World) {
    let stage = Stage::new(world);
    for honest in stage.honest() {
        for to_mac in [stage.receiver.mac, BROADCAST] {
            let straight = Datagram {
                to_mac,
                ..honest.clone()
            };
            assert!(stage.is_dropped(&straight), "{to_mac} {}", straight.to);
        }
    }
    stage.end();
}

fn forged_arp_changes_no_neighbour(world: &World) {
    let stage = Stage::new(world);
    let (own, victim) = (stage.sender.mac, stage.victim.address);
    let router = Subnet::default_subnet().router();
    let capture = Capture::of(&stage.receiver);
    for (claimed, to) in [(victim, router), (router, stage.receiver.address)] {
        transmit(&stage.sender, &forged_arp(own, own, claimed, to));
    }
    assert_eq!(capture.frames(0), Vec::<Vec<u8>>::new());
    assert!(stage.victim_is_found());
    stage.end();
}

/// The host tells a task on a bridge of its addresses there, and of no other. A routed link has none that it could
/// tell apart.
fn arp_is_answered_for_the_bridges_addresses(world: &World) {
    let stage = Stage::new(world);
    let (own, address) = (stage.sender.mac, stage.sender.address);
    let router = Subnet::default_subnet().router();
    let others = match world.mode {
        AttachmentMode::Bridged => 0,
        AttachmentMode::Routed => 1,
    };
    for (about, expected) in [(router, 1), (HOST, others)] {
        let capture = Capture::of(&stage.sender);
        transmit(&stage.sender, &arp_question(own, address, about));
        assert_eq!(capture.frames(expected).len(), expected, "{about}");
    }
    stage.end();
}

fn forged_advertisements_change_nothing(world: &World) {
    let stage = Stage::new(world);
    let (own, router) = (stage.sender.mac, ipv6_router());
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 4);
    let capture = Capture::of(&stage.receiver);
    for from in [stage.sender.ipv6_address, link_local, router] {
        for claimed in [stage.victim.ipv6_address, router] {
            transmit(&stage.sender, &forged_neighbour(own, from, claimed));
        }
        transmit(&stage.sender, &forged_router(own, from));
    }
    assert_eq!(capture.frames(0), Vec::<Vec<u8>>::new());
    assert!(stage.victim_is_found());
    // A router that the host believed in would be in its routes.
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").expect("readable");
    assert!(
        !routes.contains("fe800000000000000000000000000004"),
        "{routes}"
    );
    stage.end();
}

fn ipv6_router() -> Ipv6Addr {
    Subnet::default_subnet().ipv6_router().expect("dual stack")
}

/// Neither a question for an address, which has none as its source yet, nor an offer of one.
fn dhcp_reaches_nobody(world: &World) {
    const DHCP: [(u16, IpAddr, IpAddr); 2] = [
        (
            67,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::BROADCAST),
        ),
        (
            547,
            IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 4)),
            IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2)),
        ),
    ];
    let stage = Stage::new(world);
    let capture = Capture::of(&stage.receiver);
    for (server, from, to) in DHCP {
        let on_the_host = UdpSocket::bind((ANY, server)).expect("bound");
        let to_mac = match to {
            IpAddr::V4(_) => BROADCAST,
            IpAddr::V6(_) => MacAddress([0x33, 0x33, 0, 1, 0, 2]),
        };
        let [ipv4, ipv6] = stage.honest();
        let own = if to.is_ipv4() { ipv4.from } else { ipv6.from };
        for (from, port) in [
            (from, server),
            (own, server),
            (own, server + 1 - 2 * (server % 2)),
        ] {
            let question = Datagram {
                to_mac,
                from,
                to,
                port,
                ..ipv4.clone()
            };
            transmit(&stage.sender, &question.frame());
        }
        assert_eq!(receive(&on_the_host), None, "{to}");
    }
    assert_eq!(capture.frames(0), Vec::<Vec<u8>>::new());
    stage.end();
}

/// What others send and get passes a task by, also one that listens to all that its link carries.
fn others_are_not_heard(world: &World) {
    let stage = Stage::new(world);
    let capture = Capture::of(&stage.sender);
    assert!(stage.victim_is_found());
    let host = UdpSocket::bind((ANY, 0)).expect("bound");
    let mapped = stage.victim.address.to_ipv6_mapped();
    for address in [mapped, stage.victim.ipv6_address] {
        host.send_to(b"for the victim", (address, PORT))
            .expect("sent");
    }
    assert_eq!(capture.frames(0), Vec::<Vec<u8>>::new());
    stage.end();
}

fn a_group_frame_does_not_reach_the_host(world: &World) {
    let stage = Stage::new(world);
    let host = UdpSocket::bind((ANY, PORT)).expect("bound");
    let routers: [IpAddr; 2] = [
        Subnet::default_subnet().router().into(),
        ipv6_router().into(),
    ];
    for (honest, to) in stage.honest().into_iter().zip(routers) {
        for last in [0x00, 0x0e] {
            let to_mac = MacAddress([0x01, 0x80, 0xc2, 0, 0, last]);
            let group = Datagram {
                to_mac,
                to,
                ..honest.clone()
            };
            transmit(&stage.sender, &group.frame());
            assert_eq!(receive(&host), None, "{to_mac}");
        }
    }
    stage.end();
}

/// Without that none is heard on it, not even the kernel's own, of all nodes.
fn no_route_for_groups(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").expect("readable");
    let of_groups = |line: &&str| line.starts_with("ff");
    let links: Vec<&str> = routes
        .lines()
        .filter(of_groups)
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    assert!(links.contains(&"uplink"), "{routes}");
    assert!(
        !links.iter().any(|link| link.starts_with("eni-")),
        "{links:?}"
    );
    task.detach(&network);
}
