//! Policies: what the security groups of an interface let pass together.
//!
//! Interfaces that are in the same groups share two chains of the firewall, one for new connections to them
//! and one for those from them, and the sets of their addresses that lead there. A chain has the rules of the
//! groups one after the other, each with its counter, and ends in a drop. So the number of rules follows that of
//! the groups and their combinations; a task only adds elements. (A map from addresses to chains would be found
//! in one step, but the kernel looks through all of it whenever an element is added.)
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use crate::eni::Eni;
use crate::error::{Error, Result};
use crate::hash;
use crate::nftables::{Expression, Name};
use crate::ruleset::{self, IpFamily};
use crate::security_group::{SecurityGroup, SecurityGroupId};

/// Which way a new connection goes, seen from an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the interface.
    Ingress,
    /// From it.
    Egress,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The groups of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Policy(BTreeSet<SecurityGroupId>);

impl Policy {
    pub(crate) fn of(eni: &Eni) -> Self {
        Self(eni.security_groups.iter().cloned().collect())
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &SecurityGroupId> {
        self.0.iter()
    }

    /// The chain of a direction: the same for the next process that takes the network over.
    pub(crate) fn chain(&self, direction: Direction) -> Name {
        format!("{direction}-{:016x}", self.hash()).into()
    }

    /// The set of its interfaces' addresses of a family.
    pub(crate) fn addresses(&self, family: IpFamily) -> Name {
        match family {
            IpFamily::Ipv4 => format!("policy-{:016x}", self.hash()).into(),
            IpFamily::Ipv6 => format!("policy6-{:016x}", self.hash()).into(),
        }
    }

    fn hash(&self) -> u64 {
        hash::fnv1a(self.0.iter().flat_map(|group| group.as_str().bytes()))
    }
}

/// The security groups that there are, and the policies of the interfaces that are admitted.
#[derive(Debug)]
pub(crate) struct Policies {
    groups: BTreeMap<SecurityGroupId, SecurityGroup>,
    interfaces: BTreeMap<Ipv4Addr, Policy>,
}

impl Policies {
    /// Without an interface yet. A rule that names a group which isn't there is refused.
    pub(crate) fn new(groups: &[SecurityGroup]) -> Result<Self> {
        let by_id = |group: &SecurityGroup| (group.id().clone(), group.clone());
        let policies = Self {
            groups: groups.iter().map(by_id).collect(),
            interfaces: BTreeMap::new(),
        };
        let mut named = groups.iter().flat_map(SecurityGroup::named);
        match named.find(|group| !policies.has(group)) {
            Some(unknown) => Err(Error::UnknownSecurityGroup(unknown.clone())),
            None => Ok(policies),
        }
    }

    /// Whether there is such a group.
    pub(crate) fn has(&self, group: &SecurityGroupId) -> bool {
        self.groups.contains_key(group)
    }

    /// The ids of the groups that there are, and of those that interfaces are still in.
    pub(crate) fn all_groups(&self) -> BTreeSet<&SecurityGroupId> {
        let of_interfaces = self.interfaces.values().flat_map(Policy::groups);
        self.groups.keys().chain(of_interfaces).collect()
    }

    /// These policies with other groups. Interfaces stay in theirs; one that is gone lets nothing pass.
    pub(crate) fn with_groups(&self, groups: &[SecurityGroup]) -> Result<Self> {
        Ok(Self {
            interfaces: self.interfaces.clone(),
            ..Self::new(groups)?
        })
    }

    /// Notes an interface; whether its policy was nobody's before.
    pub(crate) fn enter(&mut self, eni: &Eni) -> bool {
        let policy = Policy::of(eni);
        let is_new = !self.in_use(&policy);
        self.interfaces.insert(eni.address, policy);
        is_new
    }

    /// The undo of [`Policies::enter`]; whether the interface's policy is nobody's any more.
    pub(crate) fn leave(&mut self, eni: &Eni) -> bool {
        self.interfaces.remove(&eni.address);
        !self.in_use(&Policy::of(eni))
    }

    /// Forgets all interfaces but these.
    pub(crate) fn keep_only(&mut self, enis: &[Eni]) {
        self.interfaces = enis
            .iter()
            .map(|eni| (eni.address, Policy::of(eni)))
            .collect();
    }

    fn in_use(&self, policy: &Policy) -> bool {
        self.interfaces.values().any(|used| used == policy)
    }

    /// The policies of interfaces.
    pub(crate) fn all(&self) -> BTreeSet<&Policy> {
        self.interfaces.values().collect()
    }

    /// What a chain of a policy consists of.
    pub(crate) fn rules(&self, policy: &Policy, direction: Direction) -> Vec<Vec<Expression>> {
        let groups = policy.groups().filter_map(|group| self.groups.get(group));
        let rules = groups.flat_map(|group| match direction {
            Direction::Ingress => group.ingress(),
            Direction::Egress => group.egress(),
        });
        let mut rules: Vec<_> = rules
            .flat_map(|rule| ruleset::admission(rule, direction))
            .collect();
        rules.push(ruleset::nothing_more());
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::AttachmentMode;

    fn eni(number: u8, groups: &[u32]) -> Eni {
        Eni {
            id: format!("eni-{number:017x}").parse().expect("valid"),
            address: Ipv4Addr::new(10, 231, 0, number),
            ipv6_address: None,
            public_address: None,
            mode: AttachmentMode::Bridged,
            subnet: "subnet-00000000000000001".parse().expect("valid"),
            security_groups: groups.iter().copied().map(id).collect(),
            netns: "task".parse().expect("valid"),
            id_range: None,
            published: Vec::new(),
        }
    }

    fn id(number: u32) -> SecurityGroupId {
        format!("sg-{number:017x}").parse().expect("valid")
    }

    #[test]
    fn the_order_of_groups_makes_no_other_policy() {
        let (one, other) = (Policy::of(&eni(4, &[1, 2])), Policy::of(&eni(5, &[2, 1])));
        assert_eq!(one, other);
        let (ingress, egress) = (Direction::Ingress, Direction::Egress);
        assert_eq!(one.chain(ingress), other.chain(ingress));
        assert_ne!(one.chain(ingress), one.chain(egress));
        assert_ne!(one.chain(ingress), Policy::of(&eni(6, &[1])).chain(ingress));
    }

    #[test]
    fn a_policy_is_new_with_its_first_interface_and_gone_with_its_last() {
        let mut policies = Policies::new(&[]).expect("no rules");
        assert!(policies.enter(&eni(4, &[1])));
        assert!(!policies.enter(&eni(5, &[1])));
        assert!(policies.enter(&eni(6, &[1, 2])));
        assert!(!policies.leave(&eni(4, &[1])));
        assert!(policies.leave(&eni(5, &[1])));
        assert_eq!(policies.all().len(), 1);
    }
}
