//! What a container is called, and by which names and resolvers it finds others: what ECS hands to Docker under every
//! network mode but `awsvpc`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ContainerDefinition;
use crate::error::ApiError;
use crate::members::Members;

/// As Docker has it, below the kernel's own limit of 64 bytes (sethostname(2)).
const LONGEST_HOSTNAME: usize = 63;

/// The longest name that DNS knows, and a dot.
const LONGEST_ENTRY: usize = 254;

const ADDRESS: &str = "an IPv4 or IPv6 address";

/// As the API says of a link's two parts.
const LONGEST_LINK: usize = 255;

/// The members of a container that are about names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Naming {
    /// The container's own, in place of one that is made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// More lines of its `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<HostEntry>,
    /// Asked instead of the resolvers that it would have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// Tried instead of the domains that it would have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_search_domains: Vec<String>,
    /// Containers of the same task that it knows by other names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

/// One entry of `extraHosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "ECS's own words")]
pub struct HostEntry {
    pub hostname: String,
    pub ip_address: IpAddr,
}

/// One of `links`: `name`, or `name:alias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Link {
    /// The container that is linked to.
    pub container: String,
    alias: Option<String>,
}

impl Link {
    /// What it is called by the other.
    pub fn alias(&self) -> &str {
        self.alias.as_ref().unwrap_or(&self.container)
    }

    fn is_in_the_way_of(&self, other: &Self) -> bool {
        self.alias() == other.alias() && self.container != other.container
    }

    fn parse(text: &str) -> Option<Self> {
        let good = |part: &str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=LONGEST_LINK).contains(&part.len()) && part.bytes().all(good)
        };
        let (container, alias) = match text.split_once(':') {
            Some((container, alias)) => (container, Some(alias)),
            None => (text, None),
        };
        (good(container) && alias.is_none_or(good)).then(|| Self {
            container: container.to_owned(),
            alias: alias.map(str::to_owned),
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.container)?;
        match &self.alias {
            Some(alias) => write!(out, ":{alias}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Link {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("'{text}' is no link"))
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.to_string()
    }
}

/// Takes a container's.
pub(super) fn take(members: &mut Members) -> Result<Naming, ApiError> {
    let domain = "up to 254 letters, digits, hyphens and dots, and end with a letter or digit";
    let link = "a container's name, or name:alias, each of up to 255 letters, digits, hyphens and underscores";
    Ok(Naming {
        hostname: members.word("hostname", &name_of(LONGEST_HOSTNAME), |text| {
            name(text, LONGEST_HOSTNAME)
        })?,
        extra_hosts: members
            .objects("extraHosts")?
            .into_iter()
            .map(host_entry)
            .collect::<Result<_, _>>()?,
        dns_servers: each(members, "dnsServers", ADDRESS, |text| text.parse().ok())?,
        dns_search_domains: each(members, "dnsSearchDomains", domain, search_domain)?,
        links: each(members, "links", link, Link::parse)?,
    })
}

fn host_entry(mut members: Members) -> Result<HostEntry, ApiError> {
    let missing = |path: String, expected: &str| {
        ApiError::client(format!("{path} is missing; it must be {expected}"))
    };
    let (hostname, address) = (members.path_of("hostname"), members.path_of("ipAddress"));
    let expected = name_of(LONGEST_ENTRY);
    let parse = |text: &str| name(text, LONGEST_ENTRY);
    let entry = HostEntry {
        hostname: members
            .word("hostname", &expected, parse)?
            .ok_or_else(|| missing(hostname, &expected))?,
        ip_address: members
            .word("ipAddress", ADDRESS, |text| text.parse().ok())?
            .ok_or_else(|| missing(address, ADDRESS))?,
    };
    members.finish()?;
    Ok(entry)
}

/// Reads each string of a list.
fn each<T>(
    members: &mut Members,
    name: &str,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ApiError> {
    let path = members.path_of(name);
    let texts = members.strings(name)?;
    let parse = |(i, text): (usize, &String)| {
        let text = text.as_str();
        parse(text).ok_or_else(|| {
            let text = text.escape_debug();
            ApiError::client(format!("{path}[{i}] is '{text}'; it must be {expected}"))
        })
    };
    texts.iter().enumerate().map(parse).collect()
}

/// The API's own pattern.
fn search_domain(text: &str) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let ends = text.ends_with(|last: char| last.is_ascii_alphanumeric());
    (text.len() <= 254 && text.bytes().all(good) && ends).then(|| text.to_owned())
}

/// What can stand in `/etc/hosts` as one name. As Docker, it takes more than a host's name may have (RFC 1123), since
/// containers are given names with underscores.
fn name(text: &str, longest: usize) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let starts = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    (text.len() <= longest && text.bytes().all(good) && starts).then(|| text.to_owned())
}

fn name_of(longest: usize) -> String {
    format!(
        "up to {longest} letters, digits, hyphens, underscores and dots, and begin with a letter or digit"
    )
}

/// Refuses links that lead nowhere.
pub(super) fn check_links(containers: &[ContainerDefinition]) -> Result<(), ApiError> {
    for (i, container) in containers.iter().enumerate() {
        let links = &container.naming.links;
        for (k, link) in links.iter().enumerate() {
            let name = &link.container;
            let earlier = links.iter().take(k);
            let problem = match containers.iter().find(|other| other.name == *name) {
                None => format!("'{name}' is no container of this definition"),
                Some(other) if other.disable_networking == Some(true) => {
                    format!("'{name}' has disableNetworking, so nothing reaches it")
                }
                Some(_) if earlier.clone().any(|other| other.is_in_the_way_of(link)) => {
                    format!("an earlier link has the alias '{}' already", link.alias())
                }
                Some(_) => continue,
            };
            return Err(ApiError::client(format!(
                "containerDefinitions[{i}].links[{k}] is '{link}'; {problem}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "naming_tests.rs"]
mod tests;
