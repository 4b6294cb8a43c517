//! Addresses, routes and neighbours: what makes a link a place on the network.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::NetlinkError;
use super::frame::{Attributes, flags};
use super::route::{Request, RouteSocket};
use crate::eni::MacAddress;

/// Gives a link an address. Repeating it changes nothing.
///
/// Without `prefix_route`, the kernel adds no route for the rest of the range: its addresses are
/// then reached like any other, through the router. An IPv6 address is good at once: all addresses of the link
/// are given by us, so nobody is asked whether they are taken.
pub fn add_address(link: u32, address: impl Into<IpNet>, prefix_route: bool) -> Request {
    let address = address.into();
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Noprefixroute, !prefix_route);
    flags.set(AddressFlags::Nodad, address.addr().is_ipv6());
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = scope(address.addr());
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
        AddressAttribute::Flags(flags),
    ];
    Request::change(
        RouteNetlinkMessage::NewAddress(message),
        flags::CREATE | flags::REPLACE,
    )
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A link-local address is never the source of packets that leave the link.
fn scope(address: IpAddr) -> AddressScope {
    match address {
        IpAddr::V4(address) if address.is_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    }
}

/// A route through a router that no address of the link needs to be in one range with.
pub fn add_route(link: u32, destination: impl Into<IpNet>, router: impl Into<IpAddr>) -> Request {
    let mut message = route(destination.into(), RouteType::Unicast);
    message.header.flags = RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Oif(link));
    message
        .attributes
        .push(RouteAttribute::Gateway(route_address(router.into())));
    new_route(message)
}

/// A route to what is on the link itself.
pub(crate) fn add_link_route(link: u32, destination: impl Into<IpNet>) -> Request {
    let destination = destination.into();
    let mut message = route(destination, RouteType::Unicast);
    if destination.addr().is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes.push(RouteAttribute::Oif(link));
    new_route(message)
}

/// Makes what is sent to an IPv6 address arrive at a link that was given it.
///
/// A thread of the kernel sees to that too, a moment after the address is there, also where nobody else is asked
/// whether it is taken; what comes for it before goes astray.
pub(crate) fn add_local_route(link: u32, address: Ipv6Addr) -> Request {
    let mut message = route(IpNet::V6(address.into()), RouteType::Local);
    message.header.table = libc::RT_TABLE_LOCAL;
    message.attributes.push(RouteAttribute::Oif(link));
    new_route(message)
}

/// A route to nowhere: sending there fails at once.
pub(crate) fn add_blackhole(destination: impl Into<IpNet>) -> Request {
    new_route(route(destination.into(), RouteType::BlackHole))
}

fn new_route(message: RouteMessage) -> Request {
    Request::change(
        RouteNetlinkMessage::NewRoute(message),
        flags::CREATE | flags::REPLACE,
    )
}

fn route(destination: IpNet, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = kind;
    if destination.prefix_len() > 0 {
        let network = route_address(destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(network));
    }
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

/// Says for good which MAC address an address has. A permanent neighbour is never asked for, can't
/// be forged, and does not count towards the limit of the table.
pub(crate) fn add_neighbour(link: u32, address: impl Into<IpAddr>, mac: MacAddress) -> Request {
    let mut message = neighbour(link, address.into());
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Request::change(
        RouteNetlinkMessage::NewNeighbour(message),
        flags::CREATE | flags::REPLACE,
    )
}

fn neighbour(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}

/// Says for good behind which port of its bridge a MAC address is.
pub(crate) fn add_forwarding_entry(port: u32, mac: MacAddress) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    // For a bridge, "permanent" is an address of the bridge's own, and "noarp" a static one.
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    Request::change(
        RouteNetlinkMessage::NewNeighbour(message),
        flags::CREATE | flags::REPLACE,
    )
}

/// A range that a link has an address in, or a route to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occupied {
    pub(crate) range: IpNet,
    pub(crate) link: Option<u32>,
}

/// The route that everything without a better one takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DefaultRoute {
    pub(crate) link: u32,
    metric: u32,
}

impl RouteSocket {
    /// Removes what [`add_neighbour`] added; nothing there is fine too.
    pub(crate) fn delete_neighbour(
        &mut self,
        link: u32,
        address: IpAddr,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour(link, address));
        match self.send(&[Request::change(message, 0)]) {
            Err(error) if [Errno::ENOENT, Errno::ENODEV, Errno::ENXIO].contains(&error.errno) => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Removes what [`add_link_route`] added; nothing there is fine too.
    pub(crate) fn delete_route(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = route(address.into(), RouteType::Unicast);
        // Whichever it has.
        message.header.scope = RouteScope::NoWhere;
        message.attributes.push(RouteAttribute::Oif(link));
        self.delete(message)
    }

    /// Removes the route by which a link hears IPv6 groups, ff00::/8, that the kernel gives each link which becomes
    /// ready; nothing there is fine too.
    pub(crate) fn delete_group_route(&mut self, link: u32) -> Result<(), NetlinkError> {
        let groups = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
        let mut message = route(groups.into(), RouteType::Multicast);
        message.header.table = libc::RT_TABLE_LOCAL;
        // Whoever the kernel says it is of: that was its user once.
        message.header.protocol = RouteProtocol::Unspec;
        message.attributes.push(RouteAttribute::Oif(link));
        self.delete(message)
    }

    fn delete(&mut self, route: RouteMessage) -> Result<(), NetlinkError> {
        match self.send(&[Request::change(RouteNetlinkMessage::DelRoute(route), 0)]) {
            Err(error) if [Errno::ESRCH, Errno::ENOENT, Errno::ENODEV].contains(&error.errno) => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The addresses that have a permanent neighbour entry on a link.
    pub(crate) fn permanent_neighbours(&mut self, link: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let message = NeighbourMessage::default();
        let payloads = self.ask(&Request::list(RouteNetlinkMessage::GetNeighbour(message)))?;
        Ok(payloads
            .iter()
            .filter_map(|payload| read_permanent_neighbour(payload, link))
            .collect())
    }

    /// Every range that a link of the namespace has an address in.
    pub(crate) fn addresses(&mut self) -> Result<Vec<Occupied>, NetlinkError> {
        let message = AddressMessage::default();
        let payloads = self.ask(&Request::list(RouteNetlinkMessage::GetAddress(message)))?;
        let range = |payload: &Vec<u8>| read_address(payload, libc::IFA_ADDRESS);
        let ranges = payloads.iter().filter_map(range);
        Ok(ranges
            .map(|(range, link)| Occupied {
                range,
                link: Some(link),
            })
            .collect())
    }

    /// Every address that a link of the namespace has, with the length of its range, and the link's index.
    pub(crate) fn host_addresses(&mut self) -> Result<Vec<(IpNet, u32)>, NetlinkError> {
        let message = AddressMessage::default();
        let payloads = self.ask(&Request::list(RouteNetlinkMessage::GetAddress(message)))?;
        // On links with one other end, the first kind is its own address, and the second that of the other.
        let kinds = [libc::IFA_LOCAL, libc::IFA_ADDRESS];
        let own = |payload: &Vec<u8>| kinds.iter().find_map(|kind| read_address(payload, *kind));
        Ok(payloads.iter().filter_map(own).collect())
    }

    /// Every range that the namespace has a route to, except the default routes and those to its own
    /// addresses.
    pub(crate) fn routes(&mut self) -> Result<Vec<Occupied>, NetlinkError> {
        let payloads = self.all_routes()?;
        let routes = payloads.iter().filter_map(|payload| Route::read(payload));
        let routes = routes.filter(|route| route.destination.prefix_len() > 0);
        Ok(routes
            .map(|route| Occupied {
                range: route.destination,
                link: route.link,
            })
            .collect())
    }

    /// The best default route of IPv4.
    pub(crate) fn default_route(&mut self) -> Result<Option<DefaultRoute>, NetlinkError> {
        let payloads = self.all_routes()?;
        let routes = payloads.iter().filter_map(|payload| Route::read(payload));
        let everything = IpNet::from(Ipv4Net::default());
        let defaults = routes.filter(|route| route.destination == everything);
        let defaults = defaults.filter_map(|route| {
            route.link.map(|link| DefaultRoute {
                link,
                metric: route.metric,
            })
        });
        Ok(defaults.min_by_key(|route| route.metric))
    }

    fn all_routes(&mut self) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let message = RouteMessage::default();
        self.ask(&Request::list(RouteNetlinkMessage::GetRoute(message)))
    }
}

/// A unicast route outside the table of the host's own addresses.
struct Route {
    destination: IpNet,
    link: Option<u32>,
    metric: u32,
}

impl Route {
    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; 12] = payload.first_chunk()?;
        let [family, prefix_length, _, _, table, _, _, kind, ..] = *header;
        if table == libc::RT_TABLE_LOCAL || kind != libc::RTN_UNICAST {
            return None;
        }
        let (mut network, mut link, mut metric) = (unspecified(family)?, None, 0);
        for (kind, value) in Attributes(payload.get(12..)?) {
            match kind {
                libc::RTA_DST => network = address(value)?,
                libc::RTA_OIF => link = Some(u32::from_ne_bytes(value.try_into().ok()?)),
                libc::RTA_PRIORITY => metric = u32::from_ne_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        let destination = IpNet::new(network, prefix_length).ok()?;
        Some(Self {
            destination,
            link,
            metric,
        })
    }
}

/// The address of this kind, with its range, and the link that has it.
fn read_address(payload: &[u8], kind: u16) -> Option<(IpNet, u32)> {
    let [_, prefix_length, _, _, index @ ..] = *payload.first_chunk::<8>()?;
    let (_, value) = Attributes(payload.get(8..)?).find(|(other, _)| *other == kind)?;
    let range = IpNet::new(address(value)?, prefix_length).ok()?;
    Some((range, u32::from_ne_bytes(index)))
}

fn read_permanent_neighbour(payload: &[u8], link: u32) -> Option<IpAddr> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let state = u16::from_ne_bytes(payload.get(8..10)?.try_into().ok()?);
    if index != link || state & libc::NUD_PERMANENT == 0 {
        return None;
    }
    let (_, value) = Attributes(payload.get(12..)?).find(|(kind, _)| *kind == libc::NDA_DST)?;
    address(value)
}

/// The address that a default route is to; nothing for families other than IP's, which a list of all has too.
fn unspecified(family: u8) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        libc::AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}
