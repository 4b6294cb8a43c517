//! The firewall of the tasks: our two nftables tables, and the elements that each task has in them.
//!
//! The rules are in [`crate::ruleset`] and never change while the process runs. What a task may do is
//! in sets: bridges, the addresses of the host on them, which port may send from which MAC and IP
//! address, which policy an address has, and who is a member of which group. What policies let pass is in
//! chains of theirs ([`crate::policy`]).
#![forbid(unsafe_code)]

mod docker;
mod intended;
mod record;
mod tables;

pub(crate) use docker::is_dockers;
pub(crate) use intended::intended;
pub(crate) use record::remove as remove_record;
pub(crate) use tables::TABLES;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use nix::errno::Errno;

use crate::config::NetworkConfig;
use crate::eni::{Eni, EniId};
use crate::error::{Doing, Error, Result};
use crate::nftables::{Batch, Element, NftSocket, Set, TableKind};
use crate::policy::{Direction, Policies, Policy};
use crate::published::{HostPort, PublishedPort};
use crate::ruleset::{self, BRIDGE_TABLE, INET_TABLE, IpFamily, Rules, octets};
use crate::security_group::{SecurityGroup, SecurityGroupId};
use crate::subnet::{AttachmentMode, METADATA_ADDRESS, Subnet};

/// Sets have numbers in the batch that makes them; those of the rules have the first.
const FIRST_NUMBER_OF_A_GROUP: u32 = 1000;
const FIRST_NUMBER_OF_A_POLICY: u32 = 1_000_000;

/// The two tables, the socket to them, and what is in them.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: NftSocket,
    kind: TableKind,
    rules: Rules,
    policies: Policies,
    /// The interfaces that have their elements.
    admitted: BTreeMap<EniId, Eni>,
}

impl Firewall {
    /// Opens the socket, for the security groups and the metadata endpoint of this definition.
    pub(crate) fn open(config: &NetworkConfig) -> Result<Self> {
        let policies = Policies::new(&config.security_groups)?;
        let socket = NftSocket::open().doing(|| "open the socket of nftables".into())?;
        Ok(Self {
            socket,
            kind: TableKind::Plain,
            rules: Rules::new(config.metadata_port),
            policies,
            admitted: BTreeMap::new(),
        })
    }

    /// The groups of an interface: the default one if it names none.
    pub(crate) fn groups_of(&self, named: &[SecurityGroupId]) -> Result<Vec<SecurityGroupId>> {
        let groups = match named {
            [] => vec![SecurityGroupId::default_group()],
            named => named.to_vec(),
        };
        match groups.iter().find(|group| !self.policies.has(group)) {
            Some(unknown) => Err(Error::UnknownSecurityGroup(unknown.clone())),
            None => Ok(groups),
        }
    }

    /// Whether there is such a security group.
    pub(crate) fn has_group(&self, group: &SecurityGroupId) -> bool {
        self.policies.has(group)
    }

    /// Replaces the security groups, at once for all packets; or, if that fails, not at all.
    pub(crate) fn set_groups(&mut self, groups: &[SecurityGroup]) -> Result<()> {
        let policies = self.policies.with_groups(groups)?;
        let mut batch = Batch::default();
        write_policies(&mut batch, &policies);
        self.socket
            .commit(&batch)
            .doing(|| "replace the security groups' rules in nftables".into())?;
        self.policies = policies;
        Ok(())
    }

    /// Lets an interface send and be reached, as its security groups have it. If somebody has just removed the tables,
    /// or what is in them, they are put back with it.
    pub(crate) fn admit(&mut self, eni: &Eni, config: &NetworkConfig) -> Result<()> {
        let mut batch = Batch::default();
        self.admitted.insert(eni.id.clone(), eni.clone());
        if self.policies.enter(eni) {
            write_groups(&mut batch, self.policies.all_groups());
            write_policy(&mut batch, &self.policies, &Policy::of(eni), 0);
            write_dispatch(&mut batch, &self.policies);
        }
        eni_elements(eni)
            .iter()
            .for_each(|element| batch.add_element(element));
        match self.socket.commit(&batch) {
            Err(error) if error.errno == Errno::ENOENT && self.restore(config)? => Ok(()),
            outcome => outcome.doing(|| format!("add {} to the firewall's sets", eni.id)),
        }
    }

    /// The undo of [`Firewall::admit`]: nothing from or to the interface passes any more. If something of it isn't
    /// there, somebody has changed the tables, and they are put back without it.
    pub(crate) fn expel(&mut self, eni: &Eni, config: &NetworkConfig) -> Result<()> {
        if self.admitted.remove(&eni.id).is_none() {
            return Ok(());
        }
        let is_last = self.policies.leave(eni);
        let batch = self.removal(eni, is_last);
        let removed = match self.socket.commit(&batch) {
            Err(error) if error.errno == Errno::ENOENT => self.load(config, self.kind),
            outcome => outcome,
        };
        if removed.is_err() {
            // It is still there: to be removed again.
            self.policies.enter(eni);
            self.admitted.insert(eni.id.clone(), eni.clone());
        }
        removed.doing(|| format!("remove {} from the firewall's sets", eni.id))
    }

    /// Removes the elements of an interface, and its policy if it was the last that had it.
    fn removal(&self, eni: &Eni, is_last: bool) -> Batch {
        let mut batch = Batch::default();
        eni_elements(eni)
            .iter()
            .for_each(|element| batch.remove_element(element));
        if is_last {
            write_dispatch(&mut batch, &self.policies);
            let policy = Policy::of(eni);
            for chain in Direction::BOTH.map(|direction| policy.chain(direction)) {
                batch.ensure_empty_chain(INET_TABLE, &chain);
                batch.delete_chain(INET_TABLE, &chain);
            }
            write_addresses(&mut batch, &policy, 0);
            for family in IpFamily::BOTH {
                batch.delete_set(INET_TABLE, &policy.addresses(family));
            }
        }
        batch
    }

    fn admit_only(&mut self, enis: &[Eni]) {
        self.policies.keep_only(enis);
        let by_id = |eni: &Eni| (eni.id.clone(), eni.clone());
        self.admitted = enis.iter().map(by_id).collect();
    }
}

fn subnet_elements(subnet: &Subnet) -> Vec<Element> {
    let host = |address: IpAddr| of_address(ruleset::HOST_ADDRESSES, address);
    let mut elements = vec![
        Element::new(
            INET_TABLE,
            ruleset::BRIDGES,
            interface_name(subnet.bridge()),
        ),
        host(subnet.router().into()),
        host(subnet.resolver().into()),
        host(METADATA_ADDRESS.into()),
        of_address(ruleset::RESOLVERS, subnet.resolver().into()),
    ];
    elements.extend(subnet.ipv6_router().map(|router| host(router.into())));
    let ranges = subnet.ranges();
    elements.extend(ranges.flat_map(|range| range_elements(ruleset::SUBNETS, range)));
    elements
}

/// The ranges of public addresses.
fn pool_elements(config: &NetworkConfig) -> impl Iterator<Item = Element> {
    let ranges = config.public_addresses.iter();
    ranges.flat_map(|range| range_elements(ruleset::PUBLIC_POOL, IpNet::V4(*range)))
}

/// A range of a set of such.
fn range_elements(set: &str, range: IpNet) -> [Element; 2] {
    let first = range.network();
    let behind: Vec<u8> = match range {
        IpNet::V4(range) => (u32::from(range.broadcast()).saturating_add(1))
            .to_be_bytes()
            .into(),
        IpNet::V6(range) => (u128::from(range.broadcast()).saturating_add(1))
            .to_be_bytes()
            .into(),
    };
    let set = IpFamily::of(first).set(set);
    Element::range(INET_TABLE, set, [octets(first), behind])
}

/// The element of an address in its family's set of that name.
fn of_address(set: &str, address: IpAddr) -> Element {
    let set = IpFamily::of(address).set(set);
    Element::new(INET_TABLE, set, octets(address))
}

/// What lets an interface send and be reached.
pub(crate) fn eni_elements(eni: &Eni) -> Vec<Element> {
    eni.addresses()
        .flat_map(|address| address_elements(eni, address))
        .collect()
}

/// What lets an interface send from an address, and be reached at it.
fn address_elements(eni: &Eni, address: IpAddr) -> Vec<Element> {
    let family = IpFamily::of(address);
    let policy = Policy::of(eni);
    let mut elements = vec![
        source_element(eni, address),
        Element::new(INET_TABLE, policy.addresses(family), octets(address)),
    ];
    elements.extend(policy.groups().map(|group| {
        let set = ruleset::members(group, family);
        Element::new(INET_TABLE, set, octets(address))
    }));
    elements.extend(published_elements(eni, address));
    if let (IpAddr::V4(own), Some(public)) = (address, eni.public_address) {
        elements.extend(public_elements(own, public));
    }
    if !eni.published.is_empty() || address.is_ipv4() && eni.public_address.is_some() {
        let pair = [octets(address), octets(address)].concat();
        let set = family.set(ruleset::HAIRPINS);
        elements.push(Element::new(INET_TABLE, set, pair));
    }
    elements
}

/// What makes a public address an interface's, both ways.
fn public_elements(own: Ipv4Addr, public: Ipv4Addr) -> [Element; 2] {
    let element = |map, from: Ipv4Addr, to: Ipv4Addr| {
        Element::of_map(
            INET_TABLE,
            map,
            from.octets().to_vec(),
            to.octets().to_vec(),
        )
    };
    [
        element(ruleset::PUBLIC, public, own),
        element(ruleset::PUBLIC_SOURCES, own, public),
    ]
}

/// What leads from ports of the host's to an address of an interface.
fn published_elements(eni: &Eni, address: IpAddr) -> Vec<Element> {
    let family = IpFamily::of(address);
    // Fields are padded to four bytes.
    let port = |port: u16| [port.to_be_bytes(), [0, 0]].concat();
    let element = |published: &PublishedPort| {
        let HostPort {
            protocol,
            port: host,
        } = published.host;
        let key = [&[protocol.number(), 0, 0, 0][..], &port(host)].concat();
        let target = [octets(address), port(published.container_port)].concat();
        let map = family.set(ruleset::PUBLISHED);
        Element::of_map(INET_TABLE, map, key, target)
    };
    eni.published.iter().map(element).collect()
}

/// Where packets with that source must come from, and with which MAC address.
fn source_element(eni: &Eni, address: IpAddr) -> Element {
    // Fields of a key are padded to four bytes.
    let mac = eni.mac().0;
    let mut key = interface_name(&eni.id.host_link());
    key.extend(mac.into_iter().chain([0, 0]));
    key.extend(octets(address));
    let (table, set) = match eni.mode {
        AttachmentMode::Bridged => (BRIDGE_TABLE, ruleset::SOURCES),
        AttachmentMode::Routed => (INET_TABLE, ruleset::PORT_SOURCES),
    };
    Element::new(table, IpFamily::of(address).set(set), key)
}

/// The chains of all policies, as they are to be, what leads to them, and the sets that they look at.
fn write_policies(batch: &mut Batch, policies: &Policies) {
    write_groups(batch, policies.all_groups());
    for (number, policy) in (0..).zip(policies.all()) {
        write_policy(batch, policies, policy, number);
    }
    write_dispatch(batch, policies);
}

/// The chains of a policy and the sets of its addresses. Its number is one that no other in the batch has.
fn write_policy(batch: &mut Batch, policies: &Policies, policy: &Policy, number: u32) {
    write_addresses(batch, policy, number);
    for direction in Direction::BOTH {
        let chain = policy.chain(direction);
        batch.ensure_empty_chain(INET_TABLE, &chain);
        for rule in policies.rules(policy, direction) {
            batch.add_rule(INET_TABLE, &chain, &rule);
        }
    }
}

/// The sets of a policy's addresses, where they are missing.
fn write_addresses(batch: &mut Batch, policy: &Policy, number: u32) {
    let first = FIRST_NUMBER_OF_A_POLICY + 2 * number;
    for (number, family) in (first..).zip(IpFamily::BOTH) {
        let set = Set::of_keys(policy.addresses(family), &[family.field()]);
        batch.ensure_set(INET_TABLE, &set, number);
    }
}

/// What leads to the chains of all policies, which are there.
fn write_dispatch(batch: &mut Batch, policies: &Policies) {
    for (direction, dispatch) in [
        (Direction::Egress, ruleset::EGRESS),
        (Direction::Ingress, ruleset::INGRESS),
    ] {
        batch.ensure_empty_chain(INET_TABLE, &dispatch.into());
        for policy in policies.all() {
            for family in IpFamily::BOTH {
                let addresses = policy.addresses(family);
                let chain = policy.chain(direction);
                let rule = ruleset::dispatch(direction, addresses, family, chain);
                batch.add_rule(INET_TABLE, dispatch, &rule);
            }
        }
        batch.add_rule(INET_TABLE, dispatch, &ruleset::nothing_more());
    }
}

/// The sets of groups' members, where they are missing.
fn write_groups<'a>(batch: &mut Batch, groups: impl IntoIterator<Item = &'a SecurityGroupId>) {
    let sets = groups
        .into_iter()
        .flat_map(|group| IpFamily::BOTH.map(|family| (group, family)));
    for (id, (group, family)) in (1..).zip(sets) {
        let set = Set::of_keys(ruleset::members(group, family), &[family.field()]);
        batch.ensure_set(INET_TABLE, &set, FIRST_NUMBER_OF_A_GROUP + id);
    }
}

/// A link's name as a key: sixteen bytes, the rest of them zero.
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eni(mode: AttachmentMode) -> Eni {
        Eni {
            id: "eni-00000000000000abc".parse().expect("valid"),
            address: Ipv4Addr::new(10, 231, 0, 4),
            ipv6_address: Some("fd00::4".parse().expect("an address")),
            public_address: None,
            subnet: Subnet::default_subnet().id().clone(),
            mode,
            security_groups: Vec::new(),
            netns: "task".parse().expect("valid"),
            id_range: None,
            published: Vec::new(),
        }
    }

    #[test]
    fn the_source_check_of_a_port_has_its_mac_and_address() {
        let elements = eni_elements(&eni(AttachmentMode::Bridged));
        let port = [&b"eni-00000000abc\0"[..], &[2, 0, 0, 0, 0x0a, 0xbc, 0, 0]].concat();
        assert_eq!(elements[0].key, [&port[..], &[10, 231, 0, 4]].concat());
        assert_eq!(elements[1].key, [10, 231, 0, 4]);
        let ipv6 = [&[0xfd][..], &[0; 14], &[4]].concat();
        assert_eq!(elements[2].key, [port, ipv6.clone()].concat());
        assert_eq!((&*elements[2].set, &elements[3].key), ("sources6", &ipv6));
    }

    #[test]
    fn a_routed_link_has_the_same_where_ip_is_looked_at() {
        let [bridged, routed] = [AttachmentMode::Bridged, AttachmentMode::Routed]
            .map(|mode| eni_elements(&eni(mode)).swap_remove(0));
        assert_eq!(routed.key, bridged.key);
        assert_eq!((bridged.table, routed.table), (BRIDGE_TABLE, INET_TABLE));
    }
}
