//! The addresses that are taken, each a file: `<state_dir>/addresses/<subnet>/<address>`.
//!
//! The file ([`crate::allocation`]) says all that is needed to find the rest of the interface.
//!
//! An address that is given back is spent: the kernel may remember connections of the interface that had it. Its file
//! stays, as `<address>.spent`, until those are forgotten, and others are given first.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::allocation::{boot_id, entries, read, read_of_another, remove, write};
use crate::attachment::AttachRequest;
use crate::eni::{Eni, EniId, NetnsName};
use crate::error::{Error, Result};
use crate::published::{HostPort, PublishedPort};
use crate::security_group::SecurityGroupId;
use crate::subnet::{AttachmentMode, Subnet, SubnetId};
use crate::subordinate_ids::{HeldRange, IdRanges};

/// How the name of a spent address's file ends.
const SPENT: &str = "spent";

/// What is in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Allocation {
    boot_id: String,
    eni: Eni,
}

/// What an interface gets besides its address, if anything.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(crate) public_address: Option<Ipv4Addr>,
    pub(crate) id_range: Option<HeldRange>,
}

/// The allocations of all subnets.
#[derive(Debug)]
pub(crate) struct Addresses {
    directory: PathBuf,
    boot_id: String,
    enis: BTreeMap<EniId, Eni>,
    /// In both families.
    taken: BTreeSet<IpAddr>,
    namespaces: BTreeSet<NetnsName>,
    ports: BTreeMap<HostPort, EniId>,
    id_ranges: BTreeMap<EniId, HeldRange>,
    /// Those that an interface had which is gone, and whose connections may be remembered, with their files.
    spent: BTreeMap<Ipv4Addr, PathBuf>,
    /// Where the search goes on, for each subnet: a released address rests as long as possible.
    next: BTreeMap<SubnetId, usize>,
}

impl Addresses {
    /// Reads the files, and removes those that are nobody's.
    pub(crate) fn load(state_dir: &Path, boot_id: String, ids: &IdRanges) -> Result<Self> {
        let mut addresses = Self {
            directory: state_dir.join("addresses"),
            boot_id,
            enis: BTreeMap::new(),
            taken: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            ports: BTreeMap::new(),
            id_ranges: BTreeMap::new(),
            spent: BTreeMap::new(),
            next: BTreeMap::new(),
        };
        for subnet in entries(&addresses.directory)? {
            for file in entries(&subnet)? {
                match read::<Allocation>(&file)? {
                    Some(allocation) if allocation.boot_id == addresses.boot_id => {
                        match file.extension().is_some_and(|end| end == SPENT) {
                            true => drop(addresses.spent.insert(allocation.eni.address, file)),
                            false => {
                                let range = allocation.eni.id_range.map(|range| ids.claim(range));
                                addresses.enter(allocation.eni, range);
                            }
                        }
                    }
                    _ => remove(&file)?,
                }
            }
        }
        Ok(addresses)
    }

    /// Takes the next free address of the subnet, and what else is to be the interface's alone. [`Addresses::release`]
    /// is the undo.
    pub(crate) fn reserve(
        &mut self,
        subnet: &Subnet,
        request: &AttachRequest,
        security_groups: &[SecurityGroupId],
        own: Own,
    ) -> Result<Eni> {
        self.check(request)?;
        let capacity = subnet.capacity();
        let start = self.next.get(subnet.id()).copied().unwrap_or_default();
        let candidates = (start..start + capacity).map(|index| index % capacity);
        let candidates = candidates.filter_map(|index| subnet.task_address(index));
        let fresh = candidates.clone().map(|address| (address, false));
        for (address, may_be_spent) in fresh.chain(candidates.map(|address| (address, true))) {
            if self.is_attached(address.into()) || self.is_spent(address) != may_be_spent {
                continue;
            }
            // A range of IPv6 may have been another subnet's before, and have interfaces of that one.
            let ipv6 = subnet.ipv6_of(address).map(IpAddr::V6);
            if ipv6.is_some_and(|own| self.is_attached(own)) {
                continue;
            }
            let eni = Eni {
                id: request.eni.clone(),
                address,
                ipv6_address: subnet.ipv6_of(address),
                public_address: own.public_address,
                subnet: subnet.id().clone(),
                mode: subnet.mode(),
                security_groups: security_groups.to_vec(),
                netns: request.netns.clone(),
                id_range: own.id_range.as_ref().map(|held| held.range),
                published: request.published.clone(),
            };
            if self.write(&eni)? {
                let index = subnet.task_index(address).unwrap_or_default();
                self.next.insert(subnet.id().clone(), index + 1);
                self.enter(eni.clone(), own.id_range);
                return Ok(eni);
            }
        }
        Err(exhausted(subnet))
    }

    /// Whether a subnet takes these interfaces, too; some may have an address of it already.
    pub(crate) fn check_room(&self, subnet: &Subnet, wanted: &[EniId]) -> Result<()> {
        /// What a bridge has ports for (`BR_MAX_PORTS` of Linux, but for the one that is none).
        const PORTS: usize = 1023;
        let of_it = self.enis.values().filter(|eni| eni.subnet == *subnet.id());
        let new = wanted.iter().filter(|id| !self.enis.contains_key(id));
        let count = of_it.count() + new.count();
        if count > subnet.capacity() {
            return Err(exhausted(subnet));
        }
        if subnet.mode() == AttachmentMode::Bridged && count > PORTS {
            return Err(Error::BridgeFull {
                subnet: subnet.id().clone(),
            });
        }
        Ok(())
    }

    /// A public address of the pool that no interface has; nothing where there is no pool.
    pub(crate) fn free_public(&self, pool: &[Ipv4Net]) -> Result<Option<Ipv4Addr>> {
        let taken: BTreeSet<Ipv4Addr> = self
            .enis
            .values()
            .flat_map(|eni| eni.public_address)
            .collect();
        let mut all = pool.iter().flat_map(|range| {
            let (first, last) = (range.network().to_bits(), range.broadcast().to_bits());
            (first..=last).map(Ipv4Addr::from_bits)
        });
        let free = all.find(|address| !taken.contains(address));
        match free {
            None if !pool.is_empty() => Err(Error::PublicAddressesExhausted(taken.len())),
            free => Ok(free),
        }
    }

    /// Whether the interface, its namespace and its ports are nobody's yet.
    fn check(&self, request: &AttachRequest) -> Result<()> {
        let id = &request.eni;
        if self.enis.contains_key(id) || self.namespaces.contains(&request.netns) {
            return Err(Error::AlreadyAttached(id.clone()));
        }
        let mut own = BTreeSet::new();
        for PublishedPort { host, .. } in &request.published {
            let other = self.ports.get(host);
            if let Some(by) = other.or_else(|| (!own.insert(host)).then_some(id)) {
                let (port, by) = (*host, by.clone());
                return Err(Error::PortPublished { port, by });
            }
        }
        Ok(())
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, eni: &Eni) -> Result<()> {
        let path = self.path(eni);
        let spent = path.with_file_name(format!("{}.{SPENT}", eni.address));
        match fs::rename(&path, &spent) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("rename", &path, error));
            }
            _ => self.spent.insert(eni.address, spent),
        };
        self.enis.remove(&eni.id);
        for address in eni.addresses() {
            self.taken.remove(&address);
        }
        self.namespaces.remove(&eni.netns);
        self.id_ranges.remove(&eni.id);
        for published in &eni.published {
            self.ports.remove(&published.host);
        }
        Ok(())
    }

    /// Whether an interface is in that network namespace.
    pub(crate) fn has_namespace(&self, name: &NetnsName) -> bool {
        self.namespaces.contains(name)
    }

    /// Whether connections of an interface that had this address before may be remembered.
    pub(crate) fn is_spent(&self, address: Ipv4Addr) -> bool {
        self.spent.contains_key(&address)
    }

    /// How many such addresses there are.
    pub(crate) fn count_spent(&self) -> usize {
        self.spent.len()
    }

    /// Notes that nothing is remembered of any address that nobody has.
    pub(crate) fn none_is_spent(&mut self) -> Result<()> {
        while let Some((_, file)) = self.spent.pop_first() {
            remove(&file)?;
        }
        Ok(())
    }

    /// Whether an interface has this address.
    pub(crate) fn is_attached(&self, address: IpAddr) -> bool {
        self.taken.contains(&address)
    }

    /// The interface with this id, if it has an address.
    pub(crate) fn get(&self, id: &EniId) -> Option<Eni> {
        self.enis.get(id).cloned()
    }

    /// All interfaces that have an address.
    pub(crate) fn all(&self) -> Vec<Eni> {
        self.enis.values().cloned().collect()
    }

    fn enter(&mut self, eni: Eni, range: Option<HeldRange>) {
        self.id_ranges
            .extend(range.map(|range| (eni.id.clone(), range)));
        self.taken.extend(eni.addresses());
        self.namespaces.insert(eni.netns.clone());
        let ports = eni.published.iter();
        let ports = ports.map(|published| (published.host, eni.id.clone()));
        self.ports.extend(ports);
        self.enis.insert(eni.id.clone(), eni);
    }

    /// Writes an allocation's file; false if somebody else has.
    fn write(&self, eni: &Eni) -> Result<bool> {
        let allocation = Allocation {
            boot_id: self.boot_id.clone(),
            eni: eni.clone(),
        };
        write(&self.path(eni), &allocation)
    }

    fn path(&self, eni: &Eni) -> PathBuf {
        self.directory
            .join(eni.subnet.as_str())
            .join(eni.address.to_string())
    }
}

fn exhausted(subnet: &Subnet) -> Error {
    Error::AddressesExhausted {
        subnet: subnet.id().clone(),
        cidr: subnet.cidr(),
        capacity: subnet.capacity(),
    }
}

/// The interfaces that have an address, as their files say; nothing is changed, also while another process has the
/// network.
pub(crate) fn list(state_dir: &Path) -> Result<Vec<Eni>> {
    let boot_id = boot_id()?;
    let mut enis = Vec::new();
    for subnet in entries(&state_dir.join("addresses"))? {
        for file in entries(&subnet)? {
            if file.extension().is_some_and(|end| end == SPENT) {
                continue;
            }
            let allocation: Option<Allocation> = read_of_another(&file)?;
            let ours = allocation.filter(|allocation| allocation.boot_id == boot_id);
            enis.extend(ours.map(|allocation| allocation.eni));
        }
    }
    enis.sort_by(|one: &Eni, other| one.id.cmp(&other.id));
    Ok(enis)
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
