//! The VPC: its subnets and its security groups, as a file defines them.
//!
//! The file is JSON in the words of EC2, so that the output of `aws ec2 describe-security-groups` can be pasted
//! into it; `docs/network.md` shows one. What it doesn't say is as in the default VPC.
#![forbid(unsafe_code)]

mod document;

use std::io;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::error::InvalidName;
use crate::security_group::{SecurityGroup, SecurityGroupId};
use crate::subnet::Subnet;

/// A file that defines no VPC.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidVpc {
    /// The file can't be read.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
    /// It isn't the JSON that was expected.
    #[error("{0}")]
    Parse(#[from] serde_json::Error),
    /// A member has a value that it can't have.
    #[error("{member}: {problem}")]
    Member {
        /// Which, as a path.
        member: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

impl InvalidVpc {
    fn member(member: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Member {
            member: member.into(),
            problem: problem.into(),
        }
    }
}

/// What a VPC consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vpc {
    subnets: Vec<Subnet>,
    security_groups: Vec<SecurityGroup>,
    public_addresses: Vec<Ipv4Net>,
}

impl Default for Vpc {
    /// The default VPC: three subnets, and the default security group.
    fn default() -> Self {
        Self {
            subnets: Subnet::defaults().into(),
            security_groups: vec![SecurityGroup::default_group()],
            public_addresses: Vec::new(),
        }
    }
}

impl Vpc {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, InvalidVpc> {
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads a definition.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidVpc> {
        let vpc = document::parse(json)?;
        vpc.check_groups()?;
        Ok(vpc)
    }

    /// Its subnets, at least one. That they don't overlap is for [`Network::open`](crate::Network::open) to say.
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// Its security groups; the default one is among them.
    pub fn security_groups(&self) -> &[SecurityGroup] {
        &self.security_groups
    }

    /// The addresses that tasks can have as their own outside; none by default.
    pub fn public_addresses(&self) -> &[Ipv4Net] {
        &self.public_addresses
    }

    fn check_groups(&self) -> Result<(), InvalidVpc> {
        for (index, group) in self.security_groups.iter().enumerate() {
            let member = |rest: &str| format!("SecurityGroups[{index}]{rest}");
            let before = self.security_groups.get(..index).unwrap_or_default();
            if before.iter().any(|other| other.id() == group.id()) {
                let problem = format!("{} is the id of another group too", group.id());
                return Err(InvalidVpc::member(member(".GroupId"), problem));
            }
            if let Some(unknown) = group.named().find(|named| !self.has_group(named)) {
                let problem = format!("a rule names {unknown}, which is no group of this file");
                return Err(InvalidVpc::member(member(""), problem));
            }
        }
        Ok(())
    }

    fn has_group(&self, id: &SecurityGroupId) -> bool {
        self.security_groups.iter().any(|group| group.id() == id)
    }
}

/// Checks that a subnet lies in the VPC's range.
fn check_within(cidr: Ipv4Net, vpc: Option<Ipv4Net>) -> Result<(), InvalidName> {
    match vpc {
        Some(vpc) if !vpc.contains(&cidr) => Err(InvalidName {
            what: "subnet range",
            text: cidr.to_string(),
            expected: format!("a part of the VPC's, {vpc}"),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security_group::{Peer, Protocol};

    fn parse(json: &str) -> Result<Vpc, String> {
        Vpc::parse(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_definition_is_the_default_vpc() {
        assert_eq!(parse("{}"), Ok(Vpc::default()));
    }

    #[test]
    fn the_example_of_the_documentation_is_valid() {
        let page = include_str!("../../docs/network.md");
        let json = page
            .split("```json")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let vpc = parse(json.expect("an example")).expect("valid");
        let bridges: Vec<&str> = vpc.subnets().iter().map(Subnet::bridge).collect();
        assert_eq!(bridges, ["berth0", "berth1"]);
        let [web, database, default] = vpc.security_groups() else {
            panic!("three groups: {:?}", vpc.security_groups())
        };
        assert_eq!(*default, SecurityGroup::default_group());
        let [open] = web.ingress() else {
            panic!("one rule")
        };
        assert_eq!((open.protocol(), open.ports()), (Protocol::TCP, 443..=443));
        assert_eq!(database.ingress()[0].peer(), &Peer::Group(web.id().clone()));
        assert_eq!(database.egress(), []);
        assert_eq!(web.egress().len(), 2, "as EC2 makes it, for each family");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let group = |rest: &str| {
            format!(r#"{{"SecurityGroups": [{{"GroupId": "sg-00000000000000002", {rest}}}]}}"#)
        };
        let wrong = [
            (r#"{"Subnet": []}"#.to_owned(), "unknown field `Subnet`"),
            (r#"{"Subnets": []}"#.to_owned(), "Subnets: it is empty"),
            (
                r#"{"Subnets": [{"SubnetId": "subnet-1", "CidrBlock": "10.0.0.0/24"}]}"#.to_owned(),
                "Subnets[0]: \"subnet-1\" is not a valid subnet id",
            ),
            (
                r#"{"Vpc": {"CidrBlock": "10.1.0.0/16"},
                    "Subnets": [{"SubnetId": "subnet-00000000000000009", "CidrBlock": "10.0.0.0/24"}]}"#
                    .to_owned(),
                "Subnets[0]: \"10.0.0.0/24\" is not a valid subnet range: expected a part of the VPC's, 10.1.0.0/16",
            ),
            (
                group(r#""IpPermissions": [{"IpProtocol": "tcp", "FromPort": 90, "ToPort": 80, "IpRanges": []}]"#),
                "SecurityGroups[0].IpPermissions[0]: it has no other end",
            ),
            (
                group(
                    r#""IpPermissions": [{"IpProtocol": "tcp", "FromPort": 90, "ToPort": 80,
                        "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]"#,
                ),
                "SecurityGroups[0].IpPermissions[0]: \"fromPort 90 and toPort 80 of tcp\" is not a valid range",
            ),
            (
                group(
                    r#""IpPermissionsEgress": [{"IpProtocol": "-1",
                        "UserIdGroupPairs": [{"GroupId": "sg-00000000000000003"}]}]"#,
                ),
                "a rule names sg-00000000000000003, which is no group of this file",
            ),
            (
                group(
                    r#""IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.1/8"}]}]"#,
                ),
                "\"10.0.0.1/8\" is not a valid range of addresses",
            ),
            (
                r#"{"PublicIpv4Pool": ["192.0.2.1/29"]}"#.to_owned(),
                "PublicIpv4Pool[0]: \"192.0.2.1/29\" is not a valid range of public addresses",
            ),
            (
                r#"{"PublicIpv4Pool": ["10.231.0.0/29"]}"#.to_owned(),
                "PublicIpv4Pool[0]: \"10.231.0.0/29\" is not a valid range of public addresses: expected one outside \
                 subnet-00000000000000001 (10.231.0.0/24)",
            ),
            (
                group(r#""IpPermissions": [{"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": "pl-1"}]}]"#),
                "prefix lists",
            ),
        ];
        for (json, right) in wrong {
            let error = parse(&json).expect_err("refused");
            assert!(error.contains(right), "{json}: {error}");
        }
    }
}
