//! Security groups: which tasks may open connections to which.
//!
//! There is one so far, the default one of the VPC, whose members reach one another and nobody else
//! reaches. In the firewall it is a set of addresses.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::eni::check_id;
use crate::error::{Error, InvalidName, Result};

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

/// The groups of an interface: the default one if it names none.
pub(crate) fn resolve(requested: &[SecurityGroupId]) -> Result<Vec<SecurityGroupId>> {
    let default = SecurityGroupId::default_group();
    if let Some(unknown) = requested.iter().find(|group| **group != default) {
        return Err(Error::UnknownSecurityGroup(unknown.clone()));
    }
    Ok(vec![default])
}
