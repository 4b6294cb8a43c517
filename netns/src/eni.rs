//! The elastic network interface: a task's own link, address and MAC, in the words of a VPC.
//!
//! Everything about an interface that the kernel needs to see follows from its id: the MAC address
//! and the name of its end on the host. A crash therefore never leaves a link that can't be traced
//! back to the interface it was made for.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::InvalidName;
use crate::published::PublishedPort;
use crate::security_group::SecurityGroupId;
use crate::subnet::{AttachmentMode, SubnetId};
use crate::subordinate_ids::IdRange;

/// How many hexadecimal digits a VPC's ids have after their prefix.
pub(crate) const ID_DIGITS: usize = 17;

/// Every link on the host that is a task's begins so. No other program's names do: the AWS VPC CNI
/// plugin's have no dash.
pub(crate) const HOST_LINK_PREFIX: &str = "eni-";

/// The id of a network interface: `eni-` and seventeen hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EniId(String);

impl EniId {
    /// An id that nobody has used, from the kernel's random numbers.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0u8; 9];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(format!(
            "{HOST_LINK_PREFIX}{}",
            last(&digits, ID_DIGITS)
        )))
    }

    /// The id as ECS writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The MAC address: locally administered, and the id's last ten digits.
    pub fn mac(&self) -> MacAddress {
        MacAddress::derived(0x02, &self.0)
    }

    /// The name of the link's end on the host. A link's name has at most fifteen characters, so it
    /// keeps the last eleven digits.
    pub fn host_link(&self) -> String {
        format!("{HOST_LINK_PREFIX}{}", last(&self.0, 11))
    }
}

impl FromStr for EniId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        check_id(text, HOST_LINK_PREFIX, "network interface id")?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for EniId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<EniId> for String {
    fn from(id: EniId) -> Self {
        id.0
    }
}

impl fmt::Display for EniId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Checks that a text is a prefix and [`ID_DIGITS`] lowercase hexadecimal digits.
pub(crate) fn check_id(text: &str, prefix: &str, what: &'static str) -> Result<(), InvalidName> {
    let digits = text.strip_prefix(prefix).unwrap_or_default();
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() == ID_DIGITS && digits.bytes().all(hexadecimal) {
        return Ok(());
    }
    Err(InvalidName {
        what,
        text: text.to_owned(),
        expected: format!("{prefix} and {ID_DIGITS} lowercase hexadecimal digits"),
    })
}

fn last(text: &str, count: usize) -> &str {
    text.get(text.len().saturating_sub(count)..).unwrap_or(text)
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// A first byte and the last ten hexadecimal digits of an id.
    pub(crate) fn derived(first: u8, id: &str) -> Self {
        let mut bytes = [first, 0, 0, 0, 0, 0];
        let digits = last(id, 10);
        for (byte, at) in bytes.iter_mut().skip(1).zip((0..).step_by(2)) {
            let pair = digits.get(at..at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        Self(bytes)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The name of a network namespace under `<run_dir>/netns`: usually the task's id.
///
/// It becomes a file name, so it is made of letters, digits, `-`, `_` and `.`, does not begin with a
/// dot, and has at most 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsName(String);

impl NetnsName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let right_length = (1..=128).contains(&text.len());
        if right_length && !text.starts_with('.') && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidName {
            what: "network namespace name",
            text: text.to_owned(),
            expected: "1 to 128 letters, digits, '-', '_' and '.', not beginning with '.'".into(),
        })
    }
}

impl TryFrom<String> for NetnsName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<NetnsName> for String {
    fn from(name: NetnsName) -> Self {
        name.0
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A task's network interface, as it is allocated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eni {
    /// The interface's id.
    pub id: EniId,
    /// Its private IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if the subnet has a range of them.
    #[serde(default)]
    pub ipv6_address: Option<Ipv6Addr>,
    /// The address that is its own outside, if it was assigned one.
    #[serde(default)]
    pub public_address: Option<Ipv4Addr>,
    /// The subnet that the addresses are from.
    pub subnet: SubnetId,
    /// How it is joined to the subnet: as that was when it was attached.
    #[serde(default)]
    pub mode: AttachmentMode,
    /// The security groups that it is a member of.
    pub security_groups: Vec<SecurityGroupId>,
    /// The network namespace that holds it.
    pub netns: NetnsName,
    /// The ids of the user namespace that owns that; of a namespace that was given, and of the host's, none is known.
    #[serde(default)]
    pub id_range: Option<IdRange>,
    /// The ports of the host's that lead to it.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
}

impl Eni {
    /// Its MAC address.
    pub fn mac(&self) -> MacAddress {
        self.id.mac()
    }

    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv6 = self.ipv6_address.map(IpAddr::V6);
        [IpAddr::V4(self.address)].into_iter().chain(ipv6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_the_mac_and_a_link_name_that_fits() {
        let id: EniId = "eni-0123456789abcdef0".parse().expect("valid");
        assert_eq!(id.mac().to_string(), "02:78:9a:bc:de:f0");
        assert_eq!(id.host_link(), "eni-6789abcdef0");
        assert!(id.host_link().len() <= 15);
    }

    #[test]
    fn generated_ids_are_valid_and_differ() {
        let one = EniId::generate().expect("random");
        let two = EniId::generate().expect("random");
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse::<EniId>().expect("valid"), one);
    }

    #[test]
    fn ids_with_a_wrong_prefix_length_or_digit_are_refused() {
        for text in [
            "",
            "eni-",
            "eni-0123456789ABCDEF0",
            "eni-0123456789abcdef",
            "sg-0123456789abcdef0",
        ] {
            assert!(text.parse::<EniId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_namespace_name_can_not_leave_its_directory() {
        for text in ["", ".", "..", "../x", "a/b", "a\0b", ".hidden"] {
            assert!(text.parse::<NetnsName>().is_err(), "{text:?}");
        }
        assert!("0123-task_1.x".parse::<NetnsName>().is_ok());
    }
}
