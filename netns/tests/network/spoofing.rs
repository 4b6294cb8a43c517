//! A task with every capability in its namespace still sends as itself only.

use std::net::{Ipv4Addr, UdpSocket};

use berth_netns::{MacAddress, Subnet};

use crate::Case;
use crate::packet::{Datagram, forged_arp, transmit};
use crate::world::{Task, World, receive};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
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
            "a_link_local_group_frame_does_not_reach_the_host",
            a_group_frame_does_not_reach_the_host,
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

    /// What the sender would send in all honesty.
    fn honest(&self) -> Datagram {
        Datagram {
            to_mac: Subnet::default_subnet().router_mac(),
            from_mac: self.sender.mac,
            from: self.sender.address,
            to: self.receiver.address,
            port: PORT,
            text: b"it is me",
        }
    }

    fn delivered(&self, datagram: &Datagram) -> bool {
        transmit(&self.sender, &datagram.frame());
        receive(&self.socket).is_some()
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
    assert!(stage.delivered(&stage.honest()));
    stage.end();
}

fn another_tasks_address_is_dropped(world: &World) {
    let stage = Stage::new(world);
    assert!(!stage.delivered(&Datagram {
        from: stage.victim.address,
        ..stage.honest()
    }));
    stage.end();
}

fn an_unused_address_is_dropped(world: &World) {
    let stage = Stage::new(world);
    for from in [
        Ipv4Addr::new(10, 231, 0, 200),
        Ipv4Addr::new(10, 231, 0, 1),
        Ipv4Addr::new(8, 8, 8, 8),
    ] {
        assert!(
            !stage.delivered(&Datagram {
                from,
                ..stage.honest()
            }),
            "{from}"
        );
    }
    stage.end();
}

fn another_tasks_mac_is_dropped(world: &World) {
    let stage = Stage::new(world);
    let from_mac = stage.victim.mac;
    assert!(!stage.delivered(&Datagram {
        from_mac,
        ..stage.honest()
    }));
    assert!(!stage.delivered(&Datagram {
        from_mac,
        from: stage.victim.address,
        ..stage.honest()
    }));
    let theirs = stage.victim.udp(ANY, PORT);
    let host = UdpSocket::bind((ANY, 0)).expect("bound");
    host.send_to(b"for the victim", (stage.victim.address, PORT))
        .expect("sent");
    assert!(
        receive(&theirs).is_some(),
        "the victim's packets still find it"
    );
    drop(theirs);
    stage.end();
}

fn a_frame_straight_to_another_is_dropped(world: &World) {
    let stage = Stage::new(world);
    for to_mac in [stage.receiver.mac, MacAddress([0xff; 6])] {
        assert!(
            !stage.delivered(&Datagram {
                to_mac,
                ..stage.honest()
            }),
            "{to_mac}"
        );
    }
    stage.end();
}

fn forged_arp_changes_no_neighbour(world: &World) {
    let stage = Stage::new(world);
    let (own, victim) = (stage.sender.mac, stage.victim.address);
    let router = Subnet::default_subnet().router();
    transmit(&stage.sender, &forged_arp(own, own, victim, router));
    transmit(
        &stage.sender,
        &forged_arp(own, own, router, stage.receiver.address),
    );
    let theirs = stage.victim.udp(ANY, PORT);
    let sender = stage.receiver.udp(ANY, 0);
    sender
        .send_to(b"for the victim", (victim, PORT))
        .expect("sent");
    assert!(
        receive(&theirs).is_some(),
        "the victim's packets still find it"
    );
    drop((theirs, sender));
    stage.end();
}

fn a_group_frame_does_not_reach_the_host(world: &World) {
    let stage = Stage::new(world);
    let host = UdpSocket::bind((ANY, PORT)).expect("bound");
    let router = Subnet::default_subnet().router();
    for last in [0x00, 0x0e] {
        let to_mac = MacAddress([0x01, 0x80, 0xc2, 0, 0, last]);
        transmit(
            &stage.sender,
            &Datagram {
                to_mac,
                to: router,
                ..stage.honest()
            }
            .frame(),
        );
        assert_eq!(receive(&host), None, "{to_mac}");
    }
    stage.end();
}
