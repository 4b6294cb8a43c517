//! Addresses, routes and neighbours: what makes a link a place on the network.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
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
/// then reached like any other, through the router.
pub fn add_address(link: u32, address: Ipv4Net, prefix_route: bool) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = scope(address.addr());
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(address.addr().into()),
        AddressAttribute::Address(address.addr().into()),
    ];
    if !prefix_route {
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    }
    Request::change(
        RouteNetlinkMessage::NewAddress(message),
        flags::CREATE | flags::REPLACE,
    )
}

/// A link-local address is never the source of packets that leave the link.
fn scope(address: Ipv4Addr) -> AddressScope {
    if address.is_link_local() {
        AddressScope::Link
    } else {
        AddressScope::Universe
    }
}

/// A route through a router that no address of the link needs to be in one range with.
pub fn add_route(link: u32, destination: Ipv4Net, router: Ipv4Addr) -> Request {
    let mut message = route(destination, RouteType::Unicast);
    message.header.flags = RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Oif(link));
    message
        .attributes
        .push(RouteAttribute::Gateway(RouteAddress::Inet(router)));
    Request::change(
        RouteNetlinkMessage::NewRoute(message),
        flags::CREATE | flags::REPLACE,
    )
}

/// A route to nowhere: sending there fails at once.
pub(crate) fn add_blackhole(destination: Ipv4Net) -> Request {
    let message = route(destination, RouteType::BlackHole);
    Request::change(
        RouteNetlinkMessage::NewRoute(message),
        flags::CREATE | flags::REPLACE,
    )
}

fn route(destination: Ipv4Net, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = kind;
    if destination.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(
                destination.network(),
            )));
    }
    message
}

/// Says for good which MAC address an address has. A permanent neighbour is never asked for, can't
/// be forged, and does not count towards the limit of the table.
pub(crate) fn add_neighbour(link: u32, address: Ipv4Addr, mac: MacAddress) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    Request::change(
        RouteNetlinkMessage::NewNeighbour(message),
        flags::CREATE | flags::REPLACE,
    )
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
    pub(crate) range: Ipv4Net,
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
        address: Ipv4Addr,
    ) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = link;
        message
            .attributes
            .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
                address,
            )));
        match self.send(&[Request::change(
            RouteNetlinkMessage::DelNeighbour(message),
            0,
        )]) {
            Err(error) if [Errno::ENOENT, Errno::ENODEV, Errno::ENXIO].contains(&error.errno) => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The addresses that have a permanent neighbour entry on a link.
    pub(crate) fn permanent_neighbours(
        &mut self,
        link: u32,
    ) -> Result<Vec<Ipv4Addr>, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        let payloads = self.ask(&Request::list(RouteNetlinkMessage::GetNeighbour(message)))?;
        Ok(payloads
            .iter()
            .filter_map(|payload| read_permanent_neighbour(payload, link))
            .collect())
    }

    /// Every IPv4 range that a link of the namespace has an address in.
    pub(crate) fn addresses(&mut self) -> Result<Vec<Occupied>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let payloads = self.ask(&Request::list(RouteNetlinkMessage::GetAddress(message)))?;
        Ok(payloads
            .iter()
            .filter_map(|payload| read_address(payload))
            .collect())
    }

    /// Every IPv4 range that the namespace has a route to, except the default routes and those to
    /// its own addresses.
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

    /// The best default route.
    pub(crate) fn default_route(&mut self) -> Result<Option<DefaultRoute>, NetlinkError> {
        let payloads = self.all_routes()?;
        let routes = payloads.iter().filter_map(|payload| Route::read(payload));
        let defaults = routes.filter(|route| route.destination.prefix_len() == 0);
        let defaults = defaults.filter_map(|route| {
            route.link.map(|link| DefaultRoute {
                link,
                metric: route.metric,
            })
        });
        Ok(defaults.min_by_key(|route| route.metric))
    }

    fn all_routes(&mut self) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        self.ask(&Request::list(RouteNetlinkMessage::GetRoute(message)))
    }
}

/// A unicast route outside the table of the host's own addresses.
struct Route {
    destination: Ipv4Net,
    link: Option<u32>,
    metric: u32,
}

impl Route {
    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; 12] = payload.first_chunk()?;
        let [_, prefix_length, _, _, table, _, _, kind, ..] = *header;
        if table == libc::RT_TABLE_LOCAL || kind != libc::RTN_UNICAST {
            return None;
        }
        let (mut network, mut link, mut metric) = (Ipv4Addr::UNSPECIFIED, None, 0);
        for (kind, value) in Attributes(payload.get(12..)?) {
            match kind {
                libc::RTA_DST => network = ipv4(value)?,
                libc::RTA_OIF => link = Some(u32::from_ne_bytes(value.try_into().ok()?)),
                libc::RTA_PRIORITY => metric = u32::from_ne_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        let destination = Ipv4Net::new(network, prefix_length).ok()?;
        Some(Self {
            destination,
            link,
            metric,
        })
    }
}

fn read_address(payload: &[u8]) -> Option<Occupied> {
    let [_, prefix_length, _, _, index @ ..] = *payload.first_chunk::<8>()?;
    let link = u32::from_ne_bytes(index);
    let (_, value) = Attributes(payload.get(8..)?).find(|(kind, _)| *kind == libc::IFA_ADDRESS)?;
    let range = Ipv4Net::new(ipv4(value)?, prefix_length).ok()?;
    Some(Occupied {
        range,
        link: Some(link),
    })
}

fn read_permanent_neighbour(payload: &[u8], link: u32) -> Option<Ipv4Addr> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let state = u16::from_ne_bytes(payload.get(8..10)?.try_into().ok()?);
    if index != link || state & libc::NUD_PERMANENT == 0 {
        return None;
    }
    let (_, value) = Attributes(payload.get(12..)?).find(|(kind, _)| *kind == libc::NDA_DST)?;
    ipv4(value)
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = value.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}
