//! A subnet of the VPC: a range of addresses, and the bridge that stands for it on the host.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::eni::{HOST_LINK_PREFIX, MacAddress, check_id};
use crate::error::InvalidName;

/// Tasks find their metadata here, in every subnet.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);

/// The instance metadata service of EC2. There is none here, and no task may reach the host's.
pub const INSTANCE_METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The first address that a task may have, counted from the subnet's own: as in a VPC, the network's
/// address, the router, the resolver and one more are taken.
const FIRST_FREE: u32 = 4;

/// The id of a subnet: `subnet-` and seventeen hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubnetId(String);

impl SubnetId {
    /// The id as ECS writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SubnetId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        check_id(text, "subnet-", "subnet id")?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SubnetId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<SubnetId> for String {
    fn from(id: SubnetId) -> Self {
        id.0
    }
}

impl fmt::Display for SubnetId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A subnet: addresses and a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    id: SubnetId,
    cidr: Ipv4Net,
    bridge: String,
}

impl Subnet {
    /// A subnet with a range between a /16 and a /28, the sizes that a VPC allows, and the name that
    /// its bridge has on the host.
    pub fn new(id: SubnetId, cidr: Ipv4Net, bridge: &str) -> Result<Self, InvalidName> {
        if !(16..=28).contains(&cidr.prefix_len()) || cidr.trunc() != cidr {
            return Err(InvalidName {
                what: "subnet range",
                text: cidr.to_string(),
                expected: "a network of /16 to /28 without host bits".into(),
            });
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let well_formed = (1..=15).contains(&bridge.len()) && bridge.bytes().all(allowed);
        if !well_formed || bridge.starts_with('.') || bridge.starts_with(HOST_LINK_PREFIX) {
            return Err(InvalidName {
                what: "bridge name",
                text: bridge.to_owned(),
                expected:
                    "1 to 15 letters, digits, '-', '_' and '.', not beginning with '.' or 'eni-'"
                        .into(),
            });
        }
        Ok(Self {
            id,
            cidr,
            bridge: bridge.to_owned(),
        })
    }

    /// The subnet that exists without any configuration: `subnet-00000000000000001`, `10.231.0.0/24`
    /// on the bridge `berth0`. The range is private and in nobody's defaults: Docker takes
    /// 172.17.0.0/16 and up, Podman 10.88.0.0/16, libvirt 192.168.122.0/24, Kubernetes 10.244.0.0/16
    /// and 10.96.0.0/12, LXD 10.x.y.0/24 at random after looking.
    pub fn default_subnet() -> Self {
        let cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 231, 0, 0), 24);
        Self {
            id: SubnetId("subnet-00000000000000001".into()),
            cidr,
            bridge: "berth0".into(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &SubnetId {
        &self.id
    }

    /// Its range of addresses.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// The name of its bridge on the host.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The address of the subnet's router: the first after the network's own.
    pub fn router(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The address of the subnet's resolver: the second.
    pub fn resolver(&self) -> Ipv4Addr {
        self.nth(2)
    }

    /// The MAC address of the bridge. It is fixed: a bridge that takes its ports' addresses changes
    /// it as they come and go, and tasks hold it as a permanent neighbour.
    pub fn router_mac(&self) -> MacAddress {
        MacAddress::derived(0x06, self.id.as_str())
    }

    /// How many tasks it has addresses for.
    pub fn capacity(&self) -> usize {
        let size = 1usize << (32 - self.cidr.prefix_len());
        size - FIRST_FREE as usize - 1
    }

    /// The address of a task, counted from zero, if the subnet has that many.
    pub(crate) fn task_address(&self, index: usize) -> Option<Ipv4Addr> {
        if index >= self.capacity() {
            return None;
        }
        Some(self.nth(FIRST_FREE + u32::try_from(index).ok()?))
    }

    /// Which of the tasks' addresses this is: the inverse of [`Subnet::task_address`].
    pub(crate) fn task_index(&self, address: Ipv4Addr) -> Option<usize> {
        let offset = u32::from(address).checked_sub(u32::from(self.cidr.network()))?;
        let index = usize::try_from(offset.checked_sub(FIRST_FREE)?).ok()?;
        (index < self.capacity()).then_some(index)
    }

    fn nth(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(cidr: &str) -> Result<Subnet, InvalidName> {
        let id = "subnet-00000000000000002".parse().expect("valid");
        Subnet::new(id, cidr.parse().expect("a network"), "berth1")
    }

    #[test]
    fn the_reserved_addresses_are_those_of_a_vpc() {
        let subnet = Subnet::default_subnet();
        assert_eq!(subnet.router(), Ipv4Addr::new(10, 231, 0, 1));
        assert_eq!(subnet.resolver(), Ipv4Addr::new(10, 231, 0, 2));
        assert_eq!(subnet.task_address(0), Some(Ipv4Addr::new(10, 231, 0, 4)));
        assert_eq!(subnet.capacity(), 251);
        assert_eq!(
            subnet.task_address(250),
            Some(Ipv4Addr::new(10, 231, 0, 254))
        );
        assert_eq!(subnet.task_address(251), None);
    }

    #[test]
    fn index_and_address_are_inverse_and_reserved_addresses_have_no_index() {
        let subnet = subnet("10.9.8.0/28").expect("valid");
        for index in 0..subnet.capacity() {
            let address = subnet.task_address(index).expect("in range");
            assert_eq!(subnet.task_index(address), Some(index));
        }
        for address in ["10.9.8.0", "10.9.8.3", "10.9.8.15", "10.9.9.4", "9.9.9.9"] {
            assert_eq!(
                subnet.task_index(address.parse().expect("an address")),
                None,
                "{address}"
            );
        }
    }

    #[test]
    fn ranges_that_a_vpc_would_refuse_are_refused() {
        for cidr in ["10.0.0.0/15", "10.0.0.0/29", "10.0.0.1/24"] {
            assert!(subnet(cidr).is_err(), "{cidr}");
        }
    }

    #[test]
    fn a_bridge_can_not_have_the_name_of_a_port() {
        let id: SubnetId = "subnet-00000000000000002".parse().expect("valid");
        let cidr: Ipv4Net = "10.0.0.0/24".parse().expect("a network");
        for name in ["", "eni-1", "a/b", "sixteen-letters-", ".."] {
            assert!(Subnet::new(id.clone(), cidr, name).is_err(), "{name}");
        }
    }
}
