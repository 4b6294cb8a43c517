//! Which rule let a connection pass.
#![forbid(unsafe_code)]

use super::hooks::Site;
use super::question::End;
use super::snapshot::Snapshot;
use super::words;
use crate::nftables::{ListedRule, Place};
use crate::policy::{Direction, Policy};
use crate::ruleset::{ADMITTED, INET_TABLE};

/// A packet that has passed a rule.
pub(super) struct Admission<'a> {
    pub(super) from: &'a End,
    /// The task that it is for, if it is for one.
    pub(super) to: Option<&'a End>,
    pub(super) is_translated: bool,
}

impl Snapshot {
    /// What is said of a rule that led a packet on; nothing of most.
    pub(super) fn admission(&self, site: &Site, admission: &Admission<'_>) -> Option<String> {
        if site.place != Place::of(INET_TABLE, &site.place.name) {
            return None;
        }
        let chain = self.kernel.ruleset.chains.get(&site.place)?;
        let rule = chain.rules.get(site.rule?)?;
        let ends = [
            (Direction::Egress, Some(admission.from)),
            (Direction::Ingress, admission.to),
        ];
        for (direction, end) in ends {
            let eni = end.and_then(End::eni);
            if let Some(eni) = eni.filter(|eni| Policy::of(eni).chain(direction) == site.place.name)
            {
                return self.admission_by_group(eni, direction, rule);
            }
        }
        let is_published = admission.is_translated
            && [ADMITTED, "from_elsewhere"].contains(&site.place.name.as_str())
            && admission.to.is_some()
            && rule.accepts();
        is_published.then(|| "what a port is published for passes, whatever the groups say".into())
    }

    fn admission_by_group(
        &self,
        eni: &crate::eni::Eni,
        direction: Direction,
        rule: &ListedRule,
    ) -> Option<String> {
        let (group, says) = match self.origin(eni, direction, rule) {
            Some((group, own)) => (group.to_string(), words::rule(own, direction)),
            // What ends the chain.
            None if rule.decides_alone() => return None,
            None => (
                "the agent's groups".into(),
                "a rule that the network's file no longer has".into(),
            ),
        };
        let (packets, _) = rule.counted().unwrap_or_default();
        Some(format!(
            "{direction} rule of {group} lets it pass: {says} (packets so far: {packets})"
        ))
    }
}
