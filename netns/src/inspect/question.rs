//! What `check` is asked: from where, to where, and what is sent.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::Traffic;
use super::snapshot::Snapshot;
use crate::eni::{Eni, EniId};
use crate::error::{Doing, Error};
use crate::netlink::{RouteAnswer, RouteQuestion, RouteSocket};
use crate::published::{PortProtocol, PublishedPort};
use crate::ruleset::{IpFamily, MARK};
use crate::subnet::METADATA_ADDRESS;

/// One end of what is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A task, by its interface.
    Interface(EniId),
    /// Whoever has this address: a task, the host, or somebody outside.
    Address(IpAddr),
    /// The host, at the address that it shows outside.
    Host,
    /// Somebody outside, at an address that no rule is likely to name.
    Outside,
}

/// A question: whether something new passes.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who sends it.
    pub from: Endpoint,
    /// To whom.
    pub to: Endpoint,
    /// What.
    pub traffic: Traffic,
    /// Over IPv6, where no address says which it is.
    pub ipv6: bool,
}

/// A question that can't be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// It makes no sense here.
    #[error("{0}")]
    Question(String),
    /// The network couldn't be looked at.
    #[error(transparent)]
    Network(#[from] Error),
}

/// Stands for everybody outside (RFC 5737, RFC 3849: addresses for documentation).
pub(super) const SOMEBODY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1),
);

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    Task(Eni),
    Hosts,
    Outside,
}

/// One end, with its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) whose: Whose,
    pub(super) address: IpAddr,
}

impl End {
    pub(super) fn eni(&self) -> Option<&Eni> {
        match &self.whose {
            Whose::Task(eni) => Some(eni),
            _ => None,
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match &self.whose {
            Whose::Task(eni) => format!("{} ({}, {})", eni.netns, eni.id, self.address),
            Whose::Hosts => format!("the host ({})", self.address),
            Whose::Outside => format!("outside ({})", self.address),
        }
    }
}

/// A question, and what the kernel says of the ways that the packet may take.
#[derive(Debug, Clone)]
pub(super) struct Inquiry {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) traffic: Traffic,
    /// The port of a task that was asked for, and is published as the one that is asked.
    pub(super) published: Option<(Eni, u16)>,
    /// The index of the link by which something from outside comes; nothing if there is no way back.
    pub(super) uplink: Option<u32>,
    /// To each address that the packet may have to go to, as it is or translated.
    pub(super) ways: Vec<(IpAddr, RouteAnswer)>,
}

impl Inquiry {
    /// Finds out whom the question is about, and asks the kernel for the ways.
    pub(super) fn new(snapshot: &Snapshot, question: &Question) -> Result<Self, CheckError> {
        let family = family(question)?;
        let mut routes = RouteSocket::open().doing(|| "open a netlink socket".into())?;
        let from = end(snapshot, &mut routes, &question.from, family)?;
        let to = end(snapshot, &mut routes, &question.to, family)?;
        if from.whose == Whose::Outside && to.whose == Whose::Outside {
            return Err(CheckError::Question(format!(
                "neither {} nor {} is a task's or the host's: what they send each other doesn't come here",
                from.address, to.address
            )));
        }
        let mut inquiry = Self {
            uplink: None,
            ways: Vec::new(),
            traffic: question.traffic,
            published: None,
            from,
            to,
        };
        let is_by_name = matches!(question.to, Endpoint::Interface(_));
        if is_by_name && inquiry.from.whose == Whose::Outside {
            let host = end(snapshot, &mut routes, &Endpoint::Host, family)?;
            inquiry.ask_from_outside(host);
        }
        inquiry.ask(snapshot, &mut routes)?;
        Ok(inquiry)
    }

    /// Somebody outside reaches a task by a port of the host's, if one leads there, or at its public address.
    fn ask_from_outside(&mut self, host: End) {
        let Some(eni) = self.to.eni().cloned() else {
            return;
        };
        let leads_there = |published: &&PublishedPort| {
            is_of(self.traffic, published.host.protocol) == Some(published.container_port)
        };
        let Some(port) = eni.published.iter().find(leads_there) else {
            let public = eni.public_address.filter(|_| self.to.address.is_ipv4());
            self.to.address = public.map_or(self.to.address, IpAddr::from);
            return;
        };
        self.traffic = self.traffic.to_port(port.host.port);
        self.published = Some((eni.clone(), port.container_port));
        self.to = host;
    }

    fn ask(&mut self, snapshot: &Snapshot, routes: &mut RouteSocket) -> Result<(), CheckError> {
        let doing = || "ask the kernel for a route".to_owned();
        let from = Some(self.from.address);
        let (in_link, from, mark) = match &self.from.whose {
            Whose::Task(eni) => match snapshot.ip_link(eni) {
                Some(link) => (Some(link.index), from, MARK),
                None => return Ok(()),
            },
            Whose::Hosts => (None, None, 0),
            Whose::Outside => match routes.way(&from_host(self.from.address)).doing(doing)? {
                RouteAnswer::Out { link, .. } => (Some(link), from, MARK),
                _ => return Ok(()),
            },
        };
        self.uplink = in_link;
        for to in self.destinations(snapshot) {
            let question = RouteQuestion {
                to,
                from,
                in_link,
                mark,
            };
            self.ways.push((to, routes.way(&question).doing(doing)?));
        }
        Ok(())
    }

    /// Where the packet may go: to its destination, or to a task that has published a port.
    fn destinations(&self, snapshot: &Snapshot) -> Vec<IpAddr> {
        let publishers = snapshot.enis.iter();
        let publishers = publishers.filter(|eni| {
            let mut published = eni.published.iter();
            published.any(|published| {
                is_of(self.traffic, published.host.protocol) == Some(published.host.port)
            })
        });
        let of_family = |address: &IpAddr| address.is_ipv4() == self.to.address.is_ipv4();
        let published = publishers.flat_map(Eni::addresses).filter(of_family);
        let public = snapshot.eni_shown_as(self.to.address);
        let public = public.map(|eni| IpAddr::from(eni.address));
        let to = [self.to.address].into_iter().chain(public);
        to.chain(published).collect()
    }

    pub(super) fn way(&self, to: IpAddr) -> Option<RouteAnswer> {
        let way = self.ways.iter().find(|(address, _)| *address == to);
        way.map(|(_, answer)| *answer)
    }
}

/// The port, if it is one of this protocol.
fn is_of(traffic: Traffic, protocol: PortProtocol) -> Option<u16> {
    match (traffic, protocol) {
        (Traffic::Tcp(port), PortProtocol::Tcp) | (Traffic::Udp(port), PortProtocol::Udp) => {
            Some(port)
        }
        _ => None,
    }
}

fn family(question: &Question) -> Result<IpFamily, CheckError> {
    let ends = [&question.from, &question.to].into_iter();
    let families = ends.filter_map(|endpoint| match endpoint {
        Endpoint::Address(address) => Some(IpFamily::of(*address)),
        _ => None,
    });
    let asked = question.ipv6.then_some(IpFamily::Ipv6);
    let mut families = families.chain(asked);
    let Some(first) = families.next() else {
        return Ok(IpFamily::Ipv4);
    };
    match families.all(|family| family == first) {
        true => Ok(first),
        false => Err(CheckError::Question(
            "one end is of IPv4 and the other of IPv6; ask for one of them".into(),
        )),
    }
}

/// A packet that the host itself sends.
fn from_host(to: IpAddr) -> RouteQuestion {
    RouteQuestion {
        to,
        from: None,
        in_link: None,
        mark: 0,
    }
}

fn end(
    snapshot: &Snapshot,
    routes: &mut RouteSocket,
    endpoint: &Endpoint,
    family: IpFamily,
) -> Result<End, CheckError> {
    let somebody: IpAddr = match family {
        IpFamily::Ipv4 => SOMEBODY.0.into(),
        IpFamily::Ipv6 => SOMEBODY.1.into(),
    };
    let (whose, address) = match endpoint {
        Endpoint::Interface(id) => of_interface(snapshot, id, family)?,
        Endpoint::Address(address) => (whose(snapshot, *address), *address),
        Endpoint::Outside => (Whose::Outside, somebody),
        Endpoint::Host => {
            let way = routes
                .way(&from_host(somebody))
                .doing(|| "ask the kernel for a route".into())?;
            let own = match way {
                RouteAnswer::Out { source, .. } => source,
                _ => None,
            };
            let is_for_others = |own: &IpAddr| {
                IpFamily::of(*own) == family && !own.is_loopback() && *own != METADATA_ADDRESS
            };
            let others = snapshot.kernel.addresses.iter().copied();
            let others = others.filter(is_for_others).min();
            let address = own.or(others).ok_or_else(|| {
                CheckError::Question("the host has no address of that family".into())
            })?;
            (Whose::Hosts, address)
        }
    };
    Ok(End { whose, address })
}

fn of_interface(
    snapshot: &Snapshot,
    id: &EniId,
    family: IpFamily,
) -> Result<(Whose, IpAddr), CheckError> {
    let eni = snapshot
        .eni(id)
        .ok_or_else(|| CheckError::Question(format!("there is no interface {id} on this host")))?;
    let mut addresses = eni.addresses();
    let address = addresses.find(|address| IpFamily::of(*address) == family);
    let address =
        address.ok_or_else(|| CheckError::Question(format!("{id} has no address of IPv6")))?;
    Ok((Whose::Task(eni.clone()), address))
}

fn whose(snapshot: &Snapshot, address: IpAddr) -> Whose {
    match snapshot.eni_at(address).or(snapshot.eni_shown_as(address)) {
        Some(eni) => Whose::Task(eni.clone()),
        None if snapshot.is_hosts(address) => Whose::Hosts,
        None => Whose::Outside,
    }
}
