//! Frames made by hand, as a task with CAP_NET_RAW can make them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use berth_netns::MacAddress;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};

use crate::world::{PATIENCE, Task, briefly, inside};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const UDP: u8 = 17;

/// Everyone's MAC address.
pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

/// A datagram in a frame. Both addresses are of one family.
#[derive(Clone)]
pub struct Datagram {
    pub to_mac: MacAddress,
    pub from_mac: MacAddress,
    pub from: IpAddr,
    pub to: IpAddr,
    pub port: u16,
    pub text: &'static [u8],
}

impl Datagram {
    pub fn frame(&self) -> Vec<u8> {
        let length = u16::try_from(8 + self.text.len()).expect("short");
        let mut udp = [4242u16, self.port, length, 0]
            .map(u16::to_be_bytes)
            .concat();
        udp.extend_from_slice(self.text);
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ethernet = ethernet(self.to_mac, self.from_mac, IPV4);
                [ethernet, ipv4(from, to, length), udp].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let sum = checksum(&pseudo(from, to, UDP, &udp));
                udp[6..8].copy_from_slice(&sum.to_be_bytes());
                let ethernet = ethernet(self.to_mac, self.from_mac, IPV6);
                [ethernet, ipv6(from, to, UDP, &udp)].concat()
            }
            _ => panic!("two families in one packet"),
        }
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, length: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + length).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    // Neighbour discovery believes nothing that has crossed a router.
    packet.extend([protocol, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend_from_slice(payload);
    packet
}

/// What the checksum of a protocol above IPv6 is over.
fn pseudo(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend_from_slice(payload);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

/// A claim that an address has a MAC address.
pub fn forged_arp(
    from_mac: MacAddress,
    claimed_mac: MacAddress,
    claimed: Ipv4Addr,
    to: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, from_mac, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(claimed_mac.0);
    frame.extend(claimed.octets());
    frame.extend([0; 6]);
    frame.extend(to.octets());
    frame
}

/// The question who has an address.
pub fn arp_question(from_mac: MacAddress, from: Ipv4Addr, about: Ipv4Addr) -> Vec<u8> {
    let mut frame = forged_arp(from_mac, from_mac, from, about);
    // A request, not a reply.
    frame[21] = 1;
    frame
}

/// A forged claim in IPv6: an advertisement to all nodes, unasked, that overrides what they know.
pub fn forged_neighbour(from_mac: MacAddress, from: Ipv6Addr, claimed: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(claimed.octets());
    message.extend([2, 1]);
    message.extend(from_mac.0);
    icmpv6(from_mac, from, message)
}

/// The advertisement of a router that lives for half an hour, with its MAC address.
pub fn forged_router(from_mac: MacAddress, from: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([1, 1]);
    message.extend(from_mac.0);
    icmpv6(from_mac, from, message)
}

fn icmpv6(from_mac: MacAddress, from: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    let sum = checksum(&pseudo(from, ALL_NODES, ICMPV6, &message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let all_nodes = MacAddress([0x33, 0x33, 0, 0, 0, 1]);
    let ethernet = ethernet(all_nodes, from_mac, IPV6);
    [ethernet, ipv6(from, ALL_NODES, ICMPV6, &message)].concat()
}

fn ethernet(to: MacAddress, from: MacAddress, kind: u16) -> Vec<u8> {
    [&to.0[..], &from.0[..], &kind.to_be_bytes()].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// Sends a frame from a task's interface, as it is.
pub fn transmit(task: &Task, frame: &[u8]) {
    let socket = packet_socket(task, 0);
    send(socket.as_raw_fd(), frame, MsgFlags::empty()).expect("sent");
}

/// What comes to a task's interface from others, but for the groups that the host says it listens to.
pub struct Capture {
    socket: OwnedFd,
    own: MacAddress,
}

impl Capture {
    /// From now on.
    pub fn of(task: &Task) -> Self {
        const ALL: u16 = 3;
        Self {
            socket: packet_socket(task, ALL.to_be()),
            own: task.mac,
        }
    }

    /// The frames that come: as many as that are waited for with patience, and more of them briefly.
    pub fn frames(&self, expected: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut frames = self.so_far();
        while frames.len() < expected && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            frames.extend(self.so_far());
        }
        thread::sleep(briefly());
        frames.extend(self.so_far());
        frames
    }

    fn so_far(&self) -> Vec<Vec<u8>> {
        const MULTICAST_ROUTERS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x16];
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        let dont_wait = MsgFlags::MSG_DONTWAIT;
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, dont_wait) {
            frames.push(buffer[..length].to_vec());
        }
        frames.retain(|frame| frame[6..12] != self.own.0 && frame[..6] != MULTICAST_ROUTERS);
        frames
    }
}

fn packet_socket(task: &Task, protocol: u16) -> OwnedFd {
    inside(&task.netns, || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).expect("root");
        let mut routes = berth_netns::netlink::RouteSocket::open().expect("a socket");
        bind_to(&socket, routes.index_of("eth0").expect("there"), protocol);
        socket
    })
}

fn bind_to(socket: &OwnedFd, index: u32, protocol: u16) {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("small"),
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(index).expect("small"),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).expect("small");
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}
