//! The namespaces of service discovery, as the resolver knows them: zones of their own, and how many instances of a
//! service an answer has.

use std::collections::HashMap;

use hickory_proto::rr::{LowerName, Name};

use super::zones::Zones;

/// Namespaces, and the services in them.
#[derive(Debug, Default)]
pub struct Namespaces {
    zones: Zones,
    most: HashMap<LowerName, usize>,
}

impl Namespaces {
    /// The namespaces with these names, and the services with those: of each with the number of instances that an
    /// answer has at most, chosen at random.
    pub fn new(namespaces: &[Name], services: &[(Name, usize)]) -> Self {
        let services = services.iter();
        Self {
            zones: Zones::of(namespaces.iter().map(LowerName::new)),
            most: services
                .map(|(name, most)| (LowerName::new(name), *most))
                .collect(),
        }
    }

    /// The namespace that a name is in, the narrowest where there are several.
    pub fn zone_of(&self, name: &LowerName) -> Option<&LowerName> {
        self.zones.zone_of(name)
    }

    /// How many records of a type an answer has at most; nothing where the name is no service's.
    pub fn most_of(&self, name: &LowerName) -> Option<usize> {
        self.most.get(name).copied()
    }
}
