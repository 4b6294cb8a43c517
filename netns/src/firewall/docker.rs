//! Docker's place for the rules of others: the chain `DOCKER-USER` of iptables' filter table.
//!
//! Docker has packets dropped that it doesn't know (the policy of `FORWARD`), and our accept can't override that. Where
//! its chain is, at its head, rules of ours let the traffic of our bridges pass: what may pass is for our own tables.
//! What a task sends to Docker's own bridges is left to Docker's rules. They are in the very form that iptables-nft
//! writes, so that it reads them.
#![forbid(unsafe_code)]

use nix::errno::Errno;

use super::Firewall;
use crate::config::NetworkConfig;
use crate::eni::HOST_LINK_PREFIX;
use crate::error::{Doing, Result};
use crate::nftables::{
    Batch, Comparison, Expression, Family, LinkRule, MetaKey, Register, Table, Verdict,
};
use crate::subnet::Subnet;

/// The table of iptables-nft.
const FILTER: Table = Table {
    family: Family::Ipv4,
    name: "filter",
};

/// The chain that Docker leaves to others.
const CHAIN: &str = "DOCKER-USER";

/// How Docker's own bridges are named: the default one, and those of networks.
const DOCKERS_BRIDGES: [&[u8]; 2] = [b"docker0\0", b"br-"];

/// Whether it is a change to Docker's chain that has been told.
pub(crate) fn is_dockers(family: u8, table: &str, chain: Option<&str>) -> bool {
    family == FILTER.family as u8 && table == FILTER.name && chain == Some(CHAIN)
}

impl Firewall {
    /// Makes our rules in Docker's chain, if that is there; whether any were missing.
    pub(crate) fn pass_docker(&mut self, config: &NetworkConfig) -> Result<bool> {
        let wanted = wanted(config);
        let rules = self.dockers_rules()?;
        let head: Vec<_> = rules.iter().take(wanted.len()).collect();
        let is_right = |wanted: &LinkRule, rule: &(u64, Option<LinkRule>)| {
            rule.1.as_ref().is_some_and(|rule| rule == wanted)
        };
        let is_there = head.len() == wanted.len()
            && wanted
                .iter()
                .zip(head)
                .all(|(one, rule)| is_right(one, rule));
        if is_there || !self.has_dockers_chain()? {
            return Ok(false);
        }
        let mut batch = Batch::default();
        remove_ours(&mut batch, &wanted, &rules);
        // Each is put before the last.
        for rule in wanted.iter().rev() {
            batch.insert_rule(FILTER, CHAIN, &expressions(rule));
        }
        match self.socket.commit(&batch) {
            // Docker, or somebody else, was faster. That will be told, too.
            Err(error) if error.errno == Errno::ENOENT => Ok(false),
            outcome => outcome
                .map(|()| true)
                .doing(|| format!("let the traffic of tasks pass in {CHAIN}")),
        }
    }

    /// Removes our rules from Docker's chain.
    pub(crate) fn leave_docker(&mut self, config: &NetworkConfig) -> Result<()> {
        let rules = self.dockers_rules()?;
        let mut batch = Batch::default();
        remove_ours(&mut batch, &wanted(config), &rules);
        match self.socket.commit(&batch) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            outcome => outcome.doing(|| format!("remove our rules from {CHAIN}")),
        }
    }

    /// The handles of the chain's rules, and which they are if they have the form of ours.
    fn dockers_rules(&mut self) -> Result<Vec<(u64, Option<LinkRule>)>> {
        match self.socket.link_rules(FILTER, CHAIN) {
            Err(error) if error.errno == Errno::ENOENT => Ok(Vec::new()),
            outcome => outcome.doing(|| format!("list the rules of {CHAIN}")),
        }
    }

    fn has_dockers_chain(&mut self) -> Result<bool> {
        let chains = self.socket.chains(FILTER);
        let chains = chains.doing(|| "list the chains of iptables".into())?;
        Ok(chains.iter().any(|chain| chain == CHAIN))
    }
}

/// Where tasks' packets come from, and go to: bridges, and the links of routed tasks, by the beginning of their names.
/// Both, whatever the subnets' modes: those may have changed while tasks run.
fn links(config: &NetworkConfig) -> Vec<Vec<u8>> {
    let bridges = config.subnets.iter().map(Subnet::bridge);
    let bridges = bridges.map(|name| format!("{name}\0").into_bytes());
    let routed = HOST_LINK_PREFIX.as_bytes().to_vec();
    bridges.chain([routed]).collect()
}

/// The rules, in their order.
fn wanted(config: &NetworkConfig) -> Vec<LinkRule> {
    let mut rules = Vec::new();
    for link in links(config) {
        let ours = Some(link);
        for dockers in DOCKERS_BRIDGES {
            rules.push(LinkRule {
                from: ours.clone(),
                to: Some(dockers.to_vec()),
                verdict: Verdict::Return,
            });
        }
        rules.push(LinkRule {
            from: ours.clone(),
            to: None,
            verdict: Verdict::Accept,
        });
        rules.push(LinkRule {
            from: None,
            to: ours,
            verdict: Verdict::Accept,
        });
    }
    rules
}

fn remove_ours(batch: &mut Batch, wanted: &[LinkRule], rules: &[(u64, Option<LinkRule>)]) {
    for (handle, rule) in rules {
        if rule.as_ref().is_some_and(|rule| wanted.contains(rule)) {
            batch.delete_rule(FILTER, CHAIN, *handle);
        }
    }
}

fn expressions(rule: &LinkRule) -> Vec<Expression> {
    let name_is = |key, name: &Option<Vec<u8>>| {
        let compare = |name: &Vec<u8>| {
            let compare = Expression::Compare {
                register: Register::FIRST,
                comparison: Comparison::Equal,
                value: name.clone(),
            };
            let into = Register::FIRST;
            [Expression::Meta { key, into }, compare]
        };
        name.iter().flat_map(compare).collect::<Vec<_>>()
    };
    [
        name_is(MetaKey::InputName, &rule.from),
        name_is(MetaKey::OutputName, &rule.to),
        vec![
            Expression::Counter,
            Expression::Verdict(rule.verdict.clone()),
        ],
    ]
    .concat()
}
