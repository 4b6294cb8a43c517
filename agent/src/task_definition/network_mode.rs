//! How a task's containers reach the network: ECS's network modes, and what each rules out.

use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::members::Members;

/// ECS's network modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// One interface for all containers of the task, which share its network namespace.
    Awsvpc,
    /// An interface for each container, and ports of the host's that lead to it.
    Bridge,
    /// The host's own network.
    Host,
    /// Nothing but loopback, each container its own.
    None,
}

impl NetworkMode {
    /// The member `networkMode`; without it, ECS means `bridge`.
    pub(super) fn take(members: &mut Members) -> Result<Self, ApiError> {
        let parse = |word: &str| match word {
            "awsvpc" => Some(Self::Awsvpc),
            "bridge" => Some(Self::Bridge),
            "host" => Some(Self::Host),
            "none" => Some(Self::None),
            _ => None,
        };
        let mode = members.word("networkMode", "awsvpc, bridge, host or none", parse)?;
        Ok(mode.unwrap_or(Self::Bridge))
    }

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Awsvpc => "awsvpc",
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::None => "none",
        }
    }

    /// Refuses members of a container that ECS has in other modes only, in its words. Those that it does have and
    /// we don't are left, to be refused as whatever nobody takes.
    pub(super) fn refuse_others(self, container: &Members) -> Result<(), ApiError> {
        let given = self.refusals().find(|(name, _)| container.says(name));
        given.map_or(Ok(()), |(name, refusal)| {
            Err(ApiError::client(format!(
                "{refusal} when networkMode={}. Remove {}.",
                self.name(),
                container.path_of(name)
            )))
        })
    }

    fn refusals(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        const NOT_UNDER_AWSVPC: [(&str, &str); 6] = [
            ("hostname", "hostname is not supported on container"),
            ("extraHosts", "Extra hosts are not supported on container"),
            ("dnsServers", "DNS servers are not supported on container"),
            (
                "dnsSearchDomains",
                "DNS search domains are not supported on container",
            ),
            LINKS,
            (
                "disableNetworking",
                "Disable Networking is not supported on container",
            ),
        ];
        const LINKS: (&str, &str) = ("links", "Links are not supported");
        const PORTS: (&str, &str) = ("portMappings", "Port mappings are not supported");
        let refusals: &[_] = match self {
            Self::Awsvpc => &NOT_UNDER_AWSVPC,
            Self::Bridge => &[],
            Self::Host => &[LINKS],
            Self::None => &[LINKS, PORTS],
        };
        refusals.iter().copied()
    }
}
