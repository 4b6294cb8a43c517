//! The host's side of the tasks' network: bridges, firewall and sysctls, made when it is opened and
//! there until someone asks for them to go.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::addresses::{self, Addresses};
use crate::allocation::boot_id;
use crate::config::NetworkConfig;
use crate::conntrack::Conntrack;
use crate::eni::{Eni, EniId, NetnsName};
use crate::error::{Doing, Error, Result};
use crate::failpoint::{self, reached};
use crate::firewall::{self, Firewall};
use crate::firewalld;
use crate::isolated::{self, IsolatedNamespaces};
use crate::namespace;
use crate::netlink::{
    Link, LinkWatch, NewBridge, RouteSocket, add_address, add_local_route, bring_up, set_bridge,
};
use crate::pool::Pool;
use crate::routing_policy;
use crate::security_group::SecurityGroup;
use crate::subnet::{METADATA_ADDRESS, Subnet, SubnetId};
use crate::subordinate_ids::{HeldRange, IdRanges};
use crate::sysctls::{self, SysctlTree, SysctlTrees, Sysctls};
use crate::uplink::{self, HostIpv6};

/// The network of this host's tasks. One process at a time has it.
///
/// Its methods may be called from any thread that is in the network namespace in which it was
/// opened.
#[derive(Debug)]
pub struct Network {
    pub(crate) config: NetworkConfig,
    mtu: u32,
    pub(crate) bridges: Vec<Bridge>,
    /// Locked before `isolated` where both are.
    addresses: Mutex<Addresses>,
    isolated: Mutex<IsolatedNamespaces>,
    id_ranges: IdRanges,
    routes: Mutex<RouteSocket>,
    firewall: Mutex<Firewall>,
    conntrack: Mutex<Conntrack>,
    pool: Mutex<Pool>,
    sysctls: Mutex<SysctlTrees>,
    pub(crate) ipv6: HostIpv6,
    _lock: Flock<File>,
}

/// A subnet whose bridge is there.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) subnet: Subnet,
    pub(crate) index: u32,
}

impl Network {
    /// Makes what is missing of the network on the host, and takes over what is there. Nothing of a
    /// running task is disturbed.
    pub fn open(mut config: NetworkConfig) -> Result<Self> {
        refuse_collisions(&config.subnets)?;
        let lock = lock(&config)?;
        let mut routes = open_socket()?;
        let mtu = uplink::mtu(&mut routes)?;
        if !uplink::has_ipv6(mtu) {
            let subnets = config.subnets.into_iter();
            config.subnets = subnets.map(Subnet::without_ipv6).collect();
        }
        uplink::refuse_own_as_public(&mut routes, &config.public_addresses)?;
        let found = config.subnets.iter().map(|s| find_bridge(&mut routes, s));
        let found = found.collect::<Result<Vec<_>>>()?;
        for (subnet, found) in config.subnets.iter().zip(&found) {
            if found.is_none() {
                uplink::refuse_overlap(&mut routes, subnet, &config.subnets)?;
            }
        }
        let conntrack = Conntrack::open().doing(|| "open the socket of conntrack".into())?;
        let id_ranges = IdRanges::new(config.subordinate_ids.unwrap_or_default());
        let addresses = Addresses::load(&config.state_dir, boot_id()?, &id_ranges)?;
        let isolated = IsolatedNamespaces::load(&config.state_dir, boot_id()?, &id_ranges)?;
        refuse_orphans(&config.subnets, &addresses.all())?;
        let mut firewall = Firewall::open(&config)?;
        firewall.ensure(&config, &addresses.all())?;
        reached(failpoint::OPEN_FIREWALL)?;
        let bridges = config.subnets.iter().zip(found);
        let bridges = bridges.map(|(subnet, found)| match found {
            Some(link) => configure_bridge(&mut routes, subnet, link),
            None => {
                add_bridge(&mut routes, subnet, mtu)?;
                let link = find_bridge(&mut routes, subnet)?;
                let link = link.ok_or_else(|| foreign(subnet))?;
                configure_bridge(&mut routes, subnet, link)
            }
        });
        let bridges = bridges.collect::<Result<Vec<Bridge>>>()?;
        reached(failpoint::OPEN_BRIDGE)?;
        firewall.pass_docker(&config)?;
        routing_policy::ensure(&mut routes, &config.subnets)?;
        reached(failpoint::OPEN_ROUTING_POLICY)?;
        let with_ipv6 = config
            .subnets
            .iter()
            .any(|subnet| subnet.ipv6_cidr().is_some());
        Sysctls::new(&config.state_dir).ensure(with_ipv6)?;
        reached(failpoint::OPEN_SYSCTLS)?;
        Ok(Self {
            config,
            mtu,
            bridges,
            addresses: Mutex::new(addresses),
            isolated: Mutex::new(isolated),
            id_ranges,
            routes: Mutex::new(routes),
            firewall: Mutex::new(firewall),
            conntrack: Mutex::new(conntrack),
            pool: Mutex::default(),
            sysctls: Mutex::new(SysctlTrees::new()?),
            ipv6: HostIpv6::look()?,
            _lock: lock,
        })
    }

    /// Removes everything that [`Network::open`] made on the host, and puts back the sysctls that it
    /// changed. Refused while a task has a network namespace here.
    pub fn undo(config: &NetworkConfig) -> Result<()> {
        let lock = lock(config)?;
        let attached = addresses::list(&config.state_dir)?.len();
        let isolated = isolated::count(&config.state_dir)?;
        if attached + isolated > 0 {
            return Err(Error::InUse(attached + isolated));
        }
        let mut routes = open_socket()?;
        for name in namespaces(&netns_dir(config))? {
            namespace::remove(&netns_dir(config).join(name))?;
        }
        for subnet in &config.subnets {
            if find_bridge(&mut routes, subnet)?.is_some() {
                routes
                    .delete_link(subnet.bridge())
                    .doing(|| format!("remove the bridge {}", subnet.bridge()))?;
            }
        }
        routing_policy::remove(&mut routes)?;
        let mut firewall = Firewall::open(config)?;
        firewall.leave_docker(config)?;
        firewall.remove()?;
        firewall::remove_record(config)?;
        Sysctls::new(&config.state_dir).restore()?;
        drop(lock);
        for path in [
            config.state_dir.join("addresses"),
            isolated::directory(&config.state_dir),
            netns_dir(config),
        ] {
            remove_directory(&path)?;
        }
        // The last, since it is another program that may fail.
        firewalld::leave(config)
    }

    /// The subnets; without IPv6 on a host that has none, or whose uplink carries no packets as large as it needs.
    pub fn subnets(&self) -> &[Subnet] {
        &self.config.subnets
    }

    /// The subnet with this id.
    pub fn subnet(&self, id: &SubnetId) -> Option<&Subnet> {
        self.config.subnets.iter().find(|subnet| subnet.id() == id)
    }

    /// Whether there is a security group with this id.
    pub fn has_security_group(&self, id: &str) -> bool {
        id.parse().is_ok_and(|id| self.firewall().has_group(&id))
    }

    /// Replaces the security groups. Connections that are open go on; new ones are judged by the new rules. An
    /// interface stays in its groups; one that is gone lets nothing pass.
    pub fn set_security_groups(&self, groups: &[SecurityGroup]) -> Result<()> {
        self.firewall().set_groups(groups)
    }

    /// Whether the kernel keeps others from the firewall's tables: then `nft flush ruleset` leaves them as they are
    /// while this is open. It does so since Linux 6.9, unless [`NetworkConfig::own_tables`] is off.
    pub fn firewall_is_owned(&self) -> bool {
        self.firewall().is_owned()
    }

    /// Puts the firewall's rules back as they should be, with the elements of all interfaces: in one transaction, and
    /// whether that was needed. Open connections go on.
    pub fn restore_firewall(&self) -> Result<bool> {
        self.firewall().restore(&self.config)
    }

    /// Puts back the rules of the routing policy; whether any were missing.
    pub(crate) fn restore_routing_policy(&self) -> Result<bool> {
        routing_policy::ensure(&mut self.routes(), &self.config.subnets)
    }

    /// Makes our rules in Docker's chain for the rules of others, if that is there; whether any were missing.
    pub(crate) fn pass_docker(&self) -> Result<bool> {
        self.firewall().pass_docker(&self.config)
    }

    /// Whether both of the firewall's tables are there.
    pub(crate) fn firewall_is_whole(&self) -> Result<bool> {
        self.firewall().is_present()
    }

    /// Whether a subnet takes these interfaces, too; else the error that attaching them would end with. Some may be
    /// attached already.
    pub fn check_room(&self, id: &SubnetId, wanted: &[EniId]) -> Result<()> {
        let bridge = self.bridge(id)?;
        self.addresses().check_room(&bridge.subnet, wanted)
    }

    /// The MTU of the tasks' interfaces: the uplink's, when the network was opened.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Where a network namespace is mounted.
    pub fn netns_path(&self, name: &NetnsName) -> PathBuf {
        netns_dir(&self.config).join(name.as_str())
    }

    /// The interfaces that are allocated.
    pub fn list(&self) -> Result<Vec<Eni>> {
        Ok(self.addresses().all())
    }

    /// Waits until the link of a detached interface is gone, and removes it when the patience ends.
    ///
    /// The kernel removes it by itself some time after the last process has left the network
    /// namespace. A closed TCP connection that still waits for its other end keeps the namespace too,
    /// for up to a minute; hence the end of patience, which costs some 16 ms.
    pub fn wait_until_gone(&self, eni: &EniId, patience: Duration) -> Result<()> {
        if self.addresses().get(eni).is_some() {
            return Err(Error::StillAttached(eni.clone()));
        }
        let name = eni.host_link();
        let deadline = Instant::now() + patience;
        let doing = || format!("wait for the removal of the link {name}");
        let mut watch = LinkWatch::open().doing(doing)?;
        let is_gone = || Ok(self.routes().link(&name)?.is_none());
        if watch.wait_until(deadline, is_gone).doing(doing)? {
            return Ok(());
        }
        self.routes()
            .delete_link(&name)
            .doing(|| format!("remove the link {name}"))
    }

    pub(crate) fn bridge(&self, id: &SubnetId) -> Result<&Bridge> {
        let bridge = self.bridges.iter().find(|bridge| bridge.subnet.id() == id);
        bridge.ok_or_else(|| Error::UnknownSubnet(id.clone()))
    }

    /// Ids for a user namespace, where each network namespace is one's.
    pub(crate) fn take_id_range(&self) -> Result<Option<HeldRange>> {
        let is_wanted = self.config.subordinate_ids.is_some();
        is_wanted.then(|| self.id_ranges.take()).transpose()
    }

    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn isolated(&self) -> MutexGuard<'_, IsolatedNamespaces> {
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn routes(&self) -> MutexGuard<'_, RouteSocket> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn conntrack(&self) -> MutexGuard<'_, Conntrack> {
        self.conntrack
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the sysctls of one more namespace.
    pub(crate) fn sysctls(&self) -> Result<Arc<SysctlTree>> {
        let mut trees = self.sysctls.lock().unwrap_or_else(PoisonError::into_inner);
        trees.next()
    }

    pub(crate) fn firewall(&self) -> MutexGuard<'_, Firewall> {
        self.firewall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Network {
    /// The rules stay. The next to open the network finds them faster with the record; without it they are made anew.
    fn drop(&mut self) {
        let firewall = self.firewall.get_mut();
        let firewall = firewall.unwrap_or_else(PoisonError::into_inner);
        firewall.leave_record(&self.config).ok();
    }
}

/// The folder that the namespaces are mounted in.
pub(crate) fn netns_dir(config: &NetworkConfig) -> PathBuf {
    config.run_dir.join("netns")
}

/// The names of what is in that folder.
pub(crate) fn namespaces(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let read = || -> std::io::Result<Vec<_>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    read().map_err(|error| Error::file("read", directory, error))
}

/// Makes the folders, and keeps other processes away until it is dropped.
fn lock(config: &NetworkConfig) -> Result<Flock<File>> {
    for directory in [&config.state_dir, &netns_dir(config)] {
        fs::create_dir_all(directory).map_err(|error| Error::file("create", directory, error))?;
    }
    let path = config.state_dir.join("lock");
    let file = File::create(&path).map_err(|error| Error::file("create", &path, error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::Locked { path },
        errno => Error::file("lock", &path, errno),
    })
}

fn open_socket() -> Result<RouteSocket> {
    RouteSocket::open().doing(|| "open a netlink socket".into())
}

fn refuse_collisions(subnets: &[Subnet]) -> Result<()> {
    for (index, one) in subnets.iter().enumerate() {
        for other in subnets.iter().skip(index + 1) {
            let (a, b) = (one.cidr(), other.cidr());
            let mut same = one.id() == other.id() || one.bridge() == other.bridge();
            same |= one.ipv6_cidr().is_some() && one.ipv6_cidr() == other.ipv6_cidr();
            if same || a.contains(&b) || b.contains(&a) {
                return Err(Error::SubnetsCollide(one.id().clone(), other.id().clone()));
            }
        }
    }
    Ok(())
}

/// Refuses a configuration without a subnet in which tasks are: the firewall would not know where they are.
fn refuse_orphans(subnets: &[Subnet], enis: &[Eni]) -> Result<()> {
    let is_known = |eni: &&Eni| subnets.iter().any(|subnet| *subnet.id() == eni.subnet);
    let Some(orphan) = enis.iter().find(|eni| !is_known(eni)) else {
        return Ok(());
    };
    let of_it = enis.iter().filter(|eni| eni.subnet == orphan.subnet);
    Err(Error::SubnetInUse {
        subnet: orphan.subnet.clone(),
        count: of_it.count(),
    })
}

/// The bridge of a subnet, if it is there: a link of that name that is something else is refused.
fn find_bridge(routes: &mut RouteSocket, subnet: &Subnet) -> Result<Option<Link>> {
    let name = subnet.bridge();
    let Some(link) = routes
        .link(name)
        .doing(|| format!("look for the bridge {name}"))?
    else {
        return Ok(None);
    };
    if link.kind.as_deref() != Some("bridge") || link.mac != Some(subnet.router_mac()) {
        return Err(foreign(subnet));
    }
    Ok(Some(link))
}

fn foreign(subnet: &Subnet) -> Error {
    Error::ForeignLink {
        name: subnet.bridge().to_owned(),
        subnet: subnet.id().clone(),
    }
}

fn add_bridge(routes: &mut RouteSocket, subnet: &Subnet, mtu: u32) -> Result<()> {
    let bridge = NewBridge {
        name: subnet.bridge(),
        mac: subnet.router_mac(),
        mtu,
    };
    let doing = || format!("make the bridge {}", subnet.bridge());
    routes.add_bridge(&bridge).doing(doing)
}

/// Gives a bridge the addresses that tasks expect on it, and its sysctls.
fn configure_bridge(routes: &mut RouteSocket, subnet: &Subnet, link: Link) -> Result<Bridge> {
    let name = subnet.bridge();
    let router = Ipv4Net::new(subnet.router(), subnet.cidr().prefix_len());
    let router = router.unwrap_or_else(|_| Ipv4Net::from(subnet.router()));
    let mut requests = vec![
        add_address(link.index, router, true),
        add_address(link.index, Ipv4Net::from(subnet.resolver()), true),
        add_address(link.index, Ipv4Net::from(METADATA_ADDRESS), true),
    ];
    let ipv6 = subnet
        .ipv6_router()
        .map(|router| Ipv6Net::new_assert(router, 64));
    requests.insert(0, bring_up(link.index));
    // Before it has IPv6, and comes up: it would make itself an address.
    routes
        .send(&[set_bridge(link.index, ipv6.is_some())])
        .doing(|| format!("prepare the bridge {name}"))?;
    if let Some(router) = ipv6 {
        requests.push(add_address(link.index, router, true));
        requests.push(add_local_route(link.index, router.addr()));
    }
    set_ipv6_sysctls(subnet)?;
    routes
        .send(&requests)
        .doing(|| format!("give the bridge {name} its addresses"))?;
    Ok(Bridge {
        subnet: subnet.clone(),
        index: link.index,
    })
}

/// Nobody beyond the bridge is believed a router, and what has no range of IPv6 has no IPv6.
fn set_ipv6_sysctls(subnet: &Subnet) -> Result<()> {
    let is_off = if subnet.ipv6_cidr().is_some() {
        "0"
    } else {
        "1"
    };
    for (name, value) in [("accept_ra", "0"), ("disable_ipv6", is_off)] {
        let key = format!("net/ipv6/conf/{}/{name}", subnet.bridge());
        // For some, the kernel locks out all who configure links.
        if sysctls::find(&key)?.is_some_and(|found| found != value) {
            sysctls::write(&key, value)?;
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, error))
        }
        _ => Ok(()),
    }
}
