//! Where containers go under the network mode `bridge`: each has an interface of its own, in a subnet and a security
//! group that are there for this alone.
//!
//! The subnet isn't one of the VPC's, so that containers take no addresses from tasks with `awsvpc`. Its links are
//! routed: there is no limit to them but that of the addresses, and containers reach each other by the host's ports
//! also where frames on bridges pass iptables, as Docker and Kubernetes have it.
//! The group is as open as Docker's bridge: its members reach each other and everything outside, and from elsewhere
//! only what is published is reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use berth_netns::{
    AttachmentMode, Error, InvalidName, Network, NetworkConfig, Peer, Rule, SecurityGroup,
    SecurityGroupId, Subnet, SubnetId,
};
use ipnet::{Ipv4Net, Ipv6Net};

/// The security group of these containers.
pub const GROUP: &str = "sg-00000000000000000";

/// Their subnet.
const SUBNET: &str = "subnet-00000000000000000";

/// Its bridge, which has no ports.
const BRIDGE: &str = "berth-bridge";

/// Its ranges, beside those of the default VPC.
const CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 231, 240, 0), 20);
const IPV6_CIDR: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd62, 0x6572, 0x7468, 0xf0, 0, 0, 0, 0), 64);

/// Adds both, unless the network's file defines them: who wants another range or other rules writes them there. In a
/// VPC that has the range itself there is no such subnet.
pub fn add(config: &mut NetworkConfig) -> Result<(), InvalidName> {
    let id: SecurityGroupId = GROUP.parse()?;
    if config.security_groups.iter().all(|group| *group.id() != id) {
        let ingress = vec![Rule::everything(Peer::Group(id.clone()))];
        let egress = SecurityGroup::default_group().egress().to_vec();
        config
            .security_groups
            .push(SecurityGroup::new(id, ingress, egress));
    }
    let subnet = Subnet::new(SUBNET.parse()?, CIDR, BRIDGE)?
        .with_ipv6(IPV6_CIDR)?
        .with_mode(AttachmentMode::Routed);
    if config.subnets.iter().all(|other| !collide(other, &subnet)) {
        config.subnets.push(subnet);
    }
    Ok(())
}

/// Opens the network; where only the subnet of these containers is in the way of the host's own, without that.
pub fn open(mut config: NetworkConfig) -> berth_netns::Result<Network> {
    let is_built_in = |subnet: &Subnet| subnet.id().as_str() == SUBNET && subnet.cidr() == CIDR;
    match Network::open(config.clone()) {
        Err(Error::Overlap {
            subnet,
            other,
            link,
            ..
        }) if subnet.as_str() == SUBNET && config.subnets.iter().any(is_built_in) => {
            tracing::warn!(
                "the host has {other} on {link}, so containers with network mode bridge get addresses of the first \
                 subnet; give {SUBNET} another range in the network's file"
            );
            config.subnets.retain(|subnet| !is_built_in(subnet));
            Network::open(config)
        }
        outcome => outcome,
    }
}

fn collide(one: &Subnet, other: &Subnet) -> bool {
    let (a, b) = (one.cidr(), other.cidr());
    let same_ipv6 = one.ipv6_cidr().is_some() && one.ipv6_cidr() == other.ipv6_cidr();
    let same_name = one.id() == other.id() || one.bridge() == other.bridge();
    same_ipv6 || same_name || a.contains(&b) || b.contains(&a)
}

/// The subnet of these containers; where there is none for them alone, the VPC's first.
pub fn subnet(network: &Network) -> Option<&Subnet> {
    let id: Option<SubnetId> = SUBNET.parse().ok();
    let own = id.and_then(|id| network.subnet(&id));
    own.or(network.subnets().first())
}

#[cfg(test)]
mod tests {
    use berth_netns::Vpc;

    use super::*;

    fn config(network: &str) -> NetworkConfig {
        let vpc = Vpc::parse(network.as_bytes()).unwrap();
        let mut config = NetworkConfig::of_vpc(&vpc, "/state", "/run");
        add(&mut config).unwrap();
        config
    }

    #[test]
    fn what_the_networks_file_says_of_them_stands() {
        let default = config("{}");
        assert_eq!(default.subnets.last().unwrap().cidr(), CIDR);
        assert_eq!(default.security_groups.len(), 2);
        let subnet = |id: &str, range: &str| {
            format!(r#"{{"Subnets": [{{"SubnetId": "{id}", "CidrBlock": "{range}"}}]}}"#)
        };
        let own = config(&subnet(SUBNET, "10.9.0.0/24"));
        assert_eq!(own.subnets.len(), 1);
        let overlapping = config(&subnet("subnet-00000000000000009", "10.231.0.0/16"));
        assert_eq!(overlapping.subnets.len(), 1);
        let closed = format!(
            r#"{{"SecurityGroups": [{{"GroupId": "{GROUP}", "IpPermissionsEgress": []}}]}}"#
        );
        let groups = config(&closed).security_groups;
        assert!(
            groups
                .iter()
                .any(|group| group.id().as_str() == GROUP && group.egress().is_empty())
        );
        assert_eq!(groups.len(), 2);
    }
}
