//! The resolver of the tasks' subnets: DNS at the address that a VPC's resolver has, the third of
//! each range.
//!
//! It answers for what this host knows ([`Names`]): the names of the tasks' interfaces, there and
//! back, and those of their services. Everything else is asked of the host's own resolvers. `docs/dns.md` beside the sources
//! tells what is answered how.

mod choice;
mod forward;
mod host_resolvers;
mod local;
mod message;
mod names;
mod namespaces;
mod records;
mod server;
mod sockets;
mod zones;

use std::net::IpAddr;

use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record};

pub use names::{Known, Names};
pub use namespaces::Namespaces;
pub use server::{PORT, Server, Settings};
pub use sockets::{Keep, Sockets};
pub use zones::{Zones, absolute};

/// How long an answer may be kept that says nothing else of it, in seconds: what EC2 says of the names of its
/// interfaces.
const TTL: u32 = 60;

/// The records of an interface: its addresses, and its name at each of them.
pub fn interface(name: &str, addresses: &[IpAddr]) -> anyhow::Result<Vec<Record>> {
    let name = zones::absolute(name)?;
    let both = |address: &IpAddr| {
        let back = RData::PTR(PTR(name.clone()));
        [
            Record::from_rdata(name.clone(), TTL, RData::from(*address)),
            Record::from_rdata(Name::from(*address), TTL, back),
        ]
    };
    Ok(addresses.iter().flat_map(both).collect())
}
