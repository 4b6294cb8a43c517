//! The file's form: EC2's members, and nothing else.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{InvalidVpc, Vpc, check_within};
use crate::error::InvalidName;
use crate::security_group::{Peer, Rule, SecurityGroup, SecurityGroupId};
use crate::subnet::{AttachmentMode, Subnet};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    vpc: Option<VpcMember>,
    subnets: Option<Vec<SubnetMember>>,
    security_groups: Option<Vec<GroupMember>>,
    #[serde(rename = "PublicIpv4Pool", default)]
    public_addresses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct VpcMember {
    cidr_block: Ipv4Net,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SubnetMember {
    subnet_id: String,
    cidr_block: Ipv4Net,
    ipv6_cidr_block: Option<Ipv6Net>,
    /// Ours: EC2 has no bridges.
    bridge: Option<String>,
    /// Ours too.
    attachment_mode: Option<AttachmentMode>,
}

/// What describe-security-groups says beside the rules is accepted, and means nothing here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GroupMember {
    group_id: SecurityGroupId,
    #[serde(default)]
    ip_permissions: Vec<Permission>,
    ip_permissions_egress: Option<Vec<Permission>>,
    #[serde(rename = "GroupName")]
    _name: Option<String>,
    #[serde(rename = "Description")]
    _description: Option<String>,
    #[serde(rename = "OwnerId")]
    _owner: Option<String>,
    #[serde(rename = "VpcId")]
    _vpc: Option<String>,
    #[serde(rename = "SecurityGroupArn")]
    _arn: Option<String>,
    #[serde(rename = "Tags")]
    _tags: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Permission {
    ip_protocol: String,
    from_port: Option<i64>,
    to_port: Option<i64>,
    #[serde(default)]
    ip_ranges: Vec<Range>,
    #[serde(default)]
    ipv6_ranges: Vec<Ipv6Range>,
    #[serde(default)]
    user_id_group_pairs: Vec<GroupPair>,
    #[serde(default)]
    prefix_list_ids: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Range {
    cidr_ip: String,
    #[serde(rename = "Description")]
    _description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Ipv6Range {
    cidr_ipv6: String,
    #[serde(rename = "Description")]
    _description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GroupPair {
    group_id: SecurityGroupId,
    #[serde(rename = "Description")]
    _description: Option<String>,
    #[serde(rename = "UserId")]
    _user: Option<String>,
}

pub(super) fn parse(json: &[u8]) -> Result<Vpc, InvalidVpc> {
    let document: Document = serde_json::from_slice(json)?;
    let default = Vpc::default();
    let range = document.vpc.map(|vpc| vpc.cidr_block);
    let subnets = match document.subnets {
        Some(members) => subnets(members, range)?,
        None => default.subnets,
    };
    let mut security_groups = Vec::new();
    for (index, member) in document.security_groups.into_iter().flatten().enumerate() {
        security_groups.push(group(member, &format!("SecurityGroups[{index}]"))?);
    }
    let own = SecurityGroupId::default_group();
    if security_groups.iter().all(|group| *group.id() != own) {
        security_groups.extend(default.security_groups);
    }
    let public = document.public_addresses.into_iter().enumerate();
    let public = public.map(|(index, text)| {
        public_range(text, &subnets).map_err(|error| {
            InvalidVpc::member(format!("PublicIpv4Pool[{index}]"), error.to_string())
        })
    });
    let public_addresses = public.collect::<Result<Vec<Ipv4Net>, _>>()?;
    for (index, range) in public_addresses.iter().enumerate() {
        let before = public_addresses.get(..index).unwrap_or_default();
        let overlaps = |other: &&Ipv4Net| other.contains(range) || range.contains(*other);
        if let Some(other) = before.iter().find(overlaps) {
            let problem = format!("{range} overlaps {other}, which is before it");
            let member = format!("PublicIpv4Pool[{index}]");
            return Err(InvalidVpc::member(member, problem));
        }
    }
    Ok(Vpc {
        public_addresses,
        subnets,
        security_groups,
    })
}

fn subnets(members: Vec<SubnetMember>, vpc: Option<Ipv4Net>) -> Result<Vec<Subnet>, InvalidVpc> {
    if members.is_empty() {
        let problem = "it is empty; without it, there is the default subnet";
        return Err(InvalidVpc::member("Subnets", problem));
    }
    let subnet = |(index, member): (usize, SubnetMember)| {
        let made = || -> Result<Subnet, InvalidName> {
            let bridge = member
                .bridge
                .clone()
                .unwrap_or_else(|| format!("berth{index}"));
            check_within(member.cidr_block, vpc)?;
            let subnet = Subnet::new(member.subnet_id.parse()?, member.cidr_block, &bridge)?;
            let subnet = subnet.with_mode(member.attachment_mode.unwrap_or_default());
            match member.ipv6_cidr_block {
                Some(cidr) => subnet.with_ipv6(cidr),
                None => Ok(subnet),
            }
        };
        made().map_err(|error| InvalidVpc::member(format!("Subnets[{index}]"), error.to_string()))
    };
    members.into_iter().enumerate().map(subnet).collect()
}

/// An address, or a range of them, that no subnet has.
fn public_range(text: String, subnets: &[Subnet]) -> Result<Ipv4Net, InvalidName> {
    let address = text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    let range: Option<Ipv4Net> = text.parse().ok().or(address);
    let wrong = |text, expected| InvalidName {
        what: "range of public addresses",
        text,
        expected,
    };
    let Some(range) = range.filter(|range| *range == range.trunc()) else {
        let expected = "an address, or a network without host bits, such as 192.0.2.8/29";
        return Err(wrong(text, expected.to_owned()));
    };
    let overlaps = |subnet: &&Subnet| {
        let own = subnet.cidr();
        own.contains(&range) || range.contains(&own)
    };
    match subnets.iter().find(overlaps) {
        Some(subnet) => {
            let expected = format!("one outside {} ({})", subnet.id(), subnet.cidr());
            Err(wrong(text, expected))
        }
        None => Ok(range),
    }
}

fn group(member: GroupMember, path: &str) -> Result<SecurityGroup, InvalidVpc> {
    let ingress = rules(member.ip_permissions, &format!("{path}.IpPermissions"))?;
    let egress = match member.ip_permissions_egress {
        Some(permissions) => rules(permissions, &format!("{path}.IpPermissionsEgress"))?,
        // As EC2 makes a group.
        None => SecurityGroup::default_group().egress().to_vec(),
    };
    Ok(SecurityGroup::new(member.group_id, ingress, egress))
}

fn rules(permissions: Vec<Permission>, path: &str) -> Result<Vec<Rule>, InvalidVpc> {
    let mut rules = Vec::new();
    for (index, permission) in permissions.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let wrong = |error: InvalidName| InvalidVpc::member(&path, error.to_string());
        if !permission.prefix_list_ids.is_empty() {
            let problem = "prefix lists are not supported; write their ranges as IpRanges";
            return Err(InvalidVpc::member(path, problem));
        }
        let protocol = permission.ip_protocol.parse().map_err(wrong)?;
        let (from, to) = (permission.from_port, permission.to_port);
        let before = rules.len();
        for peer in peers(permission) {
            let peer = peer.map_err(wrong)?;
            rules.push(Rule::new(protocol, from, to, peer).map_err(wrong)?);
        }
        if rules.len() == before {
            let problem = "it has no other end; expected IpRanges, Ipv6Ranges or UserIdGroupPairs";
            return Err(InvalidVpc::member(path, problem));
        }
    }
    Ok(rules)
}

fn peers(permission: Permission) -> impl Iterator<Item = Result<Peer, InvalidName>> {
    let ipv4 = permission.ip_ranges.into_iter().map(|range| range.cidr_ip);
    let ipv6 = permission
        .ipv6_ranges
        .into_iter()
        .map(|range| range.cidr_ipv6);
    let groups = permission.user_id_group_pairs.into_iter();
    let is_ipv4 = |net: &IpNet| matches!(net, IpNet::V4(_));
    ipv4.map(move |text| range(text, is_ipv4))
        .chain(ipv6.map(move |text| range(text, |net| !is_ipv4(net))))
        .chain(groups.map(|pair| Ok(Peer::Group(pair.group_id))))
}

fn range(text: String, is_of_family: impl Fn(&IpNet) -> bool) -> Result<Peer, InvalidName> {
    let net: Option<IpNet> = text.parse().ok();
    match net.filter(|net| *net == net.trunc() && is_of_family(net)) {
        Some(net) => Ok(Peer::Range(net)),
        None => Err(InvalidName {
            what: "range of addresses",
            text,
            expected: "a network without host bits, such as 10.0.0.0/8 or 2001:db8::/32".into(),
        }),
    }
}
