//! A task's network: its interface, its subnet, its firewall and its addresses.

mod addresses;
mod attachment;
mod config;
mod eni;
mod error;
mod failpoint;
mod firewall;
mod namespace;
#[doc(hidden)]
pub mod netlink;
mod network;
mod nftables;
mod reconcile;
mod ruleset;
mod security_group;
mod subnet;
mod sys;
mod sysctls;
mod uplink;

pub use attachment::{AttachRequest, Attachment};
pub use config::{METADATA_PORT, NetworkConfig};
pub use eni::{Eni, EniId, MacAddress, NetnsName};
pub use error::{Error, InvalidName, Result};
pub use failpoint::FAILPOINTS;
pub use network::Network;
pub use reconcile::Report;
pub use security_group::SecurityGroupId;
pub use subnet::{INSTANCE_METADATA_ADDRESS, METADATA_ADDRESS, Subnet, SubnetId};
