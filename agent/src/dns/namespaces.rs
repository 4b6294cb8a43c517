//! The namespaces of service discovery, as the resolver knows them: zones of their own, the records in them, and how many
//! instances of a service an answer has.

use std::collections::HashMap;

use hickory_proto::rr::{LowerName, Name, Record};

use super::records::Records;
use super::zones::Zones;

/// Namespaces, the services in them, and the services' instances.
#[derive(Debug, Default)]
pub struct Namespaces {
    zones: Zones,
    most: HashMap<LowerName, usize>,
    records: Records,
}

impl Namespaces {
    /// The namespaces with these names, and the services with those: of each with the number of instances that an
    /// answer has at most, chosen at random. No service has any yet.
    pub fn new(namespaces: &[Name], services: &[(Name, usize)]) -> Self {
        let services = services.iter();
        Self {
            zones: Zones::of(namespaces.iter().map(LowerName::new)),
            most: services
                .map(|(name, most)| (LowerName::new(name), *most))
                .collect(),
            records: Records::default(),
        }
    }

    /// Registers an owner with these records, in place of those that it had; with none, it isn't registered any more.
    pub fn register(&mut self, owner: &str, records: Vec<Record>) {
        self.records.enter(owner, records);
    }

    /// The namespace that a name is in, the narrowest where there are several.
    pub fn zone_of(&self, name: &LowerName) -> Option<&LowerName> {
        self.zones.zone_of(name)
    }

    /// The records that an answer has: of a service those that its routing policy chooses, of other names all.
    pub fn records_of(&self, name: &LowerName) -> Vec<Record> {
        match self.most.get(name) {
            Some(most) => self.records.some_of(name, *most),
            None => self.records.of(name),
        }
    }

    /// Whether a name has records, or one below it.
    pub fn has_or_leads_to(&self, name: &LowerName) -> bool {
        self.records.has_or_leads_to(name)
    }
}
