//! A task's network: its interface, its subnet, its firewall and its addresses.

mod config;
mod eni;
mod error;
#[doc(hidden)]
pub mod netlink;
mod network;
mod security_group;
mod subnet;
mod sys;

pub use config::{METADATA_PORT, NetworkConfig};
pub use eni::{Eni, EniId, MacAddress, NetnsName};
pub use error::{Error, InvalidName, Result};
pub use network::{AttachRequest, Attachment, Network, Report};
pub use security_group::SecurityGroupId;
pub use subnet::{INSTANCE_METADATA_ADDRESS, METADATA_ADDRESS, Subnet, SubnetId};
