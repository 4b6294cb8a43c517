//! nftables, spoken straight to the kernel: the encoding of tables, chains, sets and rules, and the
//! socket that carries them.
//!
//! There is no library for it here: rustables is GPL, nftnl is C, and the `nft` command takes longer
//! to start than a whole interface takes to attach. What we need of the protocol is small: a fixed
//! skeleton written once, and after that elements that come and go.
//!
//! All integers of this protocol are big-endian, except those inside keys and values, which are as
//! the packet (or, for marks and states, as the processor) has them.
#![forbid(unsafe_code)]

mod attributes;
mod batch;
mod expression;
mod link_rule;
mod listing;
mod notices;
mod socket;
mod table;

pub(crate) use attributes::Writer;
pub(crate) use batch::{Batch, Chain, Element, Field, Hook, Set};
pub(crate) use expression::{
    Base, Comparison, Expression, MetaKey, Register, Verdict, expression_list,
};
pub(crate) use link_rule::LinkRule;
pub(crate) use listing::{ListedExpression, ListedRule, Place, Ruleset, Value, number, register};
pub use notices::Process;
pub(crate) use notices::{Notice, Notices};
pub(crate) use socket::{Generation, NftSocket, find};
pub(crate) use table::{TableKind, TableState};

/// The name of a chain or set.
pub(crate) type Name = std::borrow::Cow<'static, str>;

/// A family of packets that a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// None in particular.
    Any = 0,
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4 alone.
    Ipv4 = 2,
    /// Frames on a bridge.
    Bridge = 7,
}

/// A table: all of ours have the same name, one in each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
}

impl std::fmt::Display for Table {
    /// As `nft` names it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            Family::Any => "any",
            Family::Inet => "inet",
            Family::Ipv4 => "ip",
            Family::Bridge => "bridge",
        };
        write!(out, "{family} {}", self.name)
    }
}
