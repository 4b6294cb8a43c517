//! The network at one moment: what it is to be, by its definition and the allocated addresses, and what the kernel has.
//!
//! Nothing is changed and nothing is locked, so it can be taken while another process runs the network.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::addresses;
use crate::config::NetworkConfig;
use crate::eni::{Eni, EniId};
use crate::error::{Doing, Result};
use crate::firewall::{self, TABLES};
use crate::netlink::{Link, PolicyRule, RouteSocket};
use crate::nftables::{NftSocket, Ruleset};
use crate::ruleset::IpFamily;
use crate::subnet::{AttachmentMode, Subnet};
use crate::sysctls;

/// The network at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its definition; subnets have the families that their bridges have.
    pub(super) config: NetworkConfig,
    pub(super) enis: Vec<Eni>,
    /// The tables as they are to be.
    pub(super) intended: Ruleset,
    pub(super) kernel: Kernel,
}

/// What the kernel has of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    /// Everybody's chains, and our sets.
    pub(super) ruleset: Ruleset,
    /// Which of our tables aren't there, as `nft` names them.
    pub(super) missing_tables: Vec<String>,
    pub(super) links: Vec<Link>,
    /// The host's addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// The permanent neighbours of our bridges.
    pub(super) neighbours: Vec<IpAddr>,
    /// The rules of the routing policy that are ours.
    pub(super) policy_rules: Vec<PolicyRule>,
    pub(super) forwards_ipv4: bool,
    pub(super) forwards_ipv6: bool,
    /// Frames on bridges pass iptables.
    pub(super) bridges_call_ipv4: bool,
    pub(super) bridges_call_ipv6: bool,
}

/// Whether a link is there and carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// It carries packets.
    Up,
    /// It is there, and it or what it is connected to is down.
    Down,
    /// There is no such link.
    Missing,
}

impl Snapshot {
    /// Looks at the network of this definition, in the calling thread's network namespace. Needs root.
    pub fn take(mut config: NetworkConfig) -> Result<Self> {
        let enis = addresses::list(&config.state_dir)?;
        let mut routes = RouteSocket::open().doing(|| "open a netlink socket".into())?;
        let addresses = routes
            .host_addresses()
            .doing(|| "list the host's addresses".into())?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|(own, _)| own.addr()).collect();
        let subnets = config.subnets.into_iter();
        config.subnets = subnets
            .map(|subnet| as_its_bridge(subnet, &addresses))
            .collect();
        let kernel = Kernel::look(&mut routes, &config, addresses)?;
        Ok(Self {
            intended: firewall::intended(&config, &enis)?,
            config,
            enis,
            kernel,
        })
    }

    /// The interfaces that have an address.
    pub fn enis(&self) -> &[Eni] {
        &self.enis
    }

    /// The interface with this id.
    pub fn eni(&self, id: &EniId) -> Option<&Eni> {
        self.enis.iter().find(|eni| eni.id == *id)
    }

    /// The subnets, each without IPv6 if its bridge has none.
    pub fn subnets(&self) -> &[Subnet] {
        &self.config.subnets
    }

    pub(super) fn eni_at(&self, address: IpAddr) -> Option<&Eni> {
        let has_it = |eni: &&Eni| eni.addresses().any(|own| own == address);
        self.enis.iter().find(has_it)
    }

    /// The interface that has it as its own outside.
    pub(super) fn eni_shown_as(&self, address: IpAddr) -> Option<&Eni> {
        let has_it = |eni: &&Eni| eni.public_address.is_some_and(|own| address == own);
        self.enis.iter().find(has_it)
    }

    pub(super) fn subnet_of(&self, eni: &Eni) -> Option<&Subnet> {
        let mut subnets = self.config.subnets.iter();
        subnets.find(|subnet| *subnet.id() == eni.subnet)
    }

    /// The subnet whose range has the address.
    pub(super) fn subnet_at(&self, address: IpAddr) -> Option<&Subnet> {
        let has_it = |subnet: &&Subnet| subnet.ranges().any(|range| range.contains(&address));
        self.config.subnets.iter().find(has_it)
    }

    pub(super) fn is_hosts(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.kernel.addresses.contains(&address)
    }

    /// The link by which the host's IP sees an interface: its subnet's bridge, or its own.
    pub(super) fn ip_link(&self, eni: &Eni) -> Option<&Link> {
        match eni.mode {
            AttachmentMode::Bridged => self.kernel.link(self.subnet_of(eni)?.bridge()),
            AttachmentMode::Routed => self.kernel.link(&eni.id.host_link()),
        }
    }
}

impl Kernel {
    fn look(
        routes: &mut RouteSocket,
        config: &NetworkConfig,
        addresses: Vec<IpAddr>,
    ) -> Result<Self> {
        let mut nftables = NftSocket::open().doing(|| "open the socket of nftables".into())?;
        let mut missing_tables = Vec::new();
        for table in TABLES {
            let doing = || format!("look for the table {table}");
            if nftables.table(table).doing(doing)?.is_none() {
                missing_tables.push(table.to_string());
            }
        }
        let ruleset = nftables.ruleset(&TABLES);
        let links = routes.links().doing(|| "list the host's links".into())?;
        let mut neighbours = Vec::new();
        for subnet in &config.subnets {
            if let Some(bridge) = links.iter().find(|link| link.name == subnet.bridge()) {
                let doing = || format!("list the neighbours of {}", subnet.bridge());
                neighbours.extend(routes.permanent_neighbours(bridge.index).doing(doing)?);
            }
        }
        let is_on = |key: &str| sysctls::read(key).is_ok_and(|value| value != "0");
        Ok(Self {
            ruleset: ruleset.doing(|| "list the rules of nftables".into())?,
            missing_tables,
            links,
            addresses,
            neighbours,
            policy_rules: routes
                .policy_rules()
                .doing(|| "list the rules of the routing policy".into())?,
            forwards_ipv4: is_on("net/ipv4/ip_forward"),
            forwards_ipv6: is_on("net/ipv6/conf/all/forwarding"),
            bridges_call_ipv4: is_on("net/bridge/bridge-nf-call-iptables"),
            bridges_call_ipv6: is_on("net/bridge/bridge-nf-call-ip6tables"),
        })
    }

    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn state_of(&self, name: &str) -> LinkState {
        match self.link(name) {
            None => LinkState::Missing,
            Some(link) if link.operational => LinkState::Up,
            Some(_) => LinkState::Down,
        }
    }

    pub(super) fn forwards(&self, family: IpFamily) -> bool {
        match family {
            IpFamily::Ipv4 => self.forwards_ipv4,
            IpFamily::Ipv6 => self.forwards_ipv6,
        }
    }

    pub(super) fn bridges_call(&self, family: IpFamily) -> bool {
        match family {
            IpFamily::Ipv4 => self.bridges_call_ipv4,
            IpFamily::Ipv6 => self.bridges_call_ipv6,
        }
    }
}

/// A subnet as it was when its bridge was made: a host without IPv6 has it without.
fn as_its_bridge(subnet: Subnet, addresses: &[IpAddr]) -> Subnet {
    match subnet.ipv6_router() {
        Some(router) if !addresses.contains(&router.into()) => subnet.without_ipv6(),
        _ => subnet,
    }
}
