//! Netlink: how links, addresses, routes and firewall state are asked for and changed.
//!
//! A synchronous socket (`Socket`) that sends a few `Frame`s and reads until each is answered,
//! and on it the routing family (`RouteSocket`), in whose messages the types and their encoding
//! are netlink-packet-route's. The family of nftables, which has no usable library, is
//! `crate::nftables`.
//!
//! A netlink socket belongs to the network namespace of the thread that opens it, for good. So a
//! namespace is configured through a socket that was opened inside, by any thread, and no thread
//! ever has to change its namespace back.
#![forbid(unsafe_code)]

mod addressing;
mod frame;
mod link;
mod lookup;
mod route;
mod rule;
mod socket;

use std::fmt;
use std::io;

use nix::errno::Errno;

pub(crate) use addressing::{
    Occupied, add_blackhole, add_forwarding_entry, add_link_route, add_local_route, add_neighbour,
};
pub use addressing::{add_address, add_route};
pub(crate) use frame::{Attributes, Frame, align, flags};
pub use link::{LOOPBACK, Link, NewBridge, NewVeth, bring_up};
pub(crate) use link::{LinkWatch, bring_port_up, set_bridge, set_no_link_local, set_routed};
pub(crate) use lookup::{RouteAnswer, RouteQuestion, WayWatch};
pub use route::{Request, RouteSocket};
pub(crate) use rule::PolicyWatch;
pub use rule::{PolicyAction, PolicyFamily, PolicyRule};
pub(crate) use socket::Socket;

/// A netlink request that the kernel refused, or that could not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetlinkError {
    /// The error number.
    pub errno: Errno,
    /// What the kernel says beside it, if it says anything.
    pub explanation: Option<String>,
}

impl NetlinkError {
    pub(crate) fn new(errno: Errno) -> Self {
        Self {
            errno,
            explanation: None,
        }
    }

    /// An answer that does not have the form that it should have.
    pub(crate) fn malformed(what: impl fmt::Display) -> Self {
        Self {
            errno: Errno::EBADMSG,
            explanation: Some(what.to_string()),
        }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} ({})", self.errno, self.errno.desc())?;
        match &self.explanation {
            Some(text) => write!(out, ", the kernel says: {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::new(errno)
    }
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        Self::new(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}
