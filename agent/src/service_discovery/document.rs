//! The file's form: members of Cloud Map's CreatePrivateDnsNamespace and CreateService, and of ECS's ServiceRegistry.

use std::collections::{HashMap, HashSet};

use hickory_proto::rr::{LowerName, Name};
use serde_json::Value;

use super::{Invalid, Port, RoutingPolicy, Service, ServiceDiscovery, Srv};
use crate::dns::{Zones, absolute};
use crate::error::ApiError;
use crate::members::Members;

/// The longest time that Cloud Map takes, in seconds: the DNS's (RFC 2181, section 8).
const LONGEST_TTL: i64 = 2_147_483_647;

/// The longest name that Cloud Map takes for a service.
const LONGEST_SERVICE: usize = 127;

/// The longest name that the DNS takes, without the dot at its end.
const LONGEST_NAME: usize = 253;

/// What stands before a service's name in that of an instance: a task's id and a dot.
const INSTANCE: usize = 33;

const NAME: &str = "labels of letters, digits, hyphens and underscores, joined by dots, none of which is longer than 63 \
                    characters, or begins or ends with a hyphen";

pub fn parse(json: &[u8], zones: &Zones) -> Result<ServiceDiscovery, Invalid> {
    let value: Value = serde_json::from_slice(json)?;
    if !value.is_object() {
        let problem = "it must be an object, such as {\"namespaces\": []}";
        return Err(Invalid::Member(problem.to_owned()));
    }
    let mut members = Members::root(value)?;
    let namespaces = members.objects("namespaces")?;
    members.finish_strictly()?;
    let mut read = Vec::new();
    for members in namespaces {
        read.push(Namespace::take(members)?);
    }
    let mut names = HashSet::new();
    for namespace in &read {
        namespace.check_own_name(zones)?;
        namespace.check_beside(&mut names)?;
    }
    let all = Zones::of(names);
    for namespace in &read {
        namespace.check_services(zones, &all)?;
    }
    Ok(defined(read))
}

/// What namespaces that are right define.
fn defined(read: Vec<Namespace>) -> ServiceDiscovery {
    let mut namespaces = Vec::new();
    let mut by_family: HashMap<String, Vec<Service>> = HashMap::new();
    for namespace in read {
        namespaces.push(namespace.name);
        for (_, service) in namespace.services {
            let family = service.family.clone();
            by_family.entry(family).or_default().push(service);
        }
    }
    ServiceDiscovery {
        namespaces,
        services: by_family,
    }
}

/// A namespace, and its services with the paths of their names.
struct Namespace {
    path: String,
    name: Name,
    services: Vec<(String, Service)>,
}

impl Namespace {
    fn take(mut members: Members) -> Result<Self, ApiError> {
        let path = members.path_of("name");
        let text = members.required_string("name")?;
        if !is_name(&text) || text.len() > LONGEST_NAME {
            return Err(ApiError::client(format!(
                "{path} is '{text}'; it must be a domain such as local: {NAME}"
            )));
        }
        let name = dns_name(&path, &text)?;
        let services = members.objects("services")?;
        members.finish_strictly()?;
        let services = services.into_iter().map(|members| {
            let path = members.path_of("name");
            Ok((path, service(members, &text)?))
        });
        Ok(Self {
            path,
            name,
            services: services.collect::<Result<_, ApiError>>()?,
        })
    }

    fn check_own_name(&self, zones: &Zones) -> Result<(), ApiError> {
        let (path, name) = (&self.path, bare(&self.name));
        let taken = match top(&self.name).as_deref() {
            Some("localhost") => Some("localhost".to_owned()),
            Some("arpa") => Some("the zone of reverse names, arpa".to_owned()),
            _ => zones
                .zone_of(&LowerName::new(&self.name))
                .map(|zone| format!("the zone {}", bare(zone))),
        };
        match taken {
            None => Ok(()),
            Some(taken) => Err(ApiError::client(format!(
                "{path} is '{name}'; it must be a domain outside {taken}, which has a meaning already"
            ))),
        }
    }

    /// Whether it isn't there already, beside the names of those before it.
    fn check_beside(&self, before: &mut HashSet<LowerName>) -> Result<(), ApiError> {
        if !before.insert(LowerName::new(&self.name)) {
            let (path, name) = (&self.path, bare(&self.name));
            return Err(ApiError::client(format!(
                "{path} is '{name}', as that of an earlier namespace; a namespace can be there once"
            )));
        }
        Ok(())
    }

    /// Whether the services can be found: below a narrower zone, and for one another.
    fn check_services(&self, zones: &Zones, namespaces: &Zones) -> Result<(), ApiError> {
        let own = LowerName::new(&self.name);
        let mut before = HashSet::new();
        for (path, service) in &self.services {
            let name = LowerName::new(&service.name);
            let others = namespaces.zone_of(&name).filter(|zone| **zone != own);
            if let Some(zone) = zones.zone_of(&name).or(others) {
                return Err(ApiError::client(format!(
                    "{path} makes '{}', which is in the zone {}; it must be a name outside it",
                    bare(&service.name),
                    bare(zone)
                )));
            }
            if !before.insert(name) {
                return Err(ApiError::client(format!(
                    "{path} makes '{}', as that of an earlier service; names must differ by more than case",
                    bare(&service.name)
                )));
            }
        }
        Ok(())
    }
}

fn service(mut members: Members, namespace: &str) -> Result<Service, ApiError> {
    let path = members.path_of("name");
    let text = members.required_string("name")?;
    let name = format!("{text}.{namespace}");
    if !is_name(&text) || text.len() > LONGEST_SERVICE {
        return Err(ApiError::client(format!(
            "{path} is '{text}'; it must be at most {LONGEST_SERVICE} characters: {NAME}"
        )));
    }
    if name.len() + INSTANCE > LONGEST_NAME {
        return Err(ApiError::client(format!(
            "{path} makes '{name}'; that must have at most {} characters, to leave room for the names of tasks",
            LONGEST_NAME - INSTANCE
        )));
    }
    take_health_check(&mut members)?;
    let family = members.required_string("family")?;
    let dns_config = members.path_of("dnsConfig");
    let Some(config) = members.object("dnsConfig")? else {
        return Err(ApiError::client(format!(
            "{dns_config} is missing or empty; it must be an object with dnsRecords"
        )));
    };
    let (routing_policy, [a, aaaa, srv]) = take_dns_config(config)?;
    let service = Service {
        name: dns_name(&path, &name)?,
        routing_policy,
        a,
        aaaa,
        srv: take_port(&mut members, srv)?.map(|(ttl, port)| Srv { ttl, port }),
        family,
    };
    members.finish_strictly()?;
    Ok(service)
}

/// As ECS has services made. The threshold is always 1, whatever is said (Cloud Map's HealthCheckCustomConfig).
fn take_health_check(members: &mut Members) -> Result<(), ApiError> {
    if let Some(mut check) = members.object("healthCheckCustomConfig")? {
        check.integer("failureThreshold", 1..=10)?;
        check.finish_strictly()?;
    }
    Ok(())
}

/// The policy, and for how long A, AAAA and SRV records may be kept.
fn take_dns_config(mut members: Members) -> Result<(RoutingPolicy, [Option<u32>; 3]), ApiError> {
    let policy = members.word(
        "routingPolicy",
        "MULTIVALUE or WEIGHTED",
        |word| match word {
            "MULTIVALUE" => Some(RoutingPolicy::Multivalue),
            "WEIGHTED" => Some(RoutingPolicy::Weighted),
            _ => None,
        },
    )?;
    let path = members.path_of("dnsRecords");
    let mut ttls = [None; 3];
    for mut members in members.objects("dnsRecords")? {
        let [kind_path, ttl_path] = ["type", "ttl"].map(|name| members.path_of(name));
        let kind = members.word(
            "type",
            "A, AAAA or SRV, which are what ECS registers",
            |word| ["A", "AAAA", "SRV"].iter().position(|kind| *kind == word),
        )?;
        let missing = |path: &str, wanted| {
            ApiError::client(format!("{path} is missing or empty; it must be {wanted}"))
        };
        let ttl = members.integer("ttl", 0..=LONGEST_TTL)?;
        let ttl = ttl.and_then(|ttl| u32::try_from(ttl).ok());
        members.finish_strictly()?;
        let place = kind.and_then(|kind| ttls.get_mut(kind));
        let place = place.ok_or_else(|| missing(&kind_path, "A, AAAA or SRV"))?;
        let ttl = ttl.ok_or_else(|| missing(&ttl_path, "a number of seconds"))?;
        if place.replace(ttl).is_some() {
            return Err(ApiError::client(format!(
                "{kind_path} is that of an earlier record; each type can be there once"
            )));
        }
    }
    members.finish_strictly()?;
    if ttls == [None; 3] {
        return Err(ApiError::client(format!(
            "{path} is missing or empty; it must have a record of type A, AAAA or SRV"
        )));
    }
    Ok((policy.unwrap_or(RoutingPolicy::Multivalue), ttls))
}

/// The port that SRV records tell, which there must be exactly if there are any, as ECS checks it.
fn take_port(members: &mut Members, srv: Option<u32>) -> Result<Option<(u32, Port)>, ApiError> {
    let [port_path, name_path, container_path] =
        ["port", "containerName", "containerPort"].map(|name| members.path_of(name));
    let mut number = |name| {
        let number = members.integer(name, 1..=65_535)?;
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    };
    let (port, container_port) = (number("port")?, number("containerPort")?);
    let name = members.string("containerName")?;
    let given = [
        (port.is_some(), &port_path),
        (container_port.is_some(), &container_path),
        (name.is_some(), &name_path),
    ];
    let problem = match (srv, port, name, container_port) {
        (None, None, None, None) => return Ok(None),
        (None, ..) => {
            let given = given.iter().find(|(is_given, _)| *is_given);
            let path = given.map_or(&port_path, |(_, path)| path);
            format!("{path} is told by SRV records only, of which the service has none; remove it")
        }
        (Some(ttl), Some(port), None, None) => return Ok(Some((ttl, Port::Number(port)))),
        (Some(ttl), None, Some(name), Some(port)) => {
            return Ok(Some((ttl, Port::Container { name, port })));
        }
        (Some(_), Some(_), ..) => {
            format!("{port_path} is there beside containerName or containerPort; it must be either")
        }
        (Some(_), None, Some(_), None) => {
            format!("{container_path} is missing; with containerName, SRV records need it")
        }
        (Some(_), None, None, Some(_)) => {
            format!("{name_path} is missing; with containerPort, SRV records need it")
        }
        (Some(_), None, None, None) => {
            format!(
                "{container_path} is missing; SRV records need containerName and containerPort, or, under awsvpc, port"
            )
        }
    };
    Err(ApiError::client(problem))
}

/// The form of Cloud Map's names of services, which is what a host's name can be, and underscores.
fn is_name(text: &str) -> bool {
    let is_end = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.split('.').all(|label| match label.as_bytes() {
        [first, middle @ ..] if label.len() <= 63 => {
            let is_inner = |byte: &u8| is_end(*byte) || *byte == b'-';
            is_end(*first) && middle.iter().all(is_inner) && !label.ends_with('-')
        }
        _ => false,
    })
}

fn dns_name(path: &str, text: &str) -> Result<Name, ApiError> {
    absolute(text).map_err(|error| ApiError::client(format!("{path}: {error:#}")))
}

/// Without the dot at its end, as people write it.
fn bare(name: &impl ToString) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

/// The last label, in lower case.
fn top(name: &Name) -> Option<String> {
    let label = name.iter().next_back()?;
    Some(String::from_utf8_lossy(label).to_ascii_lowercase())
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
