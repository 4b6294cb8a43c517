//! The way of a packet through the host, step by step, until it is there or is blocked.
//!
//! The steps are in the order in which the kernel takes them, but for the links that it goes out by: those are looked
//! at first, since without them the routes are other ones.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::ops::ControlFlow;

use super::admission::Admission;
use super::explain::{Step, TRANSLATION, Verdict};
use super::hooks::{self, Fate, Passage, Site};
use super::packet::{Packet, Traffic, Via};
use super::question::{Inquiry, Whose};
use super::reasons::{self, RESTART, Reason};
use super::snapshot::Snapshot;
use crate::eni::Eni;
use crate::netlink::{Link, PolicyAction, RouteAnswer};
use crate::nftables::Hook;
use crate::ruleset::MARK;
use crate::subnet::AttachmentMode;

/// Whether the packet goes on.
type Progress = ControlFlow<()>;

const ON: Progress = ControlFlow::Continue(());

/// A packet under way, and what has been said of it.
pub(super) struct Journey<'a> {
    snapshot: &'a Snapshot,
    inquiry: &'a Inquiry,
    packet: Packet,
    steps: Vec<Step>,
}

impl<'a> Journey<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, inquiry: &'a Inquiry) -> Self {
        Self {
            snapshot,
            inquiry,
            packet: Packet::new(inquiry.from.address, inquiry.to.address, inquiry.traffic),
            steps: Vec::new(),
        }
    }

    /// The steps until it is there, or is blocked.
    pub(super) fn steps(mut self) -> Vec<Step> {
        match self.run() {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => self.steps,
        }
    }

    fn run(&mut self) -> Progress {
        if let Some((eni, port)) = &self.inquiry.published {
            let says = format!(
                "port {port} of {} is published: it is reached as {} of {}",
                eni.netns,
                self.inquiry.traffic,
                self.inquiry.to.name()
            );
            self.passes("published port", says);
        }
        match &self.inquiry.from.whose {
            Whose::Task(eni) => self.leave_task(eni)?,
            Whose::Hosts => return self.leave_host(),
            Whose::Outside => self.arrive()?,
        }
        self.hook(Hook::Prerouting, "firewall, on arrival")?;
        match self.snapshot.is_hosts(self.packet.to) {
            true => self.enter_host(),
            false => self.forward(),
        }
    }

    fn passes(&mut self, place: impl Into<String>, says: impl Into<String>) {
        self.steps.push(Step {
            verdict: Verdict::Passes,
            place: place.into(),
            says: says.into(),
            advice: None,
        });
    }

    fn blocked(&mut self, place: impl Into<String>, reason: Reason) -> Progress {
        self.steps.push(Step {
            verdict: Verdict::Blocked,
            place: place.into(),
            says: reason.says,
            advice: reason.advice,
        });
        ControlFlow::Break(())
    }

    /// Out of the task's namespace, by its link, to where the host's IP sees it.
    fn leave_task(&mut self, eni: &Eni) -> Progress {
        let place = format!("namespace of {}", eni.netns);
        let to = self.packet.to;
        if to.is_loopback() || eni.addresses().any(|own| own == to) {
            self.passes(
                place,
                "it is the task's own address, and stays in its namespace",
            );
            return ControlFlow::Break(());
        }
        if reasons::is_instance_metadata(&self.packet) {
            return self.blocked(place, reasons::instance_metadata());
        }
        self.passes(place, "eth0 sends it to the router");
        self.link(eni)?;
        let name = eni.id.host_link();
        let own = self.snapshot.kernel.link(&name);
        self.packet.from_mac = Some(eni.mac());
        self.packet.in_link = own.map(via);
        if eni.mode == AttachmentMode::Bridged {
            self.bridge_hook(Hook::Prerouting, "firewall, at the port")?;
            self.bridge_hook(Hook::Input, "firewall, at the bridge")?;
        }
        self.packet.in_link = self.snapshot.ip_link(eni).map(via);
        ON
    }

    fn arrive(&mut self) -> Progress {
        let uplink = self.inquiry.uplink;
        let mut links = self.snapshot.kernel.links.iter();
        let Some(link) = links.find(|link| Some(link.index) == uplink) else {
            let says = format!("the host has no route to {}", self.packet.from);
            let advice = "look at the host's routes (ip route), or ask for an address that it has a route to".to_owned();
            let reason = Reason {
                says,
                advice: Some(advice),
            };
            return self.blocked("uplink", reason);
        };
        let says = format!("it comes by {}, if there is a route here", link.name);
        self.packet.in_link = Some(via(link));
        if self.packet.to.is_loopback() {
            let says = "nobody outside reaches the host's loopback".to_owned();
            let advice = None;
            return self.blocked("uplink", Reason { says, advice });
        }
        self.passes("uplink", says);
        ON
    }

    /// Whether a task's link carries packets.
    fn link(&mut self, eni: &Eni) -> Progress {
        match self.snapshot.link_fault(eni) {
            None => ON,
            Some(reason) => self.blocked(format!("link {}", eni.id.host_link()), reason),
        }
    }

    /// What the host itself sends.
    fn leave_host(&mut self) -> Progress {
        if self.snapshot.is_hosts(self.packet.to) {
            self.packet.is_to_host = true;
        }
        self.packet.out_link = self.out_link();
        self.hook(Hook::Output, "firewall, on leaving the host")?;
        if self.snapshot.is_hosts(self.packet.to) {
            self.passes("host", "it is the host's own address, and doesn't leave it");
            return ON;
        }
        self.route()?;
        self.deliver()
    }

    fn enter_host(&mut self) -> Progress {
        let place = "firewall, into the host";
        let before = self.steps.len();
        self.hook(Hook::Input, place)?;
        if self.steps.len() == before {
            let says = match self.snapshot.kernel.missing_tables.is_empty() {
                true => format!("{} of the host is open to it", self.packet.traffic),
                false => "no rule of ours closes the host's addresses: our tables aren't there"
                    .to_owned(),
            };
            self.passes(place, says);
        }
        ON
    }

    /// Through the host, to another link.
    fn forward(&mut self) -> Progress {
        let family = self.packet.family();
        if !self.snapshot.kernel.forwards(family) {
            let name = match self.packet.to.is_ipv4() {
                true => "net.ipv4.ip_forward",
                false => "net.ipv6.conf.all.forwarding",
            };
            let reason = Reason {
                says: format!("the host forwards nothing: {name} is 0"),
                advice: Some(format!(
                    "find out who turned it off, and turn it on: sysctl -w {name}=1"
                )),
            };
            return self.blocked("forwarding", reason);
        }
        self.seen()?;
        self.route()?;
        let dropped_at = "firewall, on the way through";
        self.hook(Hook::Forward, dropped_at)?;
        self.answer()?;
        self.deliver()
    }

    /// Others may let pass what asks, and drop what answers.
    fn answer(&mut self) -> Progress {
        let ruleset = &self.snapshot.kernel.ruleset;
        let mut passage = hooks::pass(ruleset, Hook::Forward as u32, &mut self.packet.answer());
        passage.trail.clear();
        self.past("firewall, on the answer's way back", passage)
    }

    /// Without the mark of our tables, nothing is routed to subnets or from them.
    fn seen(&mut self) -> Progress {
        if self.packet.mark & MARK != 0 {
            return ON;
        }
        let (from, to) = (self.packet.from, self.packet.to);
        // Of IPv4 the check of the source asks for the way back, and finds none.
        let closes = |rule: &&crate::netlink::PolicyRule| {
            let is_in = |range: Option<ipnet::IpNet>, address: IpAddr| {
                range.is_some_and(|range| range.contains(&address))
            };
            let is_of_task = self.inquiry.from.eni().is_some();
            let back = from.is_ipv4() && is_of_task && is_in(rule.to, from);
            rule.action == PolicyAction::Blackhole
                && (is_in(rule.to, to) || is_in(rule.from, from) || back)
        };
        let kernel = &self.snapshot.kernel;
        if !kernel.policy_rules.iter().any(|rule| closes(&rule)) {
            return ON;
        }
        let says = match kernel.missing_tables.as_slice() {
            [] => "the firewall's rules haven't marked it: somebody has changed our tables; without the mark, the \
                   routing policy (ip rule) has no route for it"
                .to_owned(),
            missing => format!(
                "the nftables tables {} are gone, and nobody has put them back; without them, the routing policy \
                 (ip rule) has no route for tasks",
                missing.join(" and ")
            ),
        };
        let advice = Some(RESTART.to_owned());
        self.blocked("routing policy", Reason { says, advice })
    }

    fn out_link(&self) -> Option<Via> {
        let Some(RouteAnswer::Out { link, .. }) = self.inquiry.way(self.packet.to) else {
            return None;
        };
        let mut links = self.snapshot.kernel.links.iter();
        links.find(|own| own.index == link).map(via)
    }

    /// What the kernel says of the way.
    fn route(&mut self) -> Progress {
        let to = self.packet.to;
        if let Some(eni) = self.snapshot.eni_at(to) {
            self.link(eni)?;
        } else if let Some(subnet) = self.snapshot.subnet_at(to) {
            let reason = Reason {
                says: format!("no task has {to}, an address of {}", subnet.id()),
                advice: Some("berth network ls shows who has which".into()),
            };
            return self.blocked("subnet", reason);
        }
        let answer = self.inquiry.way(to);
        self.packet.out_link = self.out_link();
        let Some(link) = self.packet.out_link.clone() else {
            let says = match answer {
                Some(RouteAnswer::None(errno)) => {
                    format!("the host has no route for it: {errno:?} ({})", errno.desc())
                }
                _ => "the host has no route for it".to_owned(),
            };
            let advice = Some("look at the host's routes and rules: ip route; ip rule".to_owned());
            return self.blocked("route", Reason { says, advice });
        };
        self.own_way(&link)?;
        self.passes("route", format!("to {to} by {}", link.name));
        ON
    }

    /// Whether the way to a task is the one that its link is on.
    fn own_way(&mut self, link: &Via) -> Progress {
        let Some(eni) = self.snapshot.eni_at(self.packet.to) else {
            return ON;
        };
        let expected = self.snapshot.ip_link(eni);
        if expected.is_some_and(|own| own.index == link.index) {
            return ON;
        }
        let expected = expected.map_or("its own link", |own| own.name.as_str());
        let reason = Reason {
            says: format!(
                "the host sends it out by {}, and the task is behind {expected}",
                link.name
            ),
            advice: Some(RESTART.into()),
        };
        self.blocked("route", reason)
    }

    /// The last part: out of the host.
    fn deliver(&mut self) -> Progress {
        self.isolated_port()?;
        self.hook(Hook::Postrouting, "firewall, on leaving the host")?;
        let to = self.packet.to;
        let Some(eni) = self.snapshot.eni_at(to) else {
            let how = match (self.packet.is_masqueraded, self.packet.shown_as) {
                (true, _) => ", as the host (masqueraded)".to_owned(),
                (false, Some(address)) => format!(", as {address}"),
                (false, None) => String::new(),
            };
            let link = self.packet.out_link.as_ref();
            let link = link.map_or("", |link| link.name.as_str());
            self.passes("uplink", format!("it leaves by {link}{how}"));
            return ON;
        };
        let is_known = self.snapshot.kernel.neighbours.contains(&to);
        if eni.mode == AttachmentMode::Bridged && !is_known {
            let reason = Reason {
                says: format!(
                    "the host doesn't know the MAC address of {to}, and nobody asks for it"
                ),
                advice: Some(RESTART.into()),
            };
            return self.blocked("neighbours", reason);
        }
        let name = eni.id.host_link();
        if eni.mode == AttachmentMode::Bridged {
            self.packet.from_mac = None;
            self.packet.in_link = None;
            self.packet.out_link = self.snapshot.kernel.link(&name).map(via);
            self.bridge_hook(Hook::Output, "firewall, at the bridge")?;
            self.bridge_hook(Hook::Postrouting, "firewall, at the port")?;
        }
        self.passes(
            format!("link {name}"),
            format!(
                "it is handed to {}: whether anything listens there is the task's",
                eni.netns
            ),
        );
        ON
    }

    /// What is translated back to the bridge that it came from is bridged, where frames pass iptables.
    fn isolated_port(&mut self) -> Progress {
        let packet = &self.packet;
        let is_back = packet.in_link.is_some() && packet.in_link == packet.out_link;
        let is_bridge = |eni: &Eni| eni.mode == AttachmentMode::Bridged;
        let from_port = self.inquiry.from.eni().is_some_and(is_bridge);
        let is_called = self.snapshot.kernel.bridges_call(packet.family());
        if !(packet.is_translated && is_back && from_port && is_called) {
            return ON;
        }
        let reason = Reason {
            says: "it comes back to the subnet that it is from, and the kernel bridges it, between ports that are \
                   isolated (br_netfilter)"
                .into(),
            advice: Some(
                "connect to the task's own address, make the subnet's AttachmentMode \"routed\", or set \
                 net.bridge.bridge-nf-call-iptables=0 if nobody else on this host needs it"
                    .into(),
            ),
        };
        self.blocked("bridge", reason)
    }

    /// Through all chains of a hook.
    fn hook(&mut self, hook: Hook, place: &str) -> Progress {
        self.packet.is_to_host = self.snapshot.is_hosts(self.packet.to);
        self.packet.may_be_translated = false;
        let before = (self.packet.to, self.packet.traffic);
        let ruleset = &self.snapshot.kernel.ruleset;
        let passage = hooks::pass(ruleset, hook as u32, &mut self.packet);
        let after = (self.packet.to, self.packet.traffic);
        if before != after {
            let port = |traffic: Traffic| traffic.port().unwrap_or_default();
            let says = format!(
                "{} port {} is translated to {} port {}",
                before.0,
                port(before.1),
                after.0,
                port(after.1)
            );
            self.passes(TRANSLATION, says);
        }
        if self.packet.may_be_translated {
            self.steps.push(Step {
                verdict: Verdict::Doubtful,
                place: TRANSLATION.into(),
                says: "a rule of somebody else's may send it elsewhere, such as to a container's published port".into(),
                advice: Some("nft list ruleset shows rules that translate".into()),
            });
        }
        self.past(place, passage)
    }

    /// Through the chains for frames on bridges.
    fn bridge_hook(&mut self, hook: Hook, place: &str) -> Progress {
        let ruleset = &self.snapshot.kernel.ruleset;
        let passage = hooks::pass_bridge(ruleset, hook as u32, &mut self.packet);
        self.past(place, passage)
    }

    fn past(&mut self, place: &str, passage: Passage) -> Progress {
        for site in &passage.trail {
            let receiver = self.snapshot.receiver(&self.packet);
            let admission = Admission {
                from: &self.inquiry.from,
                to: receiver.as_ref(),
                is_translated: self.packet.is_translated,
            };
            if let Some(says) = self.snapshot.admission(site, &admission) {
                self.passes(place, says);
            }
        }
        for site in passage.doubts {
            let Reason { says, advice } = self.reason(&site);
            self.steps.push(Step {
                verdict: Verdict::Doubtful,
                place: place.to_owned(),
                says: format!("this may drop it: {says}"),
                advice,
            });
        }
        match passage.fate {
            Fate::Passes => ON,
            Fate::Dropped(site) => {
                let reason = self.reason(&site);
                self.blocked(place, reason)
            }
        }
    }

    fn reason(&self, site: &Site) -> Reason {
        self.snapshot.reason(site, &self.packet, self.inquiry)
    }
}

fn via(link: &Link) -> Via {
    Via {
        name: link.name.clone(),
        index: link.index,
    }
}
