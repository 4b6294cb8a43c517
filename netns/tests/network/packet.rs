//! Frames made by hand, as a task with CAP_NET_RAW can make them.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use berth_netns::MacAddress;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket};

use crate::world::{Task, inside};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;

/// A datagram in a frame.
pub struct Datagram {
    pub to_mac: MacAddress,
    pub from_mac: MacAddress,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub port: u16,
    pub text: &'static [u8],
}

impl Datagram {
    pub fn frame(&self) -> Vec<u8> {
        let udp_length = u16::try_from(8 + self.text.len()).expect("short");
        let mut udp = [
            4242u16.to_be_bytes(),
            self.port.to_be_bytes(),
            udp_length.to_be_bytes(),
            [0, 0],
        ]
        .concat();
        udp.extend_from_slice(self.text);
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_length).to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        ip.extend(self.from.octets());
        ip.extend(self.to.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [ethernet(self.to_mac, self.from_mac, IPV4), ip, udp].concat()
    }
}

/// A claim that an address has a MAC address.
pub fn forged_arp(
    from_mac: MacAddress,
    claimed_mac: MacAddress,
    claimed: Ipv4Addr,
    to: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = ethernet(MacAddress([0xff; 6]), from_mac, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(claimed_mac.0);
    frame.extend(claimed.octets());
    frame.extend([0; 6]);
    frame.extend(to.octets());
    frame
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
    let netns = &task.netns;
    inside(netns, || {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("root");
        let mut routes = berth_netns::netlink::RouteSocket::open().expect("a socket");
        bind_to(&socket, routes.index_of("eth0").expect("there"));
        send(socket.as_raw_fd(), frame, MsgFlags::empty()).expect("sent");
    });
}

fn bind_to(socket: &OwnedFd, index: u32) {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("small"),
        sll_protocol: 0,
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
