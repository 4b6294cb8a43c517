//! The ports that a container listens on, and those of the host's that are to lead there.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::NetworkMode;
use crate::error::ApiError;
use crate::members::Members;

/// One entry of `portMappings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "ECS's own words")]
pub struct PortMapping {
    #[serde(flatten)]
    pub ports: Ports,
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// Which ports: of the container, and of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ports {
    /// One port.
    One {
        /// Where the container listens.
        #[serde(rename = "containerPort")]
        container: u16,
        /// Under `awsvpc` and `host` the same; under `bridge` the host's port, 0 for one that is chosen when the
        /// task starts.
        #[serde(rename = "hostPort")]
        host: u16,
    },
    /// As many ports of the host's as there are in the range, one after the other.
    Range {
        /// Where the container listens.
        #[serde(rename = "containerPortRange")]
        container: PortRange,
    },
}

impl Ports {
    /// The container's.
    pub fn container(self) -> PortRange {
        match self {
            Self::One { container, .. } => PortRange::one(container),
            Self::Range { container } => container,
        }
    }

    /// The host's, if the definition says which.
    pub fn fixed(self) -> Option<u16> {
        match self {
            Self::One { host, .. } if host != 0 => Some(host),
            _ => None,
        }
    }
}

/// Ports that follow one another, at least one. ECS writes `8080-8090`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// A single port.
    pub fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// As many ports as there are in `other`, from this one on; nothing where that is past the last port there is.
    pub fn as_many_as(other: Self, first: u16) -> Option<Self> {
        let last = first.checked_add(other.last - other.first)?;
        Some(Self { first, last })
    }

    /// The first.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.ports().len()
    }

    /// Each of them.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (0 < first && first <= last).then_some(Self { first, last })
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("'{text}' is no range of ports"))
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the name says it")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The member `portMappings` of a container.
pub(super) fn take_all(
    container: &mut Members,
    mode: NetworkMode,
) -> Result<Vec<PortMapping>, ApiError> {
    let mut mappings: Vec<PortMapping> = Vec::new();
    for members in container.objects("portMappings")? {
        let path = members.path_of("containerPort");
        let mapping = take(members, mode)?;
        let own = mapping.ports.container();
        let is_same = |other: &PortMapping| {
            other.protocol == mapping.protocol && other.ports.container().overlaps(own)
        };
        if mappings.iter().any(is_same) {
            return Err(ApiError::client(format!(
                "{path} is a port that an earlier mapping of the container has; a port can be in one only"
            )));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn take(mut members: Members, mode: NetworkMode) -> Result<PortMapping, ApiError> {
    let protocol = |word: &str| match word {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    };
    let mapping = PortMapping {
        ports: ports(&mut members, mode)?,
        protocol: members
            .word("protocol", "tcp or udp", protocol)?
            .unwrap_or(Protocol::Tcp),
        name: members.string("name")?,
        app_protocol: members.word("appProtocol", "http, http2 or grpc", |word| {
            ["http", "http2", "grpc"]
                .contains(&word)
                .then(|| word.to_owned())
        })?,
    };
    members.finish()?;
    Ok(mapping)
}

fn ports(members: &mut Members, mode: NetworkMode) -> Result<Ports, ApiError> {
    let port = |n: i64| u16::try_from(n).unwrap_or_default();
    let [path, host_path, range_path] =
        ["containerPort", "hostPort", "containerPortRange"].map(|name| members.path_of(name));
    let range = members.word(
        "containerPortRange",
        "two ports from 1 to 65535, the smaller first, such as 8080-8090",
        |text| PortRange::parse(text).filter(|range| range.first < range.last),
    )?;
    // Zero is how a description says "not set".
    let container = members
        .integer("containerPort", 0..=65_535)?
        .map_or(0, port);
    let host = members.integer("hostPort", 0..=65_535)?.map_or(0, port);
    match (range, container, host) {
        (Some(_), ..) if mode == NetworkMode::Host => Err(ApiError::client(format!(
            "{range_path} needs network mode bridge or awsvpc"
        ))),
        (Some(container), 0, 0) => Ok(Ports::Range { container }),
        (Some(_), ..) => Err(ApiError::client(format!(
            "{range_path} is there, so that {path} and {host_path} must not be"
        ))),
        (None, 0, _) => Err(ApiError::client(format!(
            "{path} is missing; it must be a port, from 1 to 65535"
        ))),
        (None, container, host) if mode == NetworkMode::Bridge => {
            Ok(Ports::One { container, host })
        }
        (None, container, host) if host == 0 || host == container => Ok(Ports::One {
            container,
            host: container,
        }),
        (None, container, host) => Err(ApiError::client(format!(
            "When networkMode={}, the host ports and container ports in port mappings must match. {host_path} is \
             {host}; it must be absent or the container port, {container}",
            mode.name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(mode: NetworkMode, mappings: Value) -> Result<Vec<PortMapping>, String> {
        let mut members = Members::root(json!({ "portMappings": mappings })).unwrap();
        take_all(&mut members, mode).map_err(|error| error.message)
    }

    #[test]
    fn a_host_port_is_the_containers_own_but_under_bridge() {
        use NetworkMode::{Awsvpc, Bridge, Host};
        for (mode, host, expected) in [
            (Bridge, json!(8080), Some(8080)),
            (Bridge, json!(0), None),
            (Bridge, json!(null), None),
            (Host, json!(0), Some(80)),
            (Host, json!(80), Some(80)),
            (Awsvpc, json!(null), Some(80)),
        ] {
            let read = read(mode, json!([{"containerPort": 80, "hostPort": host}])).unwrap();
            assert_eq!(read[0].ports.fixed(), expected, "{mode:?} {host}");
        }
        for mode in [Awsvpc, Host] {
            let error = read(mode, json!([{"containerPort": 80, "hostPort": 81}])).unwrap_err();
            let words = format!(
                "When networkMode={}, the host ports and container ports in port mappings must match.",
                mode.name()
            );
            assert!(error.starts_with(&words), "{error}");
        }
    }

    #[test]
    fn ranges_are_read_or_refused() {
        use NetworkMode::{Awsvpc, Bridge, Host};
        let range = |text: &str| json!([{"containerPortRange": text, "protocol": "udp"}]);
        let read_one = read(Bridge, range("8080-8090")).unwrap().remove(0);
        assert_eq!(read_one.ports.container().count(), 11);
        assert_eq!(read_one.ports.fixed(), None);
        let described = serde_json::to_value(&read_one).unwrap();
        assert_eq!(
            described,
            json!({"containerPortRange": "8080-8090", "protocol": "udp"})
        );
        assert_eq!(
            serde_json::from_value::<PortMapping>(described).unwrap(),
            read_one
        );
        assert!(read(Awsvpc, range("1-2")).is_ok());
        assert!(read(Host, range("1-2")).unwrap_err().contains("bridge"));
        for bad in ["80", "90-80", "80-80", "0-3", "1-65536", "a-b", "-"] {
            let error = read(Bridge, range(bad)).unwrap_err();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
        let both = json!([{"containerPortRange": "1-2", "containerPort": 1}]);
        assert!(read(Bridge, both).is_err());
    }

    #[test]
    fn a_port_of_a_protocol_is_in_one_mapping_only() {
        let ports = |protocol: &str| {
            json!([
                {"containerPortRange": "80-90"},
                {"containerPort": 85, "protocol": protocol},
            ])
        };
        assert!(read(NetworkMode::Bridge, ports("udp")).is_ok());
        let error = read(NetworkMode::Bridge, ports("tcp")).unwrap_err();
        assert!(
            error.starts_with("portMappings[1].containerPort"),
            "{error}"
        );
    }

    #[test]
    fn as_many_ports_end_where_ports_do() {
        let range = PortRange::parse("1-10").unwrap();
        let last = PortRange::as_many_as(range, 65_526).unwrap();
        assert_eq!((last.first(), last.last()), (65_526, 65_535));
        assert_eq!(PortRange::as_many_as(range, 65_527), None);
    }
}
