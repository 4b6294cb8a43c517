//! The names that this host answers for: a table in memory, changed in place while it is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

use hickory_proto::rr::{LowerName, Name, RData};

use super::zones::Zones;

/// The records of all owners, below the zones that are answered here alone.
///
/// An owner, such as a network interface, has its records entered and removed as one. Several may
/// have records of the same name: a query gets them all.
#[derive(Debug)]
pub struct Names {
    zones: Zones,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// In the DNS's own order, in which the names below a name follow it.
    records: BTreeMap<LowerName, Vec<Entry>>,
    /// The names of each owner.
    owners: HashMap<String, Vec<LowerName>>,
}

#[derive(Debug)]
struct Entry {
    owner: String,
    data: RData,
}

/// What is known of a name.
#[derive(Debug, PartialEq)]
pub enum Known {
    /// It is in none of the zones here.
    Elsewhere,
    /// It is in the zone with this apex, and doesn't exist.
    Nothing(Name),
    /// It is in the zone with this apex, and has these records; none if only names below it do.
    Records(Name, Vec<RData>),
}

impl Names {
    /// No names yet, in these zones.
    pub fn new(zones: Zones) -> Self {
        Self {
            zones,
            table: RwLock::default(),
        }
    }

    /// Enters an owner's records, in place of those that it had. They are answered from now on.
    pub fn enter(&self, owner: &str, records: Vec<(Name, RData)>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(owner);
        for (name, data) in records {
            table.add(owner, LowerName::new(&name), data);
        }
    }

    /// Removes an owner's records; none is fine too.
    pub fn remove(&self, owner: &str) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(owner);
    }

    /// What is known of that name.
    pub fn find(&self, name: &Name) -> Known {
        let name = LowerName::new(name);
        let Some(apex) = self.zones.zone_of(&name) else {
            return Known::Elsewhere;
        };
        let is_apex = *apex == name;
        let apex = Name::from(apex.clone());
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if is_apex || table.is_or_leads_to_a_name(&name) {
            Known::Records(apex, table.of(&name))
        } else {
            Known::Nothing(apex)
        }
    }
}

impl Table {
    fn add(&mut self, owner: &str, name: LowerName, data: RData) {
        self.records.entry(name.clone()).or_default().push(Entry {
            owner: owner.to_owned(),
            data,
        });
        self.owners.entry(owner.to_owned()).or_default().push(name);
    }

    fn remove(&mut self, owner: &str) {
        for name in self.owners.remove(owner).unwrap_or_default() {
            let Some(entries) = self.records.get_mut(&name) else {
                continue;
            };
            entries.retain(|entry| entry.owner != owner);
            if entries.is_empty() {
                self.records.remove(&name);
            }
        }
    }

    fn of(&self, name: &LowerName) -> Vec<RData> {
        let entries = self.records.get(name).into_iter().flatten();
        entries.map(|entry| entry.data.clone()).collect()
    }

    /// A name between the apex and one with records exists too (RFC 8020).
    fn is_or_leads_to_a_name(&self, name: &LowerName) -> bool {
        let next = self.records.range(name..).next();
        next.is_some_and(|(next, _)| name.zone_of(next))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    fn address(last: u8) -> RData {
        Ipv4Addr::new(10, 231, 0, last).into()
    }

    fn names() -> Names {
        Names::new(Zones::new("ec2.internal", &[]).unwrap())
    }

    #[test]
    fn an_owners_records_come_and_go_as_one() {
        let names = names();
        let (a, b) = (name("a.ec2.internal"), name("b.ec2.internal"));
        names.enter(
            "one",
            vec![(a.clone(), address(4)), (b.clone(), address(5))],
        );
        assert_eq!(
            names.find(&name("A.Ec2.Internal")),
            Known::Records(name("ec2.internal"), vec![address(4)])
        );
        names.enter("one", vec![(b.clone(), address(6))]);
        assert_eq!(names.find(&a), Known::Nothing(name("ec2.internal")));
        assert_eq!(
            names.find(&b),
            Known::Records(name("ec2.internal"), vec![address(6)])
        );
        names.remove("one");
        names.remove("one");
        assert_eq!(names.find(&b), Known::Nothing(name("ec2.internal")));
    }

    #[test]
    fn a_name_has_the_records_of_all_its_owners() {
        let names = names();
        let web = name("web.ec2.internal");
        names.enter("one", vec![(web.clone(), address(4))]);
        names.enter("two", vec![(web.clone(), address(5))]);
        let found = Known::Records(name("ec2.internal"), vec![address(4), address(5)]);
        assert_eq!(names.find(&web), found);
        names.remove("one");
        assert_eq!(
            names.find(&web),
            Known::Records(name("ec2.internal"), vec![address(5)])
        );
    }

    #[test]
    fn a_name_above_one_with_records_exists_and_one_beside_it_does_not() {
        let names = names();
        names.enter("one", vec![(name("a.b.ec2.internal"), address(4))]);
        let empty = Known::Records(name("ec2.internal"), Vec::new());
        assert_eq!(names.find(&name("b.ec2.internal")), empty);
        assert_eq!(names.find(&name("ec2.internal")), empty);
        for missing in ["aa.ec2.internal", "c.ec2.internal", "x.a.b.ec2.internal"] {
            assert_eq!(
                names.find(&name(missing)),
                Known::Nothing(name("ec2.internal")),
                "{missing}"
            );
        }
        assert_eq!(names.find(&name("example.com")), Known::Elsewhere);
    }
}
