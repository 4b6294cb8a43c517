//! The rules of the firewall, as a list that reads like the policy it is.
//!
//! They are loaded once, all at once, and are the same for one task as for a thousand. A drop here is
//! final; an accept can't override a drop in another's table. Only packets that come from our bridges
//! and ports, or go to them, or to the addresses that the host has on them, are looked at.
#![forbid(unsafe_code)]

mod admission;
mod family;
mod rules;
mod sets;
mod words;

pub(crate) use admission::{admission, dispatch, members, nothing_more, octets};
pub(crate) use family::IpFamily;
use rules::rules;
use sets::sets;

use crate::hash;
use crate::nftables::{Batch, Chain, Family, Hook, Name, Table, TableKind};

/// The table that IP packets pass.
pub(crate) const INET_TABLE: Table = Table {
    family: Family::Inet,
    name: "berth",
};
/// The table that frames on bridges pass.
pub(crate) const BRIDGE_TABLE: Table = Table {
    family: Family::Bridge,
    name: "berth",
};

/// The bridges of the subnets, by name.
pub(crate) const BRIDGES: &str = "bridges";
// Of the sets of addresses there are two, one for each family: [`IpFamily::set`] has their names.
/// The addresses that the host has on them.
pub(crate) const HOST_ADDRESSES: &str = "host_addresses";
/// Those of them that are resolvers, of IPv4 only.
pub(crate) const RESOLVERS: &str = "resolvers";
/// The ranges of the subnets.
pub(crate) const SUBNETS: &str = "subnets";
/// The chains in which a new connection to an interface finds the rules of that one's security groups, and one
/// from it. They have a rule for each combination of groups ([`crate::policy`]).
pub(crate) const INGRESS: &str = "ingress";
pub(crate) const EGRESS: &str = "egress";
/// Where a connection goes on that the groups of its source let pass.
pub(crate) const ADMITTED: &str = "admitted";
/// Where connections to a protocol and port of the host go: to an address and port of a task.
pub(crate) const PUBLISHED: &str = "published";
/// Where connections to public addresses go: each to a task's.
pub(crate) const PUBLIC: &str = "public";
/// The ranges of public addresses.
pub(crate) const PUBLIC_POOL: &str = "public_pool";
/// The public addresses that tasks' addresses show outside.
pub(crate) const PUBLIC_SOURCES: &str = "public_sources";
/// Those tasks that connections to the host can lead to, each with itself: its own come back to it.
pub(crate) const HAIRPINS: &str = "hairpins";
/// From which MAC and IP address a port of a bridge may send.
pub(crate) const SOURCES: &str = "sources";
/// The same for a link that is no port of a bridge, but a task's own way to the host.
pub(crate) const PORT_SOURCES: &str = "port_sources";

/// The bit of a packet's mark that says that the firewall's rules have seen it: without it, nothing is routed to our
/// subnets or from them ([`crate::routing_policy`]). Other bits are left to others; Docker, Kubernetes, Tailscale
/// and WireGuard's wg-quick don't use this one.
pub(crate) const MARK: u32 = 1 << 27;

/// Both tables with their sets, chains and rules: all that never changes in them.
#[derive(Debug)]
pub(crate) struct Rules {
    contents: Batch,
    version: String,
}

impl Rules {
    pub(crate) fn new(metadata_port: u16) -> Self {
        let contents = contents(metadata_port);
        let hash = hash::of_parts(contents.payloads());
        Self {
            contents,
            version: format!("Berth's rules, {hash:016x}"),
        }
    }

    /// What the tables are recognised by: a hash of all they consist of.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// What makes all but the tables, message by message.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.contents.messages()
    }

    /// Writes both tables into a batch.
    pub(crate) fn write(&self, batch: &mut Batch, kind: TableKind) {
        self.write_tables(batch, kind);
        batch.append(&self.contents);
    }

    /// Writes the tables alone. Their comments say what is in them.
    pub(crate) fn write_tables(&self, batch: &mut Batch, kind: TableKind) {
        batch.add_table(INET_TABLE, &self.version, kind);
        batch.add_table(BRIDGE_TABLE, &self.version, kind);
    }
}

fn contents(metadata_port: u16) -> Batch {
    let mut batch = Batch::default();
    for (id, (table, set)) in (1..).zip(sets()) {
        batch.add_set(table, &set, id);
    }
    for (table, chain) in chains() {
        batch.add_chain(table, &chain);
    }
    for (table, chain, rule) in rules(metadata_port) {
        batch.add_rule(table, chain, &rule);
    }
    batch
}

fn chains() -> Vec<(Table, Chain)> {
    let base = |table, name, kind, hook, priority| {
        (
            table,
            Chain {
                name: Name::Borrowed(name),
                base: Some((kind, hook, priority)),
            },
        )
    };
    let inner = |table, name| {
        let name = Name::Borrowed(name);
        (table, Chain { name, base: None })
    };
    vec![
        base(INET_TABLE, "links", "filter", Hook::Prerouting, -300),
        base(INET_TABLE, "destinations", "nat", Hook::Prerouting, -100),
        base(
            INET_TABLE,
            "destinations_of_the_host",
            "nat",
            Hook::Output,
            -100,
        ),
        // Behind all who set marks and change destinations, at -150 and -100.
        base(INET_TABLE, "seen", "filter", Hook::Prerouting, 1000),
        base(INET_TABLE, "masquerade", "nat", Hook::Postrouting, 100),
        base(INET_TABLE, "input", "filter", Hook::Input, 0),
        base(INET_TABLE, "forward", "filter", Hook::Forward, 0),
        base(INET_TABLE, "output", "filter", Hook::Output, 0),
        inner(INET_TABLE, "link"),
        inner(INET_TABLE, "task_to_host"),
        inner(INET_TABLE, "from_task"),
        inner(INET_TABLE, "from_elsewhere"),
        inner(INET_TABLE, ADMITTED),
        inner(INET_TABLE, EGRESS),
        inner(INET_TABLE, INGRESS),
        base(BRIDGE_TABLE, "ports", "filter", Hook::Prerouting, -300),
        inner(BRIDGE_TABLE, "port"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::Expression;

    #[test]
    fn every_rule_is_in_a_chain_that_exists_and_ends_in_a_decision() {
        let chains = chains();
        for (table, chain, rule) in rules(51679) {
            assert!(
                chains
                    .iter()
                    .any(|(of, known)| *of == table && known.name == chain),
                "{chain}"
            );
            let last = rule.last().expect("a rule does something");
            assert!(
                matches!(
                    last,
                    Expression::Verdict(_)
                        | Expression::Masquerade
                        | Expression::DestinationNat { .. }
                        | Expression::SourceNat { .. }
                ),
                "{chain}: {last:?}"
            );
        }
    }

    #[test]
    fn the_version_follows_the_contents() {
        let [one, same, other] = [51679, 51679, 51680].map(Rules::new);
        assert_eq!(one.version(), same.version());
        assert_ne!(one.version(), other.version());
    }
}
