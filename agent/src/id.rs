//! Names of things: task ids, ARNs and the moments at which things happen.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Fills `N` bytes from the kernel's random number generator, as lower-case hexadecimal.
///
/// `getrandom(2)` can't fail once the kernel has booted far enough to run us; if it says
/// otherwise, going on with predictable names would hand one task's metadata to another.
fn random_hex<const N: usize>() -> String {
    let mut bytes = [0u8; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        eprintln!("berth: the kernel gives no random numbers: {error}");
        std::process::abort();
    }
    hex(&bytes)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String can't fail.
            write!(text, "{byte:02x}").ok();
            text
        })
}

/// A random id of 128 bits, 32 hexadecimal digits: what ECS uses for tasks.
pub fn random_128() -> String {
    random_hex::<16>()
}

/// A secret of 160 bits.
pub fn random_160() -> String {
    random_hex::<20>()
}

/// A random UUID (version 4), the form of attachment and container ids in ARNs.
pub fn random_uuid() -> String {
    let h = random_hex::<16>();
    let part = |range| h.get(range).unwrap_or_default();
    format!(
        "{}-{}-4{}-a{}-{}",
        part(0..8),
        part(8..12),
        part(13..16),
        part(17..20),
        part(20..32)
    )
}

/// An EC2-style id, such as `eni-0123456789abcdef0`.
pub fn random_ec2(prefix: &str) -> String {
    format!("{prefix}-0{}", random_hex::<8>())
}

/// Where we say that we are: shapes every ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `us-east-1`, unless the user says otherwise.
    pub region: String,
    /// Twelve digits.
    pub account: String,
}

impl Place {
    fn arn(&self, rest: fmt::Arguments<'_>) -> String {
        format!("arn:aws:ecs:{}:{}:{rest}", self.region, self.account)
    }

    /// A cluster's ARN.
    pub fn cluster(&self, name: &str) -> String {
        self.arn(format_args!("cluster/{name}"))
    }

    /// A task's ARN.
    pub fn task(&self, cluster: &str, id: &str) -> String {
        self.arn(format_args!("task/{cluster}/{id}"))
    }

    /// A container's ARN.
    pub fn container(&self, cluster: &str, task: &str, id: &str) -> String {
        self.arn(format_args!("container/{cluster}/{task}/{id}"))
    }

    /// A task definition's ARN.
    pub fn task_definition(&self, family: &str, revision: u32) -> String {
        self.arn(format_args!("task-definition/{family}:{revision}"))
    }

    /// A container instance's ARN.
    pub fn container_instance(&self, cluster: &str, id: &str) -> String {
        self.arn(format_args!("container-instance/{cluster}/{id}"))
    }

    /// The availability zone, for descriptions.
    pub fn zone(&self) -> String {
        format!("{}a", self.region)
    }

    /// The private DNS name that EC2 gives an interface with this address: `us-east-1` is the
    /// one region whose names carry no region.
    pub fn private_dns_name(&self, address: std::net::Ipv4Addr) -> String {
        let dashed = address.to_string().replace('.', "-");
        format!("ip-{dashed}.{}", self.private_domain())
    }

    /// The domain of those names, which is the VPC's search domain too.
    pub fn private_domain(&self) -> String {
        if self.region == "us-east-1" {
            "ec2.internal".to_owned()
        } else {
            format!("{}.compute.internal", self.region)
        }
    }
}

/// A moment, in milliseconds since 1970. ECS's JSON gives it as seconds with a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Seconds with a fraction, as the API's JSON has it.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

/// RFC 3339 in UTC, as the metadata documents have it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shape_of_their_kind_and_differ() {
        assert_eq!(random_128().len(), 32);
        assert_ne!(random_128(), random_128());
        assert_eq!(random_ec2("eni").len(), "eni-0123456789abcdef0".len());
        let uuid = random_uuid();
        let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
    }

    #[test]
    fn dns_names_follow_the_region() {
        let mut place = Place {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        };
        let address = "10.0.0.9".parse().unwrap();
        assert_eq!(place.private_dns_name(address), "ip-10-0-0-9.ec2.internal");
        place.region = "eu-west-1".into();
        assert_eq!(
            place.private_dns_name(address),
            "ip-10-0-0-9.eu-west-1.compute.internal"
        );
    }

    #[test]
    fn moments_are_shown_in_utc() {
        assert_eq!(Timestamp(1_500).to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Timestamp(1_500).seconds(), 1.5);
    }
}
