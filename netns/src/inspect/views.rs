//! What there is of the network, to be shown: subnets, interfaces and groups, each with its state.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;

use super::reasons::written;
use super::snapshot::{LinkState, Snapshot};
use super::words;
use crate::eni::{Eni, EniId};
use crate::nftables::{ListedRule, Place};
use crate::policy::{Direction, Policy};
use crate::ruleset::INET_TABLE;
use crate::security_group::{Rule, SecurityGroupId};
use crate::subnet::{AttachmentMode, SubnetId};
use crate::subordinate_ids::IdRange;

/// A subnet, and what of it is in use.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetView {
    /// Its id.
    pub subnet_id: SubnetId,
    /// Its bridge on the host.
    pub bridge: String,
    /// Whether the bridge is there. One without ports is down.
    pub bridge_state: LinkState,
    /// Its range.
    pub cidr: Ipv4Net,
    /// Its range of IPv6.
    pub ipv6_cidr: Option<Ipv6Net>,
    /// How its tasks are joined to it.
    pub mode: AttachmentMode,
    /// How many addresses interfaces have.
    pub used: usize,
    /// How many there are still.
    pub free: usize,
    /// The interfaces.
    pub interfaces: Vec<EniId>,
}

/// An interface.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceView {
    /// Its id.
    pub eni_id: EniId,
    /// Whose it is: the name of its network namespace, which is the task's id.
    pub task: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The address that is its own outside, if it has one.
    pub public_address: Option<std::net::Ipv4Addr>,
    /// Its MAC address.
    pub mac: String,
    /// The subnet.
    pub subnet_id: SubnetId,
    /// How it is joined to the subnet.
    pub mode: AttachmentMode,
    /// Its security groups.
    pub security_groups: Vec<SecurityGroupId>,
    /// The ports of the host's that lead to it: `8080/tcp to 80`.
    pub published: Vec<String>,
    /// The ids of its user namespace, if it has one of its own.
    pub id_range: Option<IdRange>,
    /// The name of its link on the host.
    pub link: String,
    /// Whether the link carries packets.
    pub link_state: LinkState,
    /// What the firewall lacks of it.
    pub missing_elements: Vec<String>,
    /// The rules that hold for it, as the kernel has them.
    pub rules: Vec<RuleView>,
}

/// A rule of a group that an interface is in.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// The group that it is of; nothing for what ends each list, and for what the definition doesn't have.
    pub group: Option<SecurityGroupId>,
    /// What it lets pass.
    pub rule: String,
    /// `IPv4` or `IPv6`, if it is for that alone: of a group's rule the kernel may have one for each.
    pub family: Option<&'static str>,
    /// How many packets it decided on, of those that begin something new.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the kernel has it.
    pub in_kernel: bool,
}

/// A security group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    /// Its id.
    pub group_id: SecurityGroupId,
    /// What may come to its members.
    pub ingress: Vec<String>,
    /// What may go from them.
    pub egress: Vec<String>,
    /// The interfaces in it.
    pub members: Vec<EniId>,
}

impl Snapshot {
    /// The subnets, as they are defined.
    pub fn subnet_views(&self) -> Vec<SubnetView> {
        let subnets = self.config.subnets.iter();
        let view = |subnet: &crate::subnet::Subnet| {
            let interfaces: Vec<EniId> = self.of_subnet(subnet.id()).collect();
            let used = interfaces.len();
            SubnetView {
                subnet_id: subnet.id().clone(),
                bridge: subnet.bridge().to_owned(),
                bridge_state: self.kernel.state_of(subnet.bridge()),
                cidr: subnet.cidr(),
                ipv6_cidr: subnet.ipv6_cidr(),
                mode: subnet.mode(),
                free: subnet.capacity().saturating_sub(used),
                used,
                interfaces,
            }
        };
        subnets.map(view).collect()
    }

    fn of_subnet(&self, id: &SubnetId) -> impl Iterator<Item = EniId> {
        let enis = self.enis.iter().filter(move |eni| eni.subnet == *id);
        enis.map(|eni| eni.id.clone())
    }

    /// The interfaces, without their rules.
    pub fn interface_views(&self) -> Vec<InterfaceView> {
        self.enis.iter().map(|eni| self.interface(eni)).collect()
    }

    /// An interface with its rules.
    pub fn interface_view(&self, id: &EniId) -> Option<InterfaceView> {
        let eni = self.eni(id)?;
        let rules = Direction::BOTH
            .iter()
            .flat_map(|direction| self.rule_views(eni, *direction));
        Some(InterfaceView {
            rules: rules.collect(),
            ..self.interface(eni)
        })
    }

    fn interface(&self, eni: &Eni) -> InterfaceView {
        let published = eni.published.iter();
        let published = published.map(|port| format!("{} to {}", port.host, port.container_port));
        let link = eni.id.host_link();
        InterfaceView {
            eni_id: eni.id.clone(),
            task: eni.netns.to_string(),
            addresses: eni.addresses().collect(),
            public_address: eni.public_address,
            mac: eni.mac().to_string(),
            subnet_id: eni.subnet.clone(),
            mode: eni.mode,
            security_groups: eni.security_groups.clone(),
            published: published.collect(),
            id_range: eni.id_range,
            link_state: self.kernel.state_of(&link),
            link,
            missing_elements: self.missing_elements(eni),
            rules: Vec::new(),
        }
    }

    /// The rules of the kernel's, then those of the groups that it doesn't have.
    fn rule_views(&self, eni: &Eni, direction: Direction) -> Vec<RuleView> {
        let place = Place::of(INET_TABLE, &Policy::of(eni).chain(direction));
        let chain = self.kernel.ruleset.chains.get(&place);
        let kernels = chain
            .map(|chain| chain.rules.as_slice())
            .unwrap_or_default();
        let mut views: Vec<RuleView> = kernels
            .iter()
            .map(|rule| self.rule_view(eni, direction, rule))
            .collect();
        let is_missing = |rule: &Rule| {
            !written(rule, direction).all(|own| kernels.iter().any(|rule| rule.is_as(&own)))
        };
        let missing = self
            .rules_of(eni, direction)
            .filter(|(_, rule)| is_missing(rule));
        views.extend(missing.map(|(group, rule)| RuleView {
            direction: name(direction),
            group: Some(group),
            rule: words::rule(rule, direction),
            family: None,
            packets: 0,
            bytes: 0,
            in_kernel: false,
        }));
        views
    }

    fn rule_view(&self, eni: &Eni, direction: Direction, rule: &ListedRule) -> RuleView {
        let (packets, bytes) = rule.counted().unwrap_or_default();
        let origin = self.origin(eni, direction, rule);
        let says = match &origin {
            Some((_, own)) => words::rule(own, direction),
            None if rule.decides_alone() => "everything else is dropped".to_owned(),
            None => "a rule that the network's file doesn't have".to_owned(),
        };
        RuleView {
            direction: name(direction),
            group: origin.map(|(group, _)| group),
            rule: says,
            family: match rule.family() {
                Some(2) => Some("IPv4"),
                Some(10) => Some("IPv6"),
                _ => None,
            },
            packets,
            bytes,
            in_kernel: true,
        }
    }

    /// A group's rules and members.
    pub fn group_view(&self, id: &SecurityGroupId) -> Option<GroupView> {
        let groups = &self.config.security_groups;
        let group = groups.iter().find(|group| group.id() == id)?;
        let lines = |direction| {
            let rules = words::rules(group, direction).iter();
            rules.map(|rule| words::rule(rule, direction)).collect()
        };
        let members = self.enis.iter();
        let members = members.filter(|eni| eni.security_groups.contains(id));
        Some(GroupView {
            group_id: id.clone(),
            ingress: lines(Direction::Ingress),
            egress: lines(Direction::Egress),
            members: members.map(|eni| eni.id.clone()).collect(),
        })
    }
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}
