//! Waiting until an IPv6 address that a link was given is the namespace's own.
//!
//! A thread of the kernel sees to that a moment later, also where nobody else is asked whether the address is
//! taken. What comes for it before goes astray.
#![forbid(unsafe_code)]

use std::net::Ipv6Addr;
use std::time::Instant;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::route::{Request, RouteSocket};
use super::{NetlinkError, Socket};

/// Hears of IPv6 routes that come and go.
#[derive(Debug)]
pub(crate) struct RouteWatch(Socket);

impl RouteWatch {
    /// From now on, in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let group = libc::RTMGRP_IPV6_ROUTE.cast_unsigned();
        Ok(Self(Socket::subscribe(SockProtocol::NetlinkRoute, group)?))
    }

    /// Waits until the address is the namespace's own: whether it was before the deadline. `routes` is a socket
    /// of the same namespace.
    pub(crate) fn wait_until_local(
        &mut self,
        routes: &mut RouteSocket,
        address: Ipv6Addr,
        deadline: Instant,
    ) -> Result<bool, NetlinkError> {
        // It listens already when it looks, so that no change falls in between.
        while !routes.is_local(address)? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            match self.0.listen(deadline) {
                // More than it could take: that is news too.
                Err(error) if error.errno == Errno::ENOBUFS => {}
                heard => drop(heard?),
            }
        }
        Ok(true)
    }
}

impl RouteSocket {
    /// Whether what is sent to an address arrives in the namespace itself.
    pub(crate) fn is_local(&mut self, address: Ipv6Addr) -> Result<bool, NetlinkError> {
        const TYPE: usize = 7;
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 128;
        let destination = RouteAttribute::Destination(RouteAddress::Inet6(address));
        message.attributes.push(destination);
        match self.ask(&Request::change(RouteNetlinkMessage::GetRoute(message), 0)) {
            Ok(payloads) => {
                let payload = payloads.first();
                let kind = payload.and_then(|payload| payload.get(TYPE));
                Ok(kind == Some(&libc::RTN_LOCAL))
            }
            // There is no way there at all.
            Err(error) if [Errno::ENETUNREACH, Errno::EHOSTUNREACH].contains(&error.errno) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
