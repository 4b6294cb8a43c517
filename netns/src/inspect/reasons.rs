//! Why a rule of the firewall's let a packet pass, or didn't, and what to do about it.
#![forbid(unsafe_code)]

use super::differences::{groups, table_name};
use super::hooks::Site;
use super::packet::Packet;
use super::question::{End, Inquiry};
use super::snapshot::Snapshot;
use super::words;
use crate::eni::Eni;
use crate::nftables::ListedRule;
use crate::policy::{Direction, Policy};
use crate::ruleset::{BRIDGE_TABLE, EGRESS, INET_TABLE, INGRESS, IpFamily, admission};
use crate::security_group::{Rule, SecurityGroupId};
use crate::subnet::{INSTANCE_METADATA_ADDRESS, INSTANCE_METADATA_IPV6_ADDRESS};

/// What to do when the tables aren't what they are to be.
pub(super) const RESTART: &str =
    "restart the agent: it makes its tables anew, and open connections go on";

/// What is said of a drop, and what to do.
pub(super) struct Reason {
    pub(super) says: String,
    pub(super) advice: Option<String>,
}

impl Reason {
    pub(super) fn new(says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            says: says.into(),
            advice: Some(advice.into()),
        }
    }
}

impl Snapshot {
    /// Why a packet is dropped there.
    pub(super) fn reason(&self, site: &Site, packet: &Packet, inquiry: &Inquiry) -> Reason {
        let table = table_name(&site.place);
        if ![INET_TABLE, BRIDGE_TABLE]
            .iter()
            .any(|own| own.to_string() == table)
        {
            return foreign(site);
        }
        let (from, to) = (&inquiry.from, self.receiver(packet));
        match site.place.name.as_str() {
            "port" | "link" => self.not_its_own(from),
            "task_to_host" => Reason::new(
                "the host's own addresses are closed to tasks, but for the resolver (port 53), the metadata endpoint \
                 (169.254.170.2:80) and pings of its addresses on the bridge",
                "let the service run as a task, or outside of this host; or publish a task's port there",
            ),
            "input" => Reason::new(
                "the routers', resolvers' and metadata addresses are for tasks only",
                "ask the host at another address of its own",
            ),
            "from_task" if is_instance_metadata(packet) => instance_metadata(),
            "from_elsewhere" => self.not_published(to.as_ref().and_then(End::eni), packet),
            EGRESS => self.without_policy(from.eni()),
            INGRESS => self.without_policy(to.as_ref().and_then(End::eni)),
            name if name.starts_with("egress-") => {
                let peer = to.unwrap_or_else(|| inquiry.to.clone());
                self.no_rule(Direction::Egress, from.eni(), &peer, packet)
            }
            name if name.starts_with("ingress-") => {
                let own = to.as_ref().and_then(End::eni);
                self.no_rule(Direction::Ingress, own, from, packet)
            }
            name => Reason::new(format!("the chain {name} of {table} drops it"), RESTART),
        }
    }

    /// Where a packet goes now.
    pub(super) fn receiver(&self, packet: &Packet) -> Option<End> {
        let eni = self.eni_at(packet.to)?;
        Some(End {
            whose: super::question::Whose::Task(eni.clone()),
            address: packet.to,
        })
    }

    fn not_its_own(&self, from: &End) -> Reason {
        let missing = from.eni().map(|eni| self.missing_elements(eni));
        let missing = missing.unwrap_or_default().join(", ");
        Reason::new(
            format!(
                "the link's MAC address and {} are in no element of the firewall's ({missing}): it counts as forged",
                from.address
            ),
            RESTART,
        )
    }

    fn without_policy(&self, eni: Option<&Eni>) -> Reason {
        let missing = eni.map(|eni| self.missing_elements(eni));
        let missing = missing.unwrap_or_default().join(", ");
        let id = eni.map_or("it", |eni| eni.id.as_str());
        Reason::new(
            format!("the firewall has no rules for {id}: its elements are missing in {missing}"),
            RESTART,
        )
    }

    fn not_published(&self, eni: Option<&Eni>, packet: &Packet) -> Reason {
        let published = eni.map(|eni| eni.published.as_slice()).unwrap_or_default();
        let published: Vec<String> = published
            .iter()
            .map(|port| format!("{} as {}", port.container_port, port.host))
            .collect();
        let says = "from outside, tasks are reached by published ports of the host's alone, whatever their groups say";
        let advice = match published.is_empty() {
            true => format!(
                "publish the port, and connect to the host: berth run -p '*:PORT:{}'",
                packet.original_port
            ),
            false => format!(
                "connect to a port that it publishes: {}",
                published.join(", ")
            ),
        };
        Reason::new(says, advice)
    }

    /// None of the groups' rules fits; of those that nearly do, it is said what keeps them.
    fn no_rule(
        &self,
        direction: Direction,
        own: Option<&Eni>,
        peer: &End,
        packet: &Packet,
    ) -> Reason {
        let (traffic, family) = (packet.traffic, packet.family());
        let Some(own) = own else {
            return Reason::new("it is in no security group", RESTART);
        };
        let mut says = format!("no {direction} rule of {} lets {traffic} pass", groups(own));
        let near: Vec<String> = self
            .rules_of(own, direction)
            .filter(|(_, rule)| words::is_for(rule, traffic, family))
            .map(|(group, rule)| format!("{} ({group})", words::rule(rule, direction)))
            .collect();
        let which = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        says += &format!(" {which} {}", peer.name());
        if !near.is_empty() {
            says += &format!(
                "; there is {}, and {} is not among those",
                near.join(", "),
                peer.address
            );
        }
        if !self.policy_is_as_intended(own) {
            says += "; the rules that hold are not those of the network's file";
            return Reason::new(
                says,
                "reload the agent: it takes the file's rules (systemctl reload berth)",
            );
        }
        let policy = Policy::of(own);
        let advice = policy
            .groups()
            .next()
            .map(|group| words::permission(group, direction, traffic, (peer.eni(), peer.address)));
        Reason { says, advice }
    }

    /// The rules of an interface's groups, in the order in which a chain has them.
    pub(super) fn rules_of(
        &self,
        eni: &Eni,
        direction: Direction,
    ) -> impl Iterator<Item = (SecurityGroupId, &Rule)> {
        let policy = Policy::of(eni);
        let ids: Vec<SecurityGroupId> = policy.groups().cloned().collect();
        let groups = &self.config.security_groups;
        ids.into_iter().flat_map(move |id| {
            let group = groups.iter().find(move |group| *group.id() == id);
            let rules = group.map(|group| words::rules(group, direction));
            let id = group.map(|group| group.id().clone());
            rules
                .unwrap_or_default()
                .iter()
                .filter_map(move |rule| Some((id.clone()?, rule)))
        })
    }

    /// The group's rule that a rule of the kernel's is, of an interface's policy.
    pub(super) fn origin(
        &self,
        eni: &Eni,
        direction: Direction,
        rule: &ListedRule,
    ) -> Option<(SecurityGroupId, &Rule)> {
        let mut rules = self.rules_of(eni, direction);
        rules.find(|(_, own)| written(own, direction).any(|written| rule.is_as(&written)))
    }
}

/// A group's rule as the kernel would list it: one for each family.
pub(super) fn written(rule: &Rule, direction: Direction) -> impl Iterator<Item = ListedRule> {
    let rules = admission(rule, direction).into_iter();
    rules.map(|expressions| ListedRule::written(&expressions))
}

/// Whether a packet is to the service that no task may reach.
pub(super) fn is_instance_metadata(packet: &Packet) -> bool {
    match packet.family() {
        IpFamily::Ipv4 => packet.to == INSTANCE_METADATA_ADDRESS,
        IpFamily::Ipv6 => packet.to == INSTANCE_METADATA_IPV6_ADDRESS,
    }
}

/// Why that is so.
pub(super) fn instance_metadata() -> Reason {
    Reason::new(
        "instance metadata is blocked for tasks: they have no route there, and the host drops it",
        "a task's own metadata is at $ECS_CONTAINER_METADATA_URI_V4, and its credentials come from there, too",
    )
}

/// Somebody else's rule or policy.
fn foreign(site: &Site) -> Reason {
    let table = table_name(&site.place);
    let chain = &site.place.name;
    let says = match site.rule {
        None => format!(
            "the chain {chain} of {table} drops what none of its rules accepts (its policy)"
        ),
        Some(rule) => format!("rule {} of the chain {chain} of {table} drops it", rule + 1),
    };
    Reason::new(
        format!("{says}: it is not ours, and our accept can't override it"),
        format!(
            "let the traffic of tasks pass there; it is shown by: nft list chain {table} {chain}"
        ),
    )
}
