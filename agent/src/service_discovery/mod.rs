//! Service discovery: names that lead to the tasks of a service, as ECS registers them with AWS Cloud Map.
//!
//! A file defines namespaces and the services in them, in Cloud Map's words, and, in those of ECS's `serviceRegistries`,
//! which tasks are a service's: those of a task definition family. `docs/dns.md` beside the sources shows one. A service
//! of the file's stands for a Cloud Map service; what registers tasks with it is a matter of its own ([`records`]).

mod document;
mod instance;

use std::collections::HashMap;
use std::io;
use std::path::Path;

use hickory_proto::rr::Name;

use crate::dns::{Namespaces, Zones};
use crate::error::ApiError;

pub use instance::{is_healthy, records};

/// A file that defines no service discovery.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The file can't be read.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
    /// It is no JSON.
    #[error("{0}")]
    Parse(#[from] serde_json::Error),
    /// A member has a value that it can't have: which, by its path, and what would be right.
    #[error("{0}")]
    Member(String),
}

impl From<ApiError> for Invalid {
    fn from(error: ApiError) -> Self {
        Self::Member(error.message)
    }
}

/// All namespaces and services. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceDiscovery {
    namespaces: Vec<Name>,
    /// By the families whose tasks are their instances.
    services: HashMap<String, Vec<Service>>,
}

/// A service, the tasks of which have its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in the DNS, such as `db.local.`
    pub name: Name,
    /// Which of its instances an answer has.
    pub routing_policy: RoutingPolicy,
    /// How long its A records may be kept, in seconds, where it has any.
    pub a: Option<u32>,
    /// The same of its AAAA records.
    pub aaaa: Option<u32>,
    /// Its SRV records, where it has any.
    pub srv: Option<Srv>,
    /// The task definition family whose tasks are its instances.
    pub family: String,
}

/// The SRV records of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// How long they may be kept, in seconds.
    pub ttl: u32,
    /// The port that they tell.
    pub port: Port,
}

/// A port that a service's tasks are reached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one, which ECS has under `awsvpc` only.
    Number(u16),
    /// That of a port mapping: under `bridge` and `host` the host's port that leads there.
    Container {
        /// The container's name in the task definition.
        name: String,
        /// The container's port, or one of a range, in a mapping of it.
        port: u16,
    },
}

/// Cloud Map's routing policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingPolicy {
    /// Up to eight instances, chosen at random.
    Multivalue,
    /// One instance, each as likely as any other.
    Weighted,
}

impl RoutingPolicy {
    /// The number of instances that an answer has at most.
    pub fn most(self) -> usize {
        match self {
            Self::Multivalue => 8,
            Self::Weighted => 1,
        }
    }
}

impl ServiceDiscovery {
    /// Reads a file. Its namespaces must leave these zones alone.
    pub fn load(path: &Path, zones: &Zones) -> Result<Self, Invalid> {
        Self::parse(&std::fs::read(path)?, zones)
    }

    /// Reads a definition.
    pub fn parse(json: &[u8], zones: &Zones) -> Result<Self, Invalid> {
        document::parse(json, zones)
    }

    /// The services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().flatten()
    }

    /// Those whose instances are the tasks of this task definition family.
    pub fn services_of(&self, family: &str) -> &[Service] {
        self.services.get(family).map_or(&[], Vec::as_slice)
    }

    /// The same, as the resolver has to know it. No task is registered there yet.
    pub fn namespaces(&self) -> Namespaces {
        let most = |service: &Service| (service.name.clone(), service.routing_policy.most());
        let services: Vec<_> = self.services().map(most).collect();
        Namespaces::new(&self.namespaces, &services)
    }
}
