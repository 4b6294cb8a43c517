//! An interface without an address: its namespace, and a link into it.
//!
//! That is most of the work of an attachment, and none of it depends on the task: so it can be done before there is
//! one ([`crate::pool`]).
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use crate::eni::EniId;
use crate::error::{Doing, Error, Result};
use crate::failpoint::{self, reached};
use crate::namespace::Namespace;
use crate::netlink::{
    LinkWatch, NetlinkError, NewVeth, Request, add_blackhole, add_forwarding_entry, add_neighbour,
    add_route, bring_port_up, bring_up, set_no_link_local, set_routed,
};
use crate::network::{Bridge, Network};
use crate::subnet::{
    AttachmentMode, INSTANCE_METADATA_ADDRESS, INSTANCE_METADATA_IPV6_ADDRESS, METADATA_ADDRESS,
    Subnet, SubnetId,
};
use crate::subordinate_ids::{HeldRange, IdRange};
use crate::sysctls;

/// The name of a task's interface, as on ECS.
pub(crate) const INTERFACE: &str = "eth0";

/// How long the kernel may take to notice that a link is up: a bound, where something is wrong with it.
const OPERATIONAL_TIMEOUT: Duration = Duration::from_secs(30);

/// An interface that is whole but for its addresses. It goes when it is dropped, unless its namespace is mounted.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) id: EniId,
    pub(crate) subnet: SubnetId,
    pub(crate) namespace: Namespace,
    /// The ids of the namespace's owner, while no task has it.
    pub(crate) id_range: Option<HeldRange>,
    /// The index of the interface, in its namespace.
    pub(crate) interface: u32,
    /// The index of its end on the host.
    pub(crate) link: u32,
    /// What is left to do inside.
    left: Vec<Request>,
    /// Whether the link has been seen to carry packets.
    is_operational: bool,
}

impl Network {
    /// A namespace of a task's own, with nothing in it yet.
    pub(crate) fn new_namespace(
        &self,
        subnet: &Subnet,
        owner: Option<IdRange>,
    ) -> Result<Namespace> {
        Namespace::create(owner, &*self.sysctls()?, self.has_to_allow_ipv6(subnet))
    }

    /// Whether links have to be told that there is IPv6.
    pub(crate) fn has_to_allow_ipv6(&self, subnet: &Subnet) -> bool {
        subnet.ipv6_cidr().is_some() && self.ipv6.is_off_for_new_links
    }

    /// Joins a namespace to a subnet, without an address: the firewall drops what it sends. [`Network::finish`] does the
    /// rest. What needs no link is best done in between: a thread of the kernel has work then with those that have come up,
    /// and locks out who configures any.
    pub(crate) fn prepare(
        &self,
        id: &EniId,
        bridge: &Bridge,
        mut namespace: Namespace,
    ) -> Result<Prepared> {
        reached(failpoint::ATTACH_NAMESPACE)?;
        self.make_veth(id, bridge, &namespace)?;
        reached(failpoint::ATTACH_VETH)?;
        // The kernel chooses the indexes: it takes a wish for one end only with a wish for the other.
        let interface = namespace.inside.index_of(INTERFACE);
        let interface = interface.doing(|| format!("look for {INTERFACE} of {id}"))?;
        let name = id.host_link();
        let link = self.routes().index_of(&name);
        let link = link.doing(|| format!("look for the link {name}"))?;
        self.bring_up(id, bridge, &mut namespace, [link, interface])?;
        reached(failpoint::ATTACH_PORT)?;
        Ok(Prepared {
            id: id.clone(),
            subnet: bridge.subnet.id().clone(),
            namespace,
            id_range: None,
            interface,
            link,
            left: routes_inside(interface, bridge),
            is_operational: false,
        })
    }

    /// The pair is made in one request, with both ends where they belong: moving a link to another
    /// namespace costs 16 ms.
    fn make_veth(&self, id: &EniId, bridge: &Bridge, namespace: &Namespace) -> Result<()> {
        let name = id.host_link();
        // A routed link is the task's router itself.
        let is_routed = bridge.subnet.mode() == AttachmentMode::Routed;
        let veth = NewVeth {
            name: &name,
            mac: is_routed.then(|| bridge.subnet.router_mac()),
            bridge: (!is_routed).then_some(bridge.index),
            peer_name: INTERFACE,
            peer_mac: id.mac(),
            peer_netns: namespace.as_fd(),
            mtu: self.mtu(),
        };
        match self.routes().add_veth(&veth) {
            // The kernel's way of saying that a bridge has no port number left.
            Err(NetlinkError {
                errno: Errno::EXFULL,
                ..
            }) => Err(Error::BridgeFull {
                subnet: bridge.subnet.id().clone(),
            }),
            outcome => outcome.doing(|| format!("make the veth pair {name}")),
        }
    }

    /// What keeps a link from addresses of its own making, where there is IPv6.
    fn no_link_local(&self, link: u32) -> Vec<Request> {
        match self.ipv6.is_there {
            true => vec![set_no_link_local(link)],
            false => Vec::new(),
        }
    }

    /// Brings up both ends of the link: that on the host, and the interface.
    ///
    /// IPv6 goes through all routes of the host when one of its links comes up with a carrier, and once more when a thread
    /// of the kernel has noticed the carrier. So the host's end is the first, which has no carrier until the other is up,
    /// too: then only that thread does it, once.
    fn bring_up(
        &self,
        id: &EniId,
        bridge: &Bridge,
        namespace: &mut Namespace,
        [link, interface]: [u32; 2],
    ) -> Result<()> {
        let name = id.host_link();
        let mut on_host = Vec::new();
        match bridge.subnet.mode() {
            AttachmentMode::Bridged => {
                on_host.extend(self.no_link_local(link));
                on_host.extend([bring_port_up(link), add_forwarding_entry(link, id.mac())]);
            }
            AttachmentMode::Routed => {
                if self.has_to_allow_ipv6(&bridge.subnet) {
                    sysctls::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
                }
                on_host.extend([set_routed(link, self.ipv6.is_there), bring_up(link)]);
            }
        }
        let sent = self.routes().send(&on_host);
        sent.doing(|| format!("bring up the link {name} of {}", bridge.subnet.id()))?;
        let mut inside = self.no_link_local(interface);
        inside.push(bring_up(interface));
        let sent = namespace.inside.send(&inside);
        sent.doing(|| format!("bring up {INTERFACE} of {id}"))
    }

    /// Does what is left to do inside, and this after it, and waits until the link carries packets.
    pub(crate) fn finish(
        &self,
        prepared: &mut Prepared,
        bridge: &Bridge,
        rest: Vec<Request>,
    ) -> Result<()> {
        let mut requests = std::mem::take(&mut prepared.left);
        requests.extend(rest);
        let sent = prepared.namespace.inside.send(&requests);
        sent.doing(|| format!("configure {INTERFACE} of {}", prepared.id))?;
        if prepared.is_operational {
            return Ok(());
        }
        self.wait_until_operational(prepared, bridge)?;
        if self.ipv6.is_there {
            let deleted = self.routes().delete_group_route(prepared.link);
            let name = prepared.id.host_link();
            deleted.doing(|| format!("remove the route of {name} for IPv6's groups"))?;
        }
        prepared.is_operational = true;
        Ok(())
    }

    /// The kernel notices a little after links have come up that they have, and drops what is sent
    /// before: a task's first connection would take a second, until TCP tries again.
    ///
    /// To ask is mostly enough: since Linux 6.7 the kernel then looks at once.
    fn wait_until_operational(&self, prepared: &mut Prepared, bridge: &Bridge) -> Result<()> {
        let link = prepared.id.host_link();
        let doing = || format!("wait until the link {link} carries packets");
        let mut names = vec![link.as_str()];
        if bridge.subnet.mode() == AttachmentMode::Bridged {
            names.push(bridge.subnet.bridge());
        }
        for name in names {
            let carries = || {
                let link = self.routes().link(name)?;
                Ok(link.is_some_and(|link| link.operational))
            };
            if carries().doing(doing)? {
                continue;
            }
            let mut watch = LinkWatch::open().doing(doing)?;
            let deadline = Instant::now() + OPERATIONAL_TIMEOUT;
            if !watch.wait_until(deadline, carries).doing(doing)? {
                return Err(NetlinkError::new(Errno::ETIMEDOUT)).doing(doing);
            }
        }
        // The other end came up in the same moment, and is noticed together with the port.
        prepared.namespace.inside.link(INTERFACE).doing(doing)?;
        Ok(())
    }
}

/// What an interface has beside its addresses: everything but itself is behind the router, also what is in the same subnet.
fn routes_inside(interface: u32, bridge: &Bridge) -> Vec<Request> {
    let (router, mac) = (bridge.subnet.router(), bridge.subnet.router_mac());
    let mut requests = vec![
        add_neighbour(interface, router, mac),
        add_route(interface, Ipv4Net::default(), router),
        add_route(interface, Ipv4Net::from(METADATA_ADDRESS), router),
        add_blackhole(Ipv4Net::from(INSTANCE_METADATA_ADDRESS)),
    ];
    if let Some(router) = bridge.subnet.ipv6_router() {
        requests.extend([
            add_neighbour(interface, router, mac),
            add_route(interface, Ipv6Net::default(), router),
            add_blackhole(Ipv6Net::from(INSTANCE_METADATA_IPV6_ADDRESS)),
        ]);
    }
    requests
}
