//! What a host's network is made of: folders, subnets, security groups and the port of the metadata endpoint.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::security_group::SecurityGroup;
use crate::subnet::Subnet;
use crate::subordinate_ids::SubordinateIds;
use crate::vpc::Vpc;

/// The port, on 169.254.170.2, that the metadata endpoint listens on: tasks connect to port 80 and
/// are translated. A listener on port 80 would collide with a web server on all addresses.
pub const METADATA_PORT: u16 = 51679;

/// How a [`crate::Network`] is set up.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where allocations and the previous values of sysctls are kept. Survives a reboot.
    pub state_dir: PathBuf,
    /// Where the tasks' namespaces are mounted, under `netns/`. Gone after a reboot.
    pub run_dir: PathBuf,
    /// The subnets. Without any other wish, [`Subnet::default_subnet`].
    pub subnets: Vec<Subnet>,
    /// The security groups; an interface that names none is in the default one.
    pub security_groups: Vec<SecurityGroup>,
    /// The addresses that tasks can have as their own outside. They lead to this host, and are nobody's there.
    pub public_addresses: Vec<Ipv4Net>,
    /// The ids of the user namespaces that own the tasks' network namespaces, one each; without any, the host's own
    /// does.
    pub subordinate_ids: Option<SubordinateIds>,
    /// The port of the metadata endpoint, on 169.254.170.2.
    pub metadata_port: u16,
    /// Whether the firewall's tables are to be owned and persistent, where the kernel has that (Linux 6.9): nobody
    /// else can change them then. See [`crate::Network::firewall_is_owned`].
    pub own_tables: bool,
}

impl NetworkConfig {
    /// The default VPC and port, in the given folders.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self::of_vpc(&Vpc::default(), state_dir, run_dir)
    }

    /// The network of a VPC, in the given folders.
    pub fn of_vpc(vpc: &Vpc, state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            subnets: vpc.subnets().to_vec(),
            security_groups: vpc.security_groups().to_vec(),
            public_addresses: vpc.public_addresses().to_vec(),
            subordinate_ids: None,
            metadata_port: METADATA_PORT,
            own_tables: true,
        }
    }
}
