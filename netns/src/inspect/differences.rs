//! Where the kernel's tables are not what they are to be.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::snapshot::Snapshot;
use crate::eni::Eni;
use crate::firewall::eni_elements;
use crate::nftables::{ListedRule, Place, Value};
use crate::policy::{Direction, Policy};
use crate::ruleset::INET_TABLE;

impl Snapshot {
    /// What of our tables isn't there, or isn't as it should be: a line for each table, or else for each chain and
    /// set.
    pub fn differences(&self) -> Vec<String> {
        let missing = &self.kernel.missing_tables;
        let mut differences: Vec<String> = missing
            .iter()
            .map(|table| format!("the table {table} isn't there"))
            .collect();
        let is_there = |place: &&Place| !missing.iter().any(|table| *table == table_name(place));
        let chains = self.intended.chains.keys().filter(is_there);
        differences.extend(chains.filter_map(|place| self.chain_difference(place)));
        let sets = self.intended.sets.keys().filter(is_there);
        differences.extend(sets.filter_map(|place| self.set_difference(place)));
        differences
    }

    fn chain_difference(&self, place: &Place) -> Option<String> {
        let intended = self.intended.chains.get(place)?;
        let what = format!("the chain {} of {}", place.name, table_name(place));
        let Some(chain) = self.kernel.ruleset.chains.get(place) else {
            return Some(format!("{what} isn't there"));
        };
        let same = |pair: (&ListedRule, &ListedRule)| pair.0.is_as(pair.1);
        let (own, rules) = (&chain.rules, &intended.rules);
        if own.len() == rules.len() && own.iter().zip(rules).all(same) {
            return None;
        }
        Some(match self.groups_of_chain(&place.name) {
            Some(groups) => format!(
                "{what} hasn't the rules that the network's file gives {groups}: the agent has others, and takes the file's when it is reloaded"
            ),
            None => format!("{what} hasn't our rules: somebody has changed them"),
        })
    }

    /// The security groups whose rules are in a chain.
    pub(super) fn groups_of_chain(&self, name: &str) -> Option<String> {
        let has_it = |eni: &&Eni| {
            let policy = Policy::of(eni);
            Direction::BOTH
                .iter()
                .any(|direction| policy.chain(*direction) == name)
        };
        let eni = self.enis.iter().find(has_it)?;
        Some(groups(eni))
    }

    fn set_difference(&self, place: &Place) -> Option<String> {
        let intended = self.intended.sets.get(place)?;
        let what = format!("the set {} of {}", place.name, table_name(place));
        let Some(set) = self.kernel.ruleset.sets.get(place) else {
            return Some(format!("{what} isn't there"));
        };
        let own: BTreeSet<_> = set.elements().collect();
        let wanted: BTreeSet<_> = intended.elements().collect();
        let missing = wanted.difference(&own);
        let more = own.difference(&wanted);
        match (missing.count(), more.count()) {
            (0, 0) => None,
            (missing, 0) => Some(format!("{what} lacks {missing} elements")),
            (0, more) => Some(format!("{what} has {more} elements too many")),
            (missing, more) => Some(format!(
                "{what} lacks {missing} elements, and has {more} too many"
            )),
        }
    }

    /// The sets that lack an element of the interface.
    pub(super) fn missing_elements(&self, eni: &Eni) -> Vec<String> {
        let is_missing = |place: &Place, key: &[u8], value: Option<&Value>| {
            let set = self.kernel.ruleset.sets.get(place);
            set.and_then(|set| set.get(key)) != Some(value)
        };
        let elements = eni_elements(eni);
        let missing = elements.iter().filter_map(|element| {
            let place = Place::of(element.table, &element.set);
            let value = element.value.clone().map(Value::Bytes);
            is_missing(&place, &element.key, value.as_ref())
                .then(|| format!("{} of {}", place.name, table_name(&place)))
        });
        let mut missing: Vec<String> = missing.collect();
        missing.dedup();
        missing
    }

    /// Whether the chains of the interface's groups have the rules that those have.
    pub(super) fn policy_is_as_intended(&self, eni: &Eni) -> bool {
        let policy = Policy::of(eni);
        let chains = Direction::BOTH.map(|direction| policy.chain(direction));
        chains.iter().all(|chain| {
            self.chain_difference(&Place::of(INET_TABLE, chain))
                .is_none()
        })
    }
}

/// The groups of an interface, as people write a list.
pub(super) fn groups(eni: &Eni) -> String {
    let policy = Policy::of(eni);
    let groups: Vec<&str> = policy.groups().map(|group| group.as_str()).collect();
    groups.join(" and ")
}

/// A table as `nft` names it.
pub(super) fn table_name(place: &Place) -> String {
    let family = match place.family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    };
    format!("{family} {}", place.table)
}
