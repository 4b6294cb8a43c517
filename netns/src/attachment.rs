//! Attaching a task to the network, and detaching it.
//!
//! Attaching is a list of steps, each of which `detach` undoes whether or not it was done: so the
//! way back from a failure, from a crash and from a task's end is one and the same.
//!
//! | attach | detach |
//! |---|---|
//! | the address is reserved, on disk | … released, last |
//! | the namespace and the veth pair are made and come up, or are taken from those prepared | … end with the namespace's mount |
//! | the namespace is mounted | … unmounted |
//! | the firewall admits link, MAC and addresses | … expels them, first |
//! | the host gets its neighbours, or its routes too | … which are removed |
//! | the interface inside gets its addresses | with the namespace |
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::addresses::Own;
use crate::eni::{Eni, EniId, NetnsName};
use crate::error::{Doing, Error, Problems, Result};
use crate::failpoint::{self, reached};
use crate::namespace::{self, Namespace};
use crate::netlink::{Request, add_address, add_link_route, add_local_route, add_neighbour};
use crate::network::{Bridge, Network};
use crate::prepared::Prepared;
use crate::published::{PortProtocol, PublishedPort};
use crate::security_group::SecurityGroupId;
use crate::subnet::{AttachmentMode, SubnetId};

/// What a task wants of the network.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// The id of its interface. The caller records it before, so that a crash can't lose it.
    pub eni: EniId,
    /// The subnet that its address is from.
    pub subnet: SubnetId,
    /// Its security groups; none means the default one.
    pub security_groups: Vec<SecurityGroupId>,
    /// The name of the network namespace that is made for it.
    pub netns: NetnsName,
    /// The ports of the host's that lead to it from now on.
    pub published: Vec<PublishedPort>,
    /// Whether it gets an address that is its own outside, of [`crate::NetworkConfig::public_addresses`]. Where there are
    /// none it shows the host's, as others do.
    pub assign_public_ip: bool,
}

/// A task's place on the network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The interface.
    pub eni: Eni,
    /// Where the network namespace is mounted, to be joined with `setns` or by a runtime.
    pub netns_path: PathBuf,
}

impl Network {
    /// Makes a network namespace with an interface, `eth0`, that has an address of the subnet.
    ///
    /// When it returns, everything works and everything that is not allowed is closed. When it
    /// fails, nothing is left.
    pub fn attach(&self, request: &AttachRequest) -> Result<Attachment> {
        self.attach_to(request, None)
    }

    /// Does the same in a network namespace that the caller has made, for example in a user namespace of the task's
    /// own. It is kept like one of ours from then on.
    ///
    /// When the interface is detached, its link goes with the namespace; while the caller keeps that,
    /// [`Network::wait_until_gone`] removes the link when its patience ends.
    pub fn attach_namespace(
        &self,
        request: &AttachRequest,
        namespace: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        self.attach_to(request, Some(namespace))
    }

    fn attach_to(
        &self,
        request: &AttachRequest,
        given: Option<BorrowedFd<'_>>,
    ) -> Result<Attachment> {
        let bridge = self.bridge(&request.subnet)?;
        let groups = self.firewall().groups_of(&request.security_groups)?;
        self.conntrack().check_room()?;
        let mut waiting = match given {
            None => self.take_waiting(request)?,
            Some(_) => None,
        };
        let id_range = match (&mut waiting, given) {
            (Some(prepared), _) => prepared.id_range.take(),
            (None, None) => self.take_id_range_for_task()?,
            (None, Some(_)) => None,
        };
        let (eni, is_spent) = {
            let mut addresses = self.addresses();
            if self.isolated().has(&request.netns) {
                return Err(Error::AlreadyAttached(request.eni.clone()));
            }
            let public_address = match request.assign_public_ip {
                true => addresses.free_public(&self.config.public_addresses)?,
                false => None,
            };
            let own = Own {
                public_address,
                id_range,
            };
            let eni = addresses.reserve(&bridge.subnet, request, &groups, own)?;
            let is_spent = addresses.is_spent(eni.address);
            (eni, is_spent)
        };
        let built = reached(failpoint::ATTACH_ADDRESS)
            .and_then(|()| match waiting {
                Some(prepared) => Ok(prepared),
                None => self.prepare_now(&eni, bridge, given),
            })
            .and_then(|prepared| self.build(&eni, is_spent, bridge, prepared));
        match built {
            Ok(()) => Ok(Attachment {
                netns_path: self.netns_path(&eni.netns),
                eni,
            }),
            Err(problem) => Err(self.abandon(&eni, given.is_some(), problem)),
        }
    }

    /// The interface that waits in the pool for this.
    fn take_waiting(&self, request: &AttachRequest) -> Result<Option<Prepared>> {
        let waiting = self.pool().take(&request.eni);
        match waiting {
            Some(prepared) if prepared.subnet != request.subnet => {
                self.remove_link(&prepared.id)?;
                Ok(None)
            }
            waiting => Ok(waiting),
        }
    }

    fn prepare_now(
        &self,
        eni: &Eni,
        bridge: &Bridge,
        given: Option<BorrowedFd<'_>>,
    ) -> Result<Prepared> {
        let namespace = || match given {
            Some(given) => {
                let allow_ipv6 = self.has_to_allow_ipv6(&bridge.subnet);
                Namespace::join(given, &*self.sysctls()?, allow_ipv6)
            }
            None => self.new_namespace(&bridge.subnet, eni.id_range),
        };
        match self.prepare(&eni.id, bridge, namespace()?) {
            // Its last ports may be those of interfaces that nobody has asked for.
            Err(Error::BridgeFull { .. }) if self.discard_idle(&eni.subnet)? => {
                self.prepare(&eni.id, bridge, namespace()?)
            }
            made => made,
        }
    }

    /// Takes a task off the network; nothing to take is fine too.
    ///
    /// It goes on past what fails, and says what did. The address is then kept, so that nobody gets
    /// it while a part of its interface may be left: detach again, or reconcile.
    ///
    /// The link itself goes when no process is in the namespace any more, and a little after that:
    /// [`Network::wait_until_gone`]. Until then nothing passes through it.
    pub fn detach(&self, id: &EniId) -> Result<()> {
        self.pool().discard(id);
        let eni = self.addresses().get(id);
        eni.map_or(Ok(()), |eni| self.dismantle(&eni))
    }

    fn build(
        &self,
        eni: &Eni,
        is_spent: bool,
        bridge: &Bridge,
        mut prepared: Prepared,
    ) -> Result<()> {
        // None of the connections of an interface that had its address before: they would pass whatever its security
        // groups say.
        if is_spent {
            self.forget_connections(Some(eni))?;
        }
        prepared.namespace.mount(&self.netns_path(&eni.netns))?;
        reached(failpoint::ATTACH_MOUNT)?;
        self.firewall().admit(eni, &self.config)?;
        self.forget_datagrams(eni)?;
        reached(failpoint::ATTACH_FIREWALL)?;
        let ways = ways(eni, eni.addresses(), bridge.index, prepared.link);
        let sent = self.routes().send(&ways);
        sent.doing(|| format!("make the host's ways to {}", eni.id))?;
        reached(failpoint::ATTACH_NEIGHBOUR)?;
        let addresses = addresses(eni, bridge, prepared.interface);
        self.finish(&mut prepared, bridge, addresses)?;
        reached(failpoint::ATTACH_INTERFACE)
    }

    /// Undoes what was built before a failure. A namespace that the caller has keeps the link.
    fn abandon(&self, eni: &Eni, is_kept: bool, problem: Error) -> Error {
        let mut problems = Problems::default();
        problems.note(self.dismantle(eni));
        if is_kept {
            problems.note(self.remove_link(&eni.id));
        }
        match problems.finish("undo it") {
            Ok(()) => problem,
            Err(more) => Error::Incomplete {
                doing: format!("attach {}, and undo it", eni.id),
                problems: vec![problem, more],
            },
        }
    }

    /// Removes a link that doesn't go with its namespace, or has to be gone at once.
    fn remove_link(&self, id: &EniId) -> Result<()> {
        let name = id.host_link();
        let removed = self.routes().delete_link(&name);
        removed.doing(|| format!("remove the link {name}"))
    }

    pub(crate) fn dismantle(&self, eni: &Eni) -> Result<()> {
        let mut problems = Problems::default();
        problems.note(self.firewall().expel(eni, &self.config));
        problems.note(reached(failpoint::DETACH_FIREWALL));
        problems.note(self.forget_datagrams(eni));
        problems.note(self.close_way(eni));
        problems.note(reached(failpoint::DETACH_NEIGHBOUR));
        problems.note(namespace::remove(&self.netns_path(&eni.netns)));
        problems.note(reached(failpoint::DETACH_NAMESPACE));
        problems.finish(format!("detach {}", eni.id))?;
        self.addresses().release(eni)?;
        reached(failpoint::DETACH_ADDRESS)?;
        // A public address is not many, and may be another task's at once.
        if eni.public_address.is_some() {
            return self.forget_connections(None);
        }
        // Before an attachment has to: there, someone waits for a task to start.
        let capacity = self
            .bridge(&eni.subnet)
            .map(|bridge| bridge.subnet.capacity());
        let spent = self.addresses().count_spent();
        match capacity {
            Ok(capacity) if spent > capacity / 2 => self.forget_connections(None),
            _ => Ok(()),
        }
    }

    /// Forgets the connections of all addresses that no interface has, or that a new one has which has none yet.
    /// That takes some milliseconds, so it is done for many at once.
    pub(crate) fn forget_connections(&self, new: Option<&Eni>) -> Result<()> {
        let mut addresses = self.addresses();
        let subnets = self.bridges.iter().map(|bridge| &bridge.subnet);
        let is_ours = |address| subnets.clone().any(|subnet| subnet.is_for_tasks(address));
        let is_new = |address| new.is_some_and(|eni| eni.addresses().any(|own| own == address));
        let is_gone =
            |address| is_ours(address) && (is_new(address) || !addresses.is_attached(address));
        self.conntrack()
            .forget_addresses(is_gone)
            .doing(|| "forget the connections of interfaces that are gone".into())?;
        addresses.none_is_spent()
    }

    /// A sender of datagrams that goes on is a connection that goes on, to where its first datagram went.
    fn forget_datagrams(&self, eni: &Eni) -> Result<()> {
        if let Some(public) = eni.public_address {
            let forgotten = self.conntrack().forget_opened_to(public);
            forgotten.doing(|| format!("forget who sent to {public}"))?;
        }
        let ports = eni.published.iter().map(|published| published.host);
        for host in ports.filter(|host| host.protocol == PortProtocol::Udp) {
            self.conntrack()
                .forget_udp_port(host.port)
                .doing(|| format!("forget who sent to the port {host}"))?;
        }
        Ok(())
    }

    /// Removes what leads to an interface, but for the link itself.
    fn close_way(&self, eni: &Eni) -> Result<()> {
        let name = eni.id.host_link();
        let doing = || format!("remove the host's ways to {}", eni.id);
        let mut routes = self.routes();
        if eni.mode == AttachmentMode::Bridged {
            let Ok(bridge) = self.bridge(&eni.subnet) else {
                return Ok(());
            };
            for address in eni.addresses() {
                routes
                    .delete_neighbour(bridge.index, address)
                    .doing(doing)?;
            }
        } else if let Some(link) = routes.link(&name).doing(doing)? {
            for address in eni.addresses() {
                routes.delete_route(link.index, address).doing(doing)?;
            }
        }
        Ok(())
    }
}

/// How the host finds an interface at these of its addresses, given its bridge and its link: who has them, and where
/// they are.
pub(crate) fn ways(
    eni: &Eni,
    addresses: impl Iterator<Item = IpAddr>,
    bridge: u32,
    link: u32,
) -> Vec<Request> {
    match eni.mode {
        AttachmentMode::Bridged => addresses
            .map(|address| add_neighbour(bridge, address, eni.mac()))
            .collect(),
        AttachmentMode::Routed => addresses
            .flat_map(|address| {
                let neighbour = add_neighbour(link, address, eni.mac());
                [add_link_route(link, address), neighbour]
            })
            .collect(),
    }
}

/// What gives an interface its addresses.
fn addresses(eni: &Eni, bridge: &Bridge, interface: u32) -> Vec<Request> {
    let ipv4 = Ipv4Net::new(eni.address, bridge.subnet.cidr().prefix_len());
    let ipv4 = ipv4.unwrap_or_else(|_| Ipv4Net::from(eni.address));
    let mut requests = vec![add_address(interface, ipv4, false)];
    if let Some(address) = eni.ipv6_address {
        let range = Ipv6Net::new_assert(address, 64);
        requests.push(add_address(interface, range, false));
        requests.push(add_local_route(interface, address));
    }
    requests
}
