//! The zones that are answered here, and of which no query ever leaves the host.

use std::collections::BTreeSet;

use anyhow::Context;
use hickory_proto::rr::{LowerName, Name};
use ipnet::IpNet;

/// The reverse zones of addresses that mean something else in every network, or nothing anywhere:
/// RFC 6303, section 4, and RFC 7793 for 100.64.0.0/10. A VPC's own resolver keeps them too.
const PRIVATE: [&str; 19] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "2001:db8::/32",
    "fd00::/8",
    "fe80::/12",
    "fe90::/12",
    "fea0::/12",
    "feb0::/12",
];

/// Names that exist nowhere, by RFC 6761 (`invalid`) and RFC 7686 (`onion`).
const NOWHERE: [&str; 2] = ["invalid", "onion"];

/// The zones, by the names of their apexes.
#[derive(Debug, Default)]
pub struct Zones {
    apexes: BTreeSet<LowerName>,
    /// The labels of the longest apex.
    depth: usize,
}

impl Zones {
    /// The zone of that name, the reverse zones of these ranges, and those that are private
    /// everywhere. Fails where the name is none that the DNS could have.
    pub fn new(own: &str, ranges: &[IpNet]) -> anyhow::Result<Self> {
        let mut apexes: BTreeSet<LowerName> = [own]
            .iter()
            .chain(&NOWHERE)
            .map(|name| absolute(name).map(|name| LowerName::new(&name)))
            .collect::<Result<_, _>>()?;
        let private = PRIVATE.iter().filter_map(|range| range.parse().ok());
        for range in private.chain(ranges.iter().copied()) {
            apexes.extend(reverse_zones(range).iter().map(LowerName::new));
        }
        Ok(Self::of(apexes))
    }

    /// The zones with these apexes.
    pub fn of(apexes: impl IntoIterator<Item = LowerName>) -> Self {
        let apexes = BTreeSet::from_iter(apexes);
        let depth = apexes.iter().map(|apex| apex.num_labels()).max();
        Self {
            depth: depth.unwrap_or_default().into(),
            apexes,
        }
    }

    /// The apex of the zone that a name is in, the narrowest where there are several.
    pub fn zone_of(&self, name: &LowerName) -> Option<&LowerName> {
        let name = Name::from(name.clone());
        let labels = usize::from(name.num_labels()).min(self.depth);
        (1..=labels)
            .rev()
            .find_map(|count| self.apexes.get(&LowerName::from(name.trim_to(count))))
    }
}

/// A name that is given from the root.
pub fn absolute(text: &str) -> anyhow::Result<Name> {
    let mut name = Name::from_ascii(text)
        .with_context(|| format!("'{text}' is no name that the DNS could have"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// The zones of a range's reverse names. Such a zone ends between two labels, each of which stands
/// for eight bits of an IPv4 address or four of an IPv6 address; another range has several.
fn reverse_zones(range: IpNet) -> Vec<Name> {
    let bits = if range.addr().is_ipv4() { 8 } else { 4 };
    let labels = range.prefix_len().div_ceil(bits);
    let parts = range.subnets(labels * bits).into_iter().flatten();
    parts
        .map(|part| Name::from(part.network()).trim_to(usize::from(labels) + 2))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(ranges: &[&str], name: &str) -> Option<String> {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let zones = Zones::new("eu-west-1.compute.internal", &ranges).unwrap();
        let name = LowerName::new(&absolute(name).unwrap());
        zones.zone_of(&name).map(ToString::to_string)
    }

    #[test]
    fn ranges_have_zones_at_the_labels_of_their_reverse_names() {
        let zones = |range: &str| -> Vec<String> {
            let names = reverse_zones(range.parse().unwrap());
            names.iter().map(ToString::to_string).collect()
        };
        assert_eq!(zones("10.0.0.0/8"), ["10.in-addr.arpa."]);
        assert_eq!(
            zones("8.8.6.0/23"),
            ["6.8.8.in-addr.arpa.", "7.8.8.in-addr.arpa."]
        );
        assert_eq!(zones("8.8.8.16/28").len(), 16);
        assert_eq!(zones("8.8.8.16/28")[15], "31.8.8.8.in-addr.arpa.");
        assert_eq!(zones("172.16.0.0/12")[15], "31.172.in-addr.arpa.");
        assert_eq!(zones("2001:db8::/32"), ["8.b.d.0.1.0.0.2.ip6.arpa."]);
        assert_eq!(
            zones("::1/128")[0].len(),
            "1.".len() * 32 + "ip6.arpa.".len()
        );
    }

    #[test]
    fn own_and_private_names_are_answered_here_and_others_are_not() {
        let here = [
            (
                "ip-10-0-0-4.eu-west-1.compute.internal",
                "eu-west-1.compute.internal.",
            ),
            ("eu-west-1.compute.internal", "eu-west-1.compute.internal."),
            ("4.0.231.10.in-addr.arpa", "10.in-addr.arpa."),
            ("1.0.0.127.in-addr.arpa", "127.in-addr.arpa."),
            ("1.1.254.169.in-addr.arpa", "254.169.in-addr.arpa."),
            ("9.8.8.8.in-addr.arpa", "8.8.8.in-addr.arpa."),
            ("a.b.invalid", "invalid."),
        ];
        for (name, apex) in here {
            assert_eq!(zone(&["8.8.8.0/24"], name).as_deref(), Some(apex), "{name}");
        }
        for name in [
            ".",
            "internal",
            "compute.internal",
            "eu-west-2.compute.internal",
            "example.com",
            "1.1.1.1.in-addr.arpa",
            "9.8.8.8.in-addr.arpa",
            "1.32.172.in-addr.arpa",
            "in-addr.arpa",
        ] {
            assert_eq!(zone(&[], name), None, "{name}");
        }
    }

    #[test]
    fn a_name_that_the_dns_can_not_have_is_refused() {
        let error = Zones::new(&"x".repeat(64), &[]).unwrap_err();
        assert!(error.to_string().contains("is no name"), "{error}");
    }
}
