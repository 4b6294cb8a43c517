//! Security groups: who may open connections to the interfaces that are in them, and to whom those may.
//!
//! They are as EC2 has them: a group has nothing but rules that let something pass, an interface that is in
//! several lets pass what any of them does, and what belongs to a connection that was let pass once goes on
//! passing, both ways. How the firewall is told is in [`crate::policy`].
#![forbid(unsafe_code)]

mod rule;

pub use rule::{Peer, Protocol, Rule};

use std::fmt;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::eni::check_id;
use crate::error::InvalidName;

/// The id of a security group: `sg-` and seventeen hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecurityGroupId(String);

impl SecurityGroupId {
    /// The VPC's default security group, `sg-00000000000000001`.
    pub fn default_group() -> Self {
        Self("sg-00000000000000001".to_owned())
    }

    /// The id as ECS writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecurityGroupId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        check_id(text, "sg-", "security group id")?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SecurityGroupId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<SecurityGroupId> for String {
    fn from(id: SecurityGroupId) -> Self {
        id.0
    }
}

impl fmt::Display for SecurityGroupId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A security group: its rules, for new connections to the interfaces that are in it and for those from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroup {
    id: SecurityGroupId,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

impl SecurityGroup {
    /// A group with these rules.
    pub fn new(id: SecurityGroupId, ingress: Vec<Rule>, egress: Vec<Rule>) -> Self {
        Self {
            id,
            ingress,
            egress,
        }
    }

    /// The VPC's default group: its members reach one another and everything outside, and nobody else reaches
    /// them.
    pub fn default_group() -> Self {
        let id = SecurityGroupId::default_group();
        let itself = Rule::everything(Peer::Group(id.clone()));
        let anywhere = [Ipv4Net::default().into(), Ipv6Net::default().into()];
        let egress = anywhere.map(|range| Rule::everything(Peer::Range(range)));
        Self::new(id, vec![itself], egress.into())
    }

    /// Its id.
    pub fn id(&self) -> &SecurityGroupId {
        &self.id
    }

    /// What may come to its members.
    pub fn ingress(&self) -> &[Rule] {
        &self.ingress
    }

    /// What may go from its members.
    pub fn egress(&self) -> &[Rule] {
        &self.egress
    }

    /// The groups that its rules name.
    pub(crate) fn named(&self) -> impl Iterator<Item = &SecurityGroupId> {
        let rules = self.ingress.iter().chain(&self.egress);
        rules.filter_map(|rule| match rule.peer() {
            Peer::Group(group) => Some(group),
            Peer::Range(_) => None,
        })
    }
}
