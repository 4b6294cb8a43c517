//! A task's network: its interface, its subnet, its firewall and its addresses.
//!
//! [`Network::open`] makes what the host needs: a bridge for each [`Subnet`], the firewall's rules, and
//! forwarding. [`Network::attach`] makes a network namespace with an [`Eni`], and
//! [`Network::detach`] takes it away; [`Network::isolate`] makes one without an interface. [`Network::reconcile`] cleans up
//! after a crash, and [`Network::undo`] leaves the host as it was. A [`FirewallWatch`] puts back rules that somebody else
//! removes; a [`FirewalldWatch`] has firewalld let tasks' traffic pass; a [`HostAddressWatch`] tells where the host itself
//! is. What can reach what, and how, is in `docs/design.md`.
//!
//! ```no_run
//! use berth_netns::{AttachRequest, EniId, Network, NetworkConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::open(NetworkConfig::new("/var/lib/berth/network", "/run/berth"))?;
//! network.reconcile(&[], &[])?;
//! let attachment = network.attach(&AttachRequest {
//!     eni: EniId::generate()?,
//!     subnet: "subnet-00000000000000001".parse()?,
//!     security_groups: Vec::new(),
//!     published: Vec::new(),
//!     assign_public_ip: false,
//!     netns: "a-task".parse()?,
//! })?;
//! println!("{} is in {}", attachment.eni.address, attachment.netns_path.display());
//! network.detach(&attachment.eni.id)?;
//! # Ok(())
//! # }
//! ```
//!
//! It knows nothing of containers or ECS, and has no async runtime: calls block for about a
//! millisecond, and any thread may make them.
//!
//! Its dependencies: netlink-packet-route (and its core) for the requests about links, addresses and
//! routes; nix and libc for system calls; ipnet for ranges; serde_json for the files of allocations;
//! thiserror for the errors.
#![cfg_attr(
    test,
    allow(
        clippy::expect_used,
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test that panics has failed"
    )
)]

mod addresses;
mod allocation;
mod attachment;
mod config;
mod conntrack;
mod eni;
mod error;
mod failpoint;
mod firewall;
mod firewalld;
mod hash;
mod host_address;
mod inspect;
mod isolated;
mod namespace;
// Public for the tests of this crate only.
#[doc(hidden)]
pub mod netlink;
mod network;
mod nftables;
mod policy;
mod pool;
mod prepared;
mod published;
mod reconcile;
mod routing_policy;
mod ruleset;
mod security_group;
mod subnet;
mod subordinate_ids;
mod sys;
mod sysctls;
mod uplink;
mod user_namespace;
mod vpc;
mod watch;
mod watch_stop;

pub use attachment::{AttachRequest, Attachment};
pub use config::{METADATA_PORT, NetworkConfig};
pub use eni::{Eni, EniId, MacAddress, NetnsName};
pub use error::{Error, InvalidName, Result};
pub use failpoint::FAILPOINTS;
pub use firewalld::{BusError, FirewalldEvent, FirewalldWatch};
pub use host_address::HostAddressWatch;
pub use inspect::{
    CheckError, Endpoint, Explanation, GroupView, InterfaceView, LinkState, Question, RuleView,
    Snapshot, Step, SubnetView, Traffic, Verdict,
};
pub use isolated::Isolated;
pub use network::Network;
pub use nftables::Process;
pub use published::{HostPort, PortProtocol, PublishedPort};
pub use reconcile::Report;
pub use security_group::{Peer, Protocol, Rule, SecurityGroup, SecurityGroupId};
pub use subnet::{
    AttachmentMode, INSTANCE_METADATA_ADDRESS, INSTANCE_METADATA_IPV6_ADDRESS, METADATA_ADDRESS,
    Subnet, SubnetId,
};
pub use subordinate_ids::{IdRange, SubordinateIds};
pub use user_namespace::{make as make_user_namespace, owner};
pub use vpc::{InvalidVpc, Vpc};
pub use watch::{FirewallWatch, WatchEvent};
pub use watch_stop::WatchStop;
