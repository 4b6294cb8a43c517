//! What the host's own network means for ours: how large packets may be, and which ranges are taken.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::error::{Doing, Error, Result};
use crate::netlink::{Link, Occupied, RouteAnswer, RouteQuestion, RouteSocket};
use crate::subnet::Subnet;
use crate::sysctls;

/// The MTU where there is no way out.
const DEFAULT_MTU: u32 = 1500;

/// A route to more than this is as good as a default route: some VPNs cover everything with two
/// routes of /1 in place of one.
const AS_GOOD_AS_DEFAULT: u8 = 7;

/// The MTU of the link that the default route takes.
pub(crate) fn mtu(socket: &mut RouteSocket) -> Result<u32> {
    let route = socket
        .default_route()
        .doing(|| "look for the default route".into())?;
    let Some(route) = route else {
        return Ok(DEFAULT_MTU);
    };
    let uplink = socket.link_at(route.link);
    let uplink = uplink.doing(|| "look for the link of the default route".into())?;
    Ok(uplink.map_or(DEFAULT_MTU, |link| link.mtu))
}

/// What the host's kernel has of IPv6.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostIpv6 {
    /// It has it at all.
    pub(crate) is_there: bool,
    /// New links of the host's don't have it unless told to.
    pub(crate) is_off_for_new_links: bool,
}

impl HostIpv6 {
    pub(crate) fn look() -> Result<Self> {
        let off = sysctls::find("net/ipv6/conf/default/disable_ipv6")?;
        Ok(Self {
            is_there: off.is_some(),
            is_off_for_new_links: off.is_some_and(|value| value != "0"),
        })
    }
}

/// Whether the host has IPv6, and its uplink carries the packets that everyone must be able to send there
/// (RFC 8200, section 5).
pub(crate) fn has_ipv6(mtu: u32) -> bool {
    const MINIMUM_MTU: u32 = 1280;
    let off = sysctls::find("net/ipv6/conf/all/disable_ipv6");
    mtu >= MINIMUM_MTU && off.is_ok_and(|off| off.is_some_and(|value| value == "0"))
}

/// Refuses public addresses that the host itself is known by. One that a link has by itself, as a /32, is there for
/// tasks: that is how it gets to the host at all. But some hosters give the host's only address so: that is the one
/// that it sends from.
pub(crate) fn refuse_own_as_public(socket: &mut RouteSocket, public: &[Ipv4Net]) -> Result<()> {
    if public.is_empty() {
        return Ok(());
    }
    let source = source(socket)?;
    let addresses = socket.host_addresses();
    for (own, index) in addresses.doing(|| "list the host's addresses".into())? {
        let is_by_itself = own.prefix_len() == own.max_prefix_len();
        let is_for_tasks = is_by_itself && Some(own.addr()) != source;
        let IpAddr::V4(address) = own.addr() else {
            continue;
        };
        if !is_for_tasks && public.iter().any(|range| range.contains(&address)) {
            let links = socket.links().doing(|| "list the host's links".into())?;
            let link = links.into_iter().find(|link| link.index == index);
            let link = link.map_or_else(|| index.to_string(), |link| link.name);
            return Err(Error::PublicAddressOfHost { address, link });
        }
    }
    Ok(())
}

/// The address that the host sends from to the outside; nothing where it has no way there.
pub(crate) fn source(socket: &mut RouteSocket) -> Result<Option<IpAddr>> {
    // One of those that are for documentation: nothing is sent there.
    let outside = RouteQuestion {
        to: Ipv4Addr::new(198, 51, 100, 1).into(),
        from: None,
        in_link: None,
        mark: 0,
    };
    let way = socket.way(&outside);
    match way.doing(|| "look for the address that the host sends from".into())? {
        RouteAnswer::Out { source, .. } => Ok(source),
        _ => Ok(None),
    }
}

/// Refuses a subnet whose range is, in part, one that the host has an address in or a route to.
///
/// It is asked only before the subnet's bridge is made. A VPN that takes the range later must not
/// keep a restarted agent from its running tasks.
pub(crate) fn refuse_overlap(
    socket: &mut RouteSocket,
    subnet: &Subnet,
    ours: &[Subnet],
) -> Result<()> {
    let links = socket.links().doing(|| "list the host's links".into())?;
    let mut occupied = socket
        .addresses()
        .doing(|| "list the host's addresses".into())?;
    occupied.extend(socket.routes().doing(|| "list the host's routes".into())?);
    for Occupied { range, link } in occupied {
        let link = link.and_then(|index| links.iter().find(|link| link.index == index));
        let is_ours = |link: &Link| ours.iter().any(|subnet| subnet.bridge() == link.name);
        if range.prefix_len() <= AS_GOOD_AS_DEFAULT || link.is_some_and(is_ours) {
            continue;
        }
        if let Some(cidr) = subnet
            .ranges()
            .find(|own| own.contains(&range) || range.contains(own))
        {
            return Err(Error::Overlap {
                subnet: subnet.id().clone(),
                cidr,
                other: range,
                link: link.map_or_else(|| "several links".to_owned(), |link| link.name.clone()),
            });
        }
    }
    Ok(())
}
