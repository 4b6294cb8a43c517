//! A subnet of the VPC: a range of addresses, and the bridge that stands for it on the host.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::eni::{HOST_LINK_PREFIX, MacAddress, check_id};
use crate::error::InvalidName;

/// Tasks find their metadata here, in every subnet.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);

/// The instance metadata service of EC2. There is none here, and no task may reach the host's.
pub const INSTANCE_METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The same of IPv6.
pub const INSTANCE_METADATA_IPV6_ADDRESS: Ipv6Addr =
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

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

/// How a task's link is joined to its subnet. To the task both are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachmentMode {
    /// As a port of the subnet's bridge, of which it has at most 1,023.
    #[default]
    Bridged,
    /// By a route to each of the task's addresses: as many as there are addresses, each as fast as the first.
    Routed,
}

/// A subnet: addresses and a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    id: SubnetId,
    cidr: Ipv4Net,
    ipv6_cidr: Option<Ipv6Net>,
    bridge: String,
    mode: AttachmentMode,
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
            ipv6_cidr: None,
            bridge: bridge.to_owned(),
            mode: AttachmentMode::default(),
        })
    }

    /// The same with a range of IPv6: a /64, as in a VPC.
    pub fn with_ipv6(self, cidr: Ipv6Net) -> Result<Self, InvalidName> {
        let address = cidr.network();
        let is_unicast = !address.is_multicast() && !address.is_loopback();
        let is_usable = is_unicast && !address.is_unicast_link_local();
        if cidr.prefix_len() != 64 || cidr.trunc() != cidr || !is_usable {
            return Err(InvalidName {
                what: "subnet range",
                text: cidr.to_string(),
                expected:
                    "a /64 of unicast addresses without host bits, such as fd12:3456:789a:1::/64"
                        .into(),
            });
        }
        Ok(Self {
            ipv6_cidr: Some(cidr),
            ..self
        })
    }

    /// The same without IPv6, for a host that has none.
    pub(crate) fn without_ipv6(self) -> Self {
        Self {
            ipv6_cidr: None,
            ..self
        }
    }

    /// The same with its tasks joined to it in this way.
    pub fn with_mode(self, mode: AttachmentMode) -> Self {
        Self { mode, ..self }
    }

    /// The first of those that exist without any configuration: `subnet-00000000000000001`, `10.231.0.0/24` and
    /// `fd62:6572:7468::/64` on the bridge `berth0`.
    pub fn default_subnet() -> Self {
        Self::default_number(0)
    }

    /// Those that exist without any configuration. Their ranges are private and in nobody's defaults: Docker
    /// takes 172.17.0.0/16 and up, Podman 10.88.0.0/16, libvirt 192.168.122.0/24, Kubernetes 10.244.0.0/16 and
    /// 10.96.0.0/12, LXD 10.x.y.0/24 at random after looking.
    pub fn defaults() -> [Self; 3] {
        [0, 1, 2].map(Self::default_number)
    }

    fn default_number(number: u8) -> Self {
        let prefix = Ipv6Addr::new(0xfd62, 0x6572, 0x7468, number.into(), 0, 0, 0, 0);
        Self {
            id: SubnetId(format!("subnet-{:017x}", u32::from(number) + 1)),
            cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 231, number, 0), 24),
            ipv6_cidr: Some(Ipv6Net::new_assert(prefix, 64)),
            bridge: format!("berth{number}"),
            mode: AttachmentMode::default(),
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

    /// Its range of IPv6 addresses, if it has one.
    pub fn ipv6_cidr(&self) -> Option<Ipv6Net> {
        self.ipv6_cidr
    }

    /// How its tasks are joined to it.
    pub fn mode(&self) -> AttachmentMode {
        self.mode
    }

    /// Its ranges, of both families.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = IpNet> {
        let ipv6 = self.ipv6_cidr.map(IpNet::V6);
        [IpNet::V4(self.cidr)].into_iter().chain(ipv6)
    }

    /// Whether an address is one that it has for tasks: not the router's, nor another that is taken.
    pub(crate) fn is_for_tasks(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.task_index(address).is_some(),
            IpAddr::V6(address) => {
                let last = self.capacity().saturating_sub(1);
                let [first, last] = [0, last].map(|index| self.ipv6_of(self.task_address(index)?));
                first
                    .zip(last)
                    .is_some_and(|(first, last)| (first..=last).contains(&address))
            }
        }
    }

    /// The name of its bridge on the host.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The address of the subnet's router: the first after the network's own.
    pub fn router(&self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The router's address of IPv6, the first too.
    pub fn ipv6_router(&self) -> Option<Ipv6Addr> {
        self.ipv6_nth(1)
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

    /// The IPv6 address of the task that has this IPv4 address: as far from the beginning of its range. So
    /// there is one thing to reserve for both.
    pub(crate) fn ipv6_of(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let offset = u32::from(address).checked_sub(u32::from(self.cidr.network()))?;
        self.ipv6_nth(offset)
    }

    fn ipv6_nth(&self, offset: u32) -> Option<Ipv6Addr> {
        let network = u128::from(self.ipv6_cidr?.network());
        Some(Ipv6Addr::from(network | u128::from(offset)))
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
    fn ipv6_addresses_go_with_those_of_ipv4() {
        let subnet = subnet("10.9.0.0/16").expect("valid");
        assert_eq!(subnet.ipv6_of(Ipv4Addr::new(10, 9, 2, 3)), None);
        let range = "fd00:1:2:3::/64".parse().expect("a network");
        let subnet = subnet.with_ipv6(range).expect("valid");
        let expected = "fd00:1:2:3::203".parse().ok();
        assert_eq!(subnet.ipv6_of(Ipv4Addr::new(10, 9, 2, 3)), expected);
        assert_eq!(subnet.ipv6_router(), "fd00:1:2:3::1".parse().ok());
        for (address, is_tasks) in [
            ("10.9.0.1", false),
            ("10.9.0.4", true),
            ("10.9.255.254", true),
            ("10.9.255.255", false),
            ("fd00:1:2:3::1", false),
            ("fd00:1:2:3::4", true),
            ("fd00:1:2:3::fffe", true),
            ("fd00:1:2:3::ffff", false),
            ("fd00:1:2:4::4", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(subnet.is_for_tasks(parsed), is_tasks, "{address}");
        }
        for wrong in ["fd00::/48", "fd00::1/64", "fe80::/64", "ff02::/64"] {
            let subnet = subnet.clone();
            let outcome = subnet.with_ipv6(wrong.parse().expect("a network"));
            assert!(outcome.is_err(), "{wrong}");
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
