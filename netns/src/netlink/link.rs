//! Links: bridges, veth pairs, and the ports that veth pairs have on bridges.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Instant;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InetDevConf, InfoBridge,
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::frame::{Attributes, flags};
use super::route::{Request, RouteSocket};
use super::{NetlinkError, Socket};
use crate::eni::MacAddress;

/// The index of the loopback link, in every network namespace.
pub const LOOPBACK: u32 = 1;

/// `IF_OPER_UP`.
const OPERATIONAL: u8 = 6;

/// A link, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one of Ethernet's length.
    pub mac: Option<MacAddress>,
    /// The largest packet that it carries.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub bridge: Option<u32>,
    /// Whether it carries packets: it is up, and so is what it is connected to.
    pub operational: bool,
    /// Its kind: `bridge`, `veth`; a physical link has none.
    pub kind: Option<String>,
}

impl Link {
    fn read(payload: &[u8]) -> Option<Self> {
        let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
        let mut link = Self {
            index,
            name: String::new(),
            mac: None,
            mtu: 0,
            bridge: None,
            operational: false,
            kind: None,
        };
        for (kind, value) in Attributes(payload.get(16..)?) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddress),
                libc::IFLA_MTU => link.mtu = number(value)?,
                libc::IFLA_MASTER => link.bridge = number(value),
                libc::IFLA_OPERSTATE => link.operational = value == [OPERATIONAL],
                libc::IFLA_LINKINFO => link.kind = info_kind(value),
                _ => {}
            }
        }
        Some(link)
    }
}

fn info_kind(info: &[u8]) -> Option<String> {
    let (_, value) = Attributes(info).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND)?;
    Some(text(value))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// A bridge to be made.
#[derive(Debug)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address, which stays as it is whatever its ports' are.
    pub mac: MacAddress,
    /// Its MTU.
    pub mtu: u32,
}

/// A veth pair to be made: one end here, the other born in another network namespace.
#[derive(Debug)]
pub struct NewVeth<'a> {
    /// The name of the end here.
    pub name: &'a str,
    /// Its MAC address; without a wish the kernel draws one.
    pub mac: Option<MacAddress>,
    /// The bridge that it becomes a port of.
    pub bridge: Option<u32>,
    /// The name of the other end.
    pub peer_name: &'a str,
    /// The MAC address of the other end.
    pub peer_mac: MacAddress,
    /// The network namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
    /// The MTU of both.
    pub mtu: u32,
}

impl NewVeth<'_> {
    fn request(&self) -> Request {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(self.peer_name.to_owned()),
            LinkAttribute::NetNsFd(self.peer_netns.as_raw_fd()),
            LinkAttribute::Address(self.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            // One queue: the default is one for each processor, which costs time and memory.
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        let info = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::LinkInfo(info),
        ];
        link.attributes
            .extend(self.bridge.map(LinkAttribute::Controller));
        let mac = self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec()));
        link.attributes.extend(mac);
        Request::change(
            RouteNetlinkMessage::NewLink(link),
            flags::CREATE | flags::EXCL,
        )
    }
}

impl RouteSocket {
    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = Request::list(RouteNetlinkMessage::GetLink(question()));
        let payloads = self.ask(&request)?;
        Ok(payloads
            .iter()
            .filter_map(|payload| Link::read(payload))
            .collect())
    }

    /// The link of this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = question();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.look(message)
    }

    /// The link with this index, if there is one.
    pub(crate) fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = question();
        message.header.index = index;
        self.look(message)
    }

    fn look(&mut self, which: LinkMessage) -> Result<Option<Link>, NetlinkError> {
        match self.ask(&Request::change(RouteNetlinkMessage::GetLink(which), 0)) {
            Ok(payloads) => Ok(payloads.first().and_then(|payload| Link::read(payload))),
            Err(error) if error.errno == Errno::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of a link that is expected to be there.
    pub fn index_of(&mut self, name: &str) -> Result<u32, NetlinkError> {
        Ok(crate::sys::link_index(self.as_fd(), name)?)
    }

    /// Makes a bridge. It is down.
    pub fn add_bridge(&mut self, bridge: &NewBridge<'_>) -> Result<(), NetlinkError> {
        let options = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            // Every address behind the bridge is known, so there is no group to learn about.
            InfoBridge::MulticastSnooping(false),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(bridge.name.to_owned()),
            LinkAttribute::Address(bridge.mac.0.to_vec()),
            LinkAttribute::Mtu(bridge.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(options)),
            ]),
        ];
        let message = RouteNetlinkMessage::NewLink(message);
        self.send(&[Request::change(message, flags::CREATE | flags::EXCL)])
    }

    /// Makes a veth pair. Both ends are down.
    pub fn add_veth(&mut self, veth: &NewVeth<'_>) -> Result<(), NetlinkError> {
        self.send(&[veth.request()])
    }

    /// Removes a link and waits until it is gone: some 16 ms, and a veth pair's other end with it.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.send(&[Request::change(RouteNetlinkMessage::DelLink(message), 0)]) {
            Err(error) if error.errno == Errno::ENODEV => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes many links at once, for little more than one costs: they are put into a group that
    /// nothing else is in, and the group is removed.
    pub(crate) fn delete_links(&mut self, indexes: &[u32]) -> Result<(), NetlinkError> {
        /// Arbitrary, so that it is nobody else's.
        const GROUP: u32 = 0x6265_7274;
        if indexes.is_empty() {
            return Ok(());
        }
        for index in indexes {
            let mut message = LinkMessage::default();
            message.header.index = *index;
            message.attributes.push(LinkAttribute::Group(GROUP));
            match self.send(&[Request::change(RouteNetlinkMessage::SetLink(message), 0)]) {
                Err(error) if error.errno != Errno::ENODEV => return Err(error),
                _ => {}
            }
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(GROUP));
        match self.send(&[Request::change(RouteNetlinkMessage::DelLink(message), 0)]) {
            Err(error) if error.errno == Errno::ENODEV => Ok(()),
            outcome => outcome,
        }
    }
}

/// What asks for links, without what IPv6 has counted on them: the kernel adds that up over all processors.
fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    let without = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    message.attributes.push(without);
    message
}

/// Brings a link up.
pub fn bring_up(index: u32) -> Request {
    let mut message = up(LinkMessage::default());
    message.header.index = index;
    Request::change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Has a link without addresses of its own making, before it comes up: the kernel looks at what is set together with
/// that only afterwards.
pub(crate) fn set_no_link_local(index: u32) -> Request {
    set(index, vec![no_link_local()])
}

/// Has a subnet's bridge drop sources as [`set_routed`] says, and tell nobody of the host's addresses elsewhere; with
/// IPv6, it makes itself no address.
pub(crate) fn set_bridge(index: u32, with_ipv6: bool) -> Request {
    let mut sysctls = strict_sources();
    sysctls.arp_ignore = 1;
    set_sysctls(index, sysctls, with_ipv6)
}

/// Prepares a link that is a task's own way to the host.
///
/// A source that another way leads to is dropped, or one to which, without the firewall's mark, none does
/// ([`crate::routing_policy`]). These are sysctls of the link, set where they cost nothing.
pub(crate) fn set_routed(index: u32, with_ipv6: bool) -> Request {
    set_sysctls(index, strict_sources(), with_ipv6)
}

fn strict_sources() -> InetDevConf {
    let mut sysctls = InetDevConf::default();
    (sysctls.rp_filter, sysctls.src_vmark) = (1, 1);
    sysctls
}

/// Sets those that are not zero.
fn set_sysctls(index: u32, sysctls: InetDevConf, with_ipv6: bool) -> Request {
    let sysctls = AfSpecInet::DevConfRequest(sysctls);
    let mut settings = vec![AfSpecUnspec::Inet(vec![sysctls])];
    settings.extend(with_ipv6.then(no_link_local));
    set(index, settings)
}

fn no_link_local() -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])
}

fn set(index: u32, settings: Vec<AfSpecUnspec>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
        .attributes
        .push(LinkAttribute::AfSpecUnspec(settings));
    Request::change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Brings a bridge's port up, closed to everything but the bridge itself.
///
/// Isolated: what one task sends to another goes through the router, where the firewall is. Nothing
/// is learned from what a task sends, so that it can't attract another's packets with a forged
/// frame. And nothing is flooded to it: every address behind the bridge has a static entry.
pub(crate) fn bring_port_up(index: u32) -> Request {
    let port = vec![
        InfoBridgePort::Isolated(true),
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::MulticastFlood(false),
        InfoBridgePort::BroadcastFlood(false),
        InfoBridgePort::Guard(true),
    ];
    let mut message = up(LinkMessage::default());
    message.header.index = index;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(port)),
    ]));
    // A port's options are read from RTM_NEWLINK only, not from RTM_SETLINK.
    Request::change(RouteNetlinkMessage::NewLink(message), 0)
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// Hears of changes to links.
#[derive(Debug)]
pub(crate) struct LinkWatch(Socket);

impl LinkWatch {
    /// From now on, in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let group = libc::RTMGRP_LINK.cast_unsigned();
        Ok(Self(Socket::subscribe(SockProtocol::NetlinkRoute, group)?))
    }

    /// Waits until something holds that is looked at now and after each change: whether it did before the deadline.
    pub(crate) fn wait_until(
        &mut self,
        deadline: Instant,
        mut holds: impl FnMut() -> Result<bool, NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        // It listens already when it looks, so that no change falls in between.
        while !holds()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            match self.0.listen(deadline) {
                // More changes than it could take: that is news too.
                Err(error) if error.errno == Errno::ENOBUFS => {}
                heard => drop(heard?),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// The bytes that make a veth pair: what the kernel is sent is written down, so that a new
    /// version of the encoder can't change it unseen.
    #[test]
    fn a_veth_pair_is_encoded_as_the_kernel_reads_it() {
        let stdin = std::io::stdin();
        let veth = NewVeth {
            name: "eni-1",
            mac: None,
            bridge: Some(7),
            peer_name: "eth0",
            peer_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            peer_netns: stdin.as_fd(),
            mtu: 1500,
        };
        let frame = veth.request().frame();
        assert_eq!(frame.kind, libc::RTM_NEWLINK);
        assert_eq!(frame.flags, 0x605);
        let attributes: Vec<(u16, &[u8])> = Attributes(&frame.payload[16..]).collect();
        assert_eq!(attributes[0], (libc::IFLA_IFNAME, &b"eni-1\0"[..]));
        assert_eq!(attributes[1], (libc::IFLA_MTU, &[0xdc, 5, 0, 0][..]));
        assert_eq!(attributes[5], (libc::IFLA_MASTER, &[7, 0, 0, 0][..]));
        let info: Vec<(u16, &[u8])> = Attributes(attributes[4].1).collect();
        assert_eq!(info[0].1, b"veth\0");
        let data: Vec<(u16, &[u8])> = Attributes(info[1].1).collect();
        let peer = data[0].1;
        let peer: Vec<(u16, &[u8])> = Attributes(&peer[16..]).collect();
        assert_eq!(peer[0], (libc::IFLA_IFNAME, &b"eth0\0"[..]));
        assert_eq!(peer[1], (libc::IFLA_NET_NS_FD, &[0, 0, 0, 0][..]));
        assert_eq!(peer[2], (libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1][..]));
    }
}
