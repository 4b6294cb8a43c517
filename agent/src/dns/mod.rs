//! The resolver of the tasks' subnets: DNS at the address that a VPC's resolver has, the third of
//! each range.
//!
//! It answers for what this host knows ([`Names`]): the names of the tasks' interfaces, there and
//! back. Everything else is asked of the host's own resolvers. `docs/dns.md` beside the sources
//! tells what is answered how.

mod forward;
mod host_resolvers;
mod local;
mod message;
mod names;
mod server;
mod sockets;
mod zones;

use std::net::IpAddr;

use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData};

pub use names::{Known, Names};
pub use server::{PORT, Server, Settings};
pub use sockets::{Keep, Sockets};
pub use zones::Zones;

/// The records of an interface: its addresses, and its name at each of them.
pub fn interface(name: &str, addresses: &[IpAddr]) -> anyhow::Result<Vec<(Name, RData)>> {
    let name = zones::absolute(name)?;
    let both = |address: &IpAddr| {
        let back = (Name::from(*address), RData::PTR(PTR(name.clone())));
        [(name.clone(), RData::from(*address)), back]
    };
    Ok(addresses.iter().flat_map(both).collect())
}
