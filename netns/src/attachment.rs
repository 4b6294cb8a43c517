//! Attaching a task to the network, and detaching it.
//!
//! Attaching is a list of steps, each of which `detach` undoes whether or not it was done: so the
//! way back from a failure, from a crash and from a task's end is one and the same.
//!
//! | attach | detach |
//! |---|---|
//! | the address is reserved, on disk | … released, last |
//! | the namespace is made and mounted | … unmounted; it ends, and the links with it |
//! | the veth pair is made, its other end inside | with the namespace |
//! | the interface inside gets its addresses and routes | with the namespace |
//! | the firewall admits link, MAC and addresses | … expels them, first |
//! | the link comes up, with its neighbours, or its routes too | … which are removed |
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use crate::eni::{Eni, EniId, NetnsName};
use crate::error::{Doing, Error, Problems, Result};
use crate::failpoint::{self, reached};
use crate::namespace::{self, Namespace};
use crate::netlink::{
    LinkWatch, NetlinkError, NewVeth, Request, add_address, add_blackhole, add_forwarding_entry,
    add_link_route, add_neighbour, add_route, bring_port_up, bring_up, set_no_link_local,
    set_routed,
};
use crate::network::{Bridge, Network};
use crate::published::{PortProtocol, PublishedPort};
use crate::security_group::SecurityGroupId;
use crate::subnet::{
    AttachmentMode, INSTANCE_METADATA_ADDRESS, INSTANCE_METADATA_IPV6_ADDRESS, METADATA_ADDRESS,
    SubnetId,
};
use crate::sysctls;

/// The name of a task's interface, as on ECS.
const INTERFACE: &str = "eth0";

/// How long the kernel may take to notice that a link is up.
const OPERATIONAL_TIMEOUT: Duration = Duration::from_secs(5);

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
        let bridge = self.bridge(&request.subnet)?;
        let groups = self.firewall().groups_of(&request.security_groups)?;
        let (eni, is_spent) = {
            let mut addresses = self.addresses();
            let eni = addresses.reserve(&bridge.subnet, request, &groups)?;
            let is_spent = addresses.is_spent(eni.address);
            (eni, is_spent)
        };
        match self.build(&eni, is_spent, bridge) {
            Ok(()) => Ok(Attachment {
                netns_path: self.netns_path(&eni.netns),
                eni,
            }),
            Err(problem) => Err(self.abandon(&eni, problem)),
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
        let eni = self.addresses().get(id);
        eni.map_or(Ok(()), |eni| self.dismantle(&eni))
    }

    fn build(&self, eni: &Eni, is_spent: bool, bridge: &Bridge) -> Result<()> {
        reached(failpoint::ATTACH_ADDRESS)?;
        // None of the connections of an interface that had its address before: they would pass whatever its security
        // groups say.
        if is_spent {
            self.forget_connections(Some(eni))?;
        }
        let path = self.netns_path(&eni.netns);
        let is_allowed = eni.ipv6_address.is_some() && self.ipv6.is_off_for_new_links;
        let mut namespace = Namespace::create(&path, &*self.sysctls()?, is_allowed)?;
        reached(failpoint::ATTACH_NAMESPACE)?;
        self.make_veth(eni, bridge, &namespace)?;
        reached(failpoint::ATTACH_VETH)?;
        self.configure_interface(eni, bridge, &mut namespace)?;
        reached(failpoint::ATTACH_INTERFACE)?;
        self.firewall().admit(eni, &self.config)?;
        self.forget_datagrams(eni)?;
        reached(failpoint::ATTACH_FIREWALL)?;
        self.open_way(eni, bridge)?;
        self.wait_until_operational(eni, bridge, &mut namespace)?;
        reached(failpoint::ATTACH_PORT)
    }

    /// Undoes what was built before a failure.
    fn abandon(&self, eni: &Eni, problem: Error) -> Error {
        match self.dismantle(eni) {
            Ok(()) => problem,
            Err(more) => Error::Incomplete {
                doing: format!("attach {}, and undo it", eni.id),
                problems: vec![problem, more],
            },
        }
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
        let ports = eni.published.iter().map(|published| published.host);
        for host in ports.filter(|host| host.protocol == PortProtocol::Udp) {
            self.conntrack()
                .forget_udp_port(host.port)
                .doing(|| format!("forget who sent to the port {host}"))?;
        }
        Ok(())
    }

    /// The pair is made in one request, with both ends where they belong: moving a link to another
    /// namespace costs 16 ms.
    fn make_veth(&self, eni: &Eni, bridge: &Bridge, namespace: &Namespace) -> Result<()> {
        let name = eni.id.host_link();
        // A routed link is the task's router itself.
        let is_routed = eni.mode == AttachmentMode::Routed;
        let veth = NewVeth {
            name: &name,
            mac: is_routed.then(|| bridge.subnet.router_mac()),
            bridge: (!is_routed).then_some(bridge.index),
            peer_name: INTERFACE,
            peer_mac: eni.mac(),
            peer_netns: namespace.as_fd(),
            mtu: self.mtu(),
        };
        match self.routes().add_veth(&veth) {
            // The kernel's way of saying that a bridge has no port number left.
            Err(NetlinkError {
                errno: Errno::EXFULL,
                ..
            }) => Err(Error::BridgeFull {
                subnet: eni.subnet.clone(),
            }),
            outcome => outcome.doing(|| format!("make the veth pair {name}")),
        }
    }

    /// Configures the interface from inside: everything but itself is behind the router, also what is in
    /// the same subnet.
    fn configure_interface(
        &self,
        eni: &Eni,
        bridge: &Bridge,
        namespace: &mut Namespace,
    ) -> Result<()> {
        let doing = || format!("configure {INTERFACE} of {}", eni.id);
        // The kernel chooses the index: it takes a wish for one end only with a wish for the other.
        let index = namespace.inside.index_of(INTERFACE).doing(doing)?;
        let mut requests = self.no_link_local(index);
        requests.push(bring_up(index));
        requests.extend(ipv4_configuration(eni, bridge, index));
        if let (Some(address), Some(router)) = (eni.ipv6_address, bridge.subnet.ipv6_router()) {
            requests.extend([
                add_address(index, Ipv6Net::new_assert(address, 64), false),
                add_neighbour(index, router, bridge.subnet.router_mac()),
                add_route(index, Ipv6Net::default(), router),
                add_blackhole(Ipv6Net::from(INSTANCE_METADATA_IPV6_ADDRESS)),
            ]);
        }
        namespace.inside.send(&requests).doing(doing)
    }

    /// What keeps a link from addresses of its own making, where there is IPv6.
    fn no_link_local(&self, link: u32) -> Vec<Request> {
        match self.ipv6.is_there {
            true => vec![set_no_link_local(link)],
            false => Vec::new(),
        }
    }

    /// Brings the link up, and tells the host where the interface is.
    fn open_way(&self, eni: &Eni, bridge: &Bridge) -> Result<()> {
        let name = eni.id.host_link();
        let doing = || format!("bring up the link {name} of {}", eni.subnet);
        let mut routes = self.routes();
        let link = routes.index_of(&name).doing(doing)?;
        let mut requests = match eni.mode {
            AttachmentMode::Bridged => {
                let mut requests = self.no_link_local(link);
                requests.extend([bring_port_up(link), add_forwarding_entry(link, eni.mac())]);
                requests
            }
            AttachmentMode::Routed => {
                if eni.ipv6_address.is_some() && self.ipv6.is_off_for_new_links {
                    sysctls::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
                }
                vec![set_routed(link, self.ipv6.is_there), bring_up(link)]
            }
        };
        requests.extend(ways(eni, eni.addresses(), bridge.index, link));
        routes.send(&requests).doing(doing)
    }

    /// The kernel notices a little after links have come up that they have, and drops what is sent
    /// before: a task's first connection would take a second, until TCP tries again.
    ///
    /// To ask is mostly enough: since Linux 6.7 the kernel then looks at once.
    fn wait_until_operational(
        &self,
        eni: &Eni,
        bridge: &Bridge,
        namespace: &mut Namespace,
    ) -> Result<()> {
        let link = eni.id.host_link();
        let doing = || format!("wait until the link {link} carries packets");
        let mut names = vec![link.as_str()];
        if eni.mode == AttachmentMode::Bridged {
            names.push(bridge.subnet.bridge());
        }
        for name in names {
            let link = self.routes().link(name).doing(doing)?;
            if link.is_some_and(|link| link.operational) {
                continue;
            }
            // It listens before it looks again, so that no change falls in between.
            let mut watch = LinkWatch::open().doing(doing)?;
            let link = self.routes().link(name).doing(doing)?;
            let operational = link.is_some_and(|link| link.operational);
            let deadline = Instant::now() + OPERATIONAL_TIMEOUT;
            if !operational && !watch.wait_until_operational(name, deadline).doing(doing)? {
                return Err(NetlinkError::new(Errno::ETIMEDOUT)).doing(doing);
            }
        }
        // The other end came up in the same moment, and is noticed together with the port.
        namespace.inside.link(INTERFACE).doing(doing)?;
        let deadline = Instant::now() + OPERATIONAL_TIMEOUT;
        match eni.ipv6_address {
            Some(address) if !namespace.wait_until_local(address, deadline).doing(doing)? => {
                Err(NetlinkError::new(Errno::ETIMEDOUT)).doing(doing)
            }
            _ => Ok(()),
        }
    }

    /// The undo of [`Network::open_way`], but for the link itself.
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

fn ipv4_configuration(eni: &Eni, bridge: &Bridge, index: u32) -> Vec<Request> {
    let router = bridge.subnet.router();
    let address = Ipv4Net::new(eni.address, bridge.subnet.cidr().prefix_len());
    let address = address.unwrap_or_else(|_| Ipv4Net::from(eni.address));
    vec![
        add_address(index, address, false),
        add_neighbour(index, router, bridge.subnet.router_mac()),
        add_route(index, Ipv4Net::default(), router),
        add_route(index, Ipv4Net::from(METADATA_ADDRESS), router),
        add_blackhole(Ipv4Net::from(INSTANCE_METADATA_ADDRESS)),
    ]
}
