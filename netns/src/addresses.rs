//! The addresses that are taken, each a file: `<state_dir>/addresses/<subnet>/<address>`.
//!
//! The file is there before anything else of the interface, and goes after everything else. It says
//! all that is needed to find the rest, and during which boot it was made: a reboot takes everything
//! but the files, so one of an earlier boot, or one that was not written to the end, is nobody's.
//!
//! An address that is given back is spent: the kernel may remember connections of the interface that had it. Its file
//! stays, as `<address>.spent`, until those are forgotten, and others are given first.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use serde::{Deserialize, Serialize};

use crate::attachment::AttachRequest;
use crate::eni::{Eni, EniId, NetnsName};
use crate::error::{Error, Result};
use crate::published::{HostPort, PublishedPort};
use crate::security_group::SecurityGroupId;
use crate::subnet::{AttachmentMode, Subnet, SubnetId};

/// How the name of a spent address's file ends.
const SPENT: &str = "spent";

/// What is in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Allocation {
    boot_id: String,
    eni: Eni,
}

/// The allocations of all subnets.
#[derive(Debug)]
pub(crate) struct Addresses {
    directory: PathBuf,
    boot_id: String,
    enis: BTreeMap<EniId, Eni>,
    taken: BTreeSet<Ipv4Addr>,
    namespaces: BTreeSet<NetnsName>,
    ports: BTreeMap<HostPort, EniId>,
    /// Those that an interface had which is gone, and whose connections may be remembered, with their files.
    spent: BTreeMap<Ipv4Addr, PathBuf>,
    /// Where the search goes on, for each subnet: a released address rests as long as possible.
    next: BTreeMap<SubnetId, usize>,
}

impl Addresses {
    /// Reads the files, and removes those that are nobody's.
    pub(crate) fn load(state_dir: &Path, boot_id: String) -> Result<Self> {
        let mut addresses = Self {
            directory: state_dir.join("addresses"),
            boot_id,
            enis: BTreeMap::new(),
            taken: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            ports: BTreeMap::new(),
            spent: BTreeMap::new(),
            next: BTreeMap::new(),
        };
        for subnet in entries(&addresses.directory)? {
            for file in entries(&subnet)? {
                match read(&file)? {
                    Some(allocation) if allocation.boot_id == addresses.boot_id => {
                        match file.extension().is_some_and(|end| end == SPENT) {
                            true => drop(addresses.spent.insert(allocation.eni.address, file)),
                            false => addresses.enter(allocation.eni),
                        }
                    }
                    _ => remove(&file)?,
                }
            }
        }
        Ok(addresses)
    }

    /// Takes the next free address of the subnet, and the ports that are to be published. [`Addresses::release`]
    /// is the undo.
    pub(crate) fn reserve(
        &mut self,
        subnet: &Subnet,
        request: &AttachRequest,
        security_groups: &[SecurityGroupId],
        public_address: Option<Ipv4Addr>,
    ) -> Result<Eni> {
        self.check(request)?;
        let capacity = subnet.capacity();
        let start = self.next.get(subnet.id()).copied().unwrap_or_default();
        let candidates = (start..start + capacity).map(|index| index % capacity);
        let candidates = candidates.filter_map(|index| subnet.task_address(index));
        let fresh = candidates.clone().map(|address| (address, false));
        for (address, may_be_spent) in fresh.chain(candidates.map(|address| (address, true))) {
            if self.taken.contains(&address) || self.is_spent(address) != may_be_spent {
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
                public_address,
                subnet: subnet.id().clone(),
                mode: subnet.mode(),
                security_groups: security_groups.to_vec(),
                netns: request.netns.clone(),
                published: request.published.clone(),
            };
            if self.write(&eni)? {
                let index = subnet.task_index(address).unwrap_or_default();
                self.next.insert(subnet.id().clone(), index + 1);
                self.enter(eni.clone());
                return Ok(eni);
            }
        }
        Err(exhausted(subnet))
    }

    /// Whether a subnet takes so many more interfaces.
    pub(crate) fn check_room(&self, subnet: &Subnet, wanted: usize) -> Result<()> {
        /// What a bridge has ports for (`BR_MAX_PORTS` of Linux, but for the one that is none).
        const PORTS: usize = 1023;
        let of_it = self.enis.values().filter(|eni| eni.subnet == *subnet.id());
        let count = of_it.count() + wanted;
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
        self.taken.remove(&eni.address);
        self.namespaces.remove(&eni.netns);
        for published in &eni.published {
            self.ports.remove(&published.host);
        }
        Ok(())
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
        match address {
            IpAddr::V4(address) => self.taken.contains(&address),
            IpAddr::V6(address) => {
                let mut enis = self.enis.values();
                enis.any(|eni| eni.ipv6_address == Some(address))
            }
        }
    }

    /// The interface with this id, if it has an address.
    pub(crate) fn get(&self, id: &EniId) -> Option<Eni> {
        self.enis.get(id).cloned()
    }

    /// All interfaces that have an address.
    pub(crate) fn all(&self) -> Vec<Eni> {
        self.enis.values().cloned().collect()
    }

    fn enter(&mut self, eni: Eni) {
        self.taken.insert(eni.address);
        self.namespaces.insert(eni.netns.clone());
        let ports = eni.published.iter();
        let ports = ports.map(|published| (published.host, eni.id.clone()));
        self.ports.extend(ports);
        self.enis.insert(eni.id.clone(), eni);
    }

    /// Writes an allocation's file; false if somebody else has.
    fn write(&self, eni: &Eni) -> Result<bool> {
        let path = self.path(eni);
        let allocation = Allocation {
            boot_id: self.boot_id.clone(),
            eni: eni.clone(),
        };
        let text = serde_json::to_string(&allocation)
            .map_err(|error| Error::file("encode", &path, error))?;
        let mut file = match create(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(Error::file("create", &path, error)),
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            remove(&path)?;
            return Err(Error::file("write", &path, error));
        }
        Ok(true)
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
            // One that has just gone is nobody's.
            let allocation = match read(&file) {
                Err(_) if !file.exists() => None,
                outcome => outcome?,
            };
            let ours = allocation.filter(|allocation| allocation.boot_id == boot_id);
            enis.extend(ours.map(|allocation| allocation.eni));
        }
    }
    enis.sort_by(|one: &Eni, other| one.id.cmp(&other.id));
    Ok(enis)
}

/// What distinguishes this boot of the host from every other.
pub(crate) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, error))?;
    Ok(text.trim().to_owned())
}

fn create(path: &Path) -> io::Result<File> {
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            File::create_new(path)
        }
        outcome => outcome,
    }
}

/// An allocation; nothing if the file is not a whole one.
fn read(path: &Path) -> Result<Option<Allocation>> {
    let bytes = fs::read(path).map_err(|error| Error::file("read", path, error))?;
    Ok(serde_json::from_slice(&bytes).ok())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        outcome => outcome.map_err(|error| Error::file("read", directory, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::PortProtocol;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("berth-netns-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("the folder is ours");
        }
    }

    fn load(folder: &Folder, boot: &str) -> Addresses {
        Addresses::load(&folder.0, boot.into()).expect("readable")
    }

    fn reserve(addresses: &mut Addresses, subnet: &Subnet, number: usize) -> Result<Eni> {
        let (id, netns) = (format!("eni-{number:017x}"), format!("task-{number}"));
        addresses.reserve(subnet, &request(subnet, &id, &netns), &[], None)
    }

    fn request(subnet: &Subnet, id: &str, netns: &str) -> AttachRequest {
        AttachRequest {
            eni: id.parse().expect("valid"),
            subnet: subnet.id().clone(),
            security_groups: Vec::new(),
            netns: netns.parse().expect("valid"),
            published: Vec::new(),
            assign_public_ip: false,
        }
    }

    fn small_subnet() -> Subnet {
        let id = "subnet-00000000000000002".parse().expect("valid");
        Subnet::new(id, "10.9.8.0/28".parse().expect("a network"), "berth1").expect("valid")
    }

    #[test]
    fn addresses_are_given_once_and_survive_a_restart() {
        let folder = Folder::new("restart");
        let subnet = small_subnet();
        let first = reserve(&mut load(&folder, "boot"), &subnet, 1).expect("free");
        let second = reserve(&mut load(&folder, "boot"), &subnet, 2).expect("free");
        assert_eq!(first.address, Ipv4Addr::new(10, 9, 8, 4));
        assert_eq!(second.address, Ipv4Addr::new(10, 9, 8, 5));
        assert_eq!(load(&folder, "boot").all(), [first, second]);
    }

    #[test]
    fn a_released_address_rests_while_others_are_free() {
        let folder = Folder::new("rest");
        let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
        let first = reserve(&mut addresses, &subnet, 1).expect("free");
        addresses.release(&first).expect("released");
        assert_ne!(
            reserve(&mut addresses, &subnet, 2).expect("free").address,
            first.address
        );
    }

    #[test]
    fn spent_addresses_are_given_last_and_known_to_the_next_process() {
        let folder = Folder::new("spent");
        let subnet = small_subnet();
        let mut addresses = load(&folder, "boot");
        let first = reserve(&mut addresses, &subnet, 1).expect("free");
        addresses.release(&first).expect("released");
        let mut addresses = load(&folder, "boot");
        assert!(addresses.is_spent(first.address));
        for number in 2..=11 {
            let eni = reserve(&mut addresses, &subnet, number).expect("free");
            assert!(!addresses.is_spent(eni.address), "{}", eni.address);
        }
        let last = reserve(&mut addresses, &subnet, 12).expect("free");
        assert_eq!(last.address, first.address);
        addresses.none_is_spent().expect("removed");
        assert!(!load(&folder, "boot").is_spent(first.address));
        assert!(!load(&folder, "later").is_spent(first.address));
    }

    #[test]
    fn an_exhausted_subnet_says_so_and_recovers() {
        let folder = Folder::new("exhausted");
        let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
        let all: Vec<Eni> = (0..11)
            .map(|n| {
                addresses.check_room(&subnet, 11 - n).expect("room");
                reserve(&mut addresses, &subnet, n).expect("free")
            })
            .collect();
        let error = addresses.check_room(&subnet, 1).expect_err("full");
        assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
        let error = reserve(&mut addresses, &subnet, 11).expect_err("full");
        assert_eq!(
            error.to_string(),
            "subnet-00000000000000002 (10.9.8.0/28) has no free address left: all 11 are taken; \
             stop a task, or place this one in another subnet"
        );
        addresses.release(&all[5]).expect("released");
        assert_eq!(
            reserve(&mut addresses, &subnet, 12).expect("free").address,
            all[5].address
        );
    }

    #[test]
    fn a_public_address_is_given_once() {
        let folder = Folder::new("public");
        let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
        let pool: [Ipv4Net; 2] =
            ["192.0.2.6/31", "192.0.2.9/32"].map(|range| range.parse().expect("a network"));
        assert_eq!(addresses.free_public(&[]).expect("no pool"), None);
        let mut given = Vec::new();
        for number in 1..=3 {
            let public = addresses.free_public(&pool).expect("free");
            let (id, netns) = (format!("eni-{number:017x}"), format!("task-{number}"));
            let request = request(&subnet, &id, &netns);
            let eni = addresses.reserve(&subnet, &request, &[], public);
            given.push(eni.expect("free"));
        }
        let last_digits = given
            .iter()
            .map(|eni| eni.public_address.expect("given").octets()[3]);
        assert_eq!(last_digits.collect::<Vec<_>>(), [6, 7, 9]);
        let error = load(&folder, "boot")
            .free_public(&pool)
            .expect_err("none left");
        assert!(error.to_string().contains("3 public addresses"), "{error}");
        addresses.release(&given[1]).expect("released");
        let free = addresses.free_public(&pool).expect("free again");
        assert_eq!(free, given[1].public_address);
    }

    #[test]
    fn an_interface_or_a_namespace_is_not_attached_twice() {
        let folder = Folder::new("twice");
        let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
        let eni = reserve(&mut addresses, &subnet, 1).expect("free");
        let other = "eni-000000000000000ff";
        for (id, netns) in [(eni.id.as_str(), "other"), (other, eni.netns.as_str())] {
            let error = addresses
                .reserve(&subnet, &request(&subnet, id, netns), &[], None)
                .expect_err("taken");
            assert!(matches!(error, Error::AlreadyAttached(_)), "{error}");
        }
    }

    #[test]
    fn a_port_is_published_once_for_each_protocol() {
        let folder = Folder::new("ports");
        let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
        let mut publish = |number: u32, ports: &[(PortProtocol, u16)]| {
            let (id, netns) = (format!("eni-{number:017x}"), format!("task-{number}"));
            let ports = ports.iter().map(|(protocol, port)| PublishedPort {
                host: HostPort {
                    protocol: *protocol,
                    port: *port,
                },
                container_port: 80,
            });
            let request = AttachRequest {
                published: ports.collect(),
                ..request(&subnet, &id, &netns)
            };
            addresses.reserve(&subnet, &request, &[], None)
        };
        let (tcp, udp) = (PortProtocol::Tcp, PortProtocol::Udp);
        publish(1, &[(tcp, 80), (udp, 80), (tcp, 81)]).expect("free");
        let error = publish(2, &[(tcp, 82), (tcp, 81)]).expect_err("taken");
        assert_eq!(
            error.to_string(),
            "the port 81/tcp of the host leads to eni-00000000000000001 already; publish another, or stop that task"
        );
        publish(3, &[(tcp, 82), (tcp, 82)]).expect_err("twice");
        publish(4, &[(tcp, 82)]).expect("nobody's");
    }

    #[test]
    fn files_of_another_boot_and_torn_files_are_nobodys() {
        let folder = Folder::new("boots");
        let subnet = small_subnet();
        let eni = reserve(&mut load(&folder, "before"), &subnet, 1).expect("free");
        let torn = folder
            .0
            .join("addresses")
            .join(subnet.id().as_str())
            .join("10.9.8.9");
        fs::write(&torn, "{\"boot_id\":\"now\",").expect("written");
        let mut addresses = load(&folder, "now");
        assert!(addresses.all().is_empty());
        assert!(!torn.exists());
        assert_eq!(
            reserve(&mut addresses, &subnet, 2).expect("free").address,
            eni.address
        );
    }
}
