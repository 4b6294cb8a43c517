//! The names that this host answers for: a table in memory, changed in place while it is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

use hickory_proto::rr::{LowerName, Name, Record};

use super::choice::choose;
use super::namespaces::Namespaces;
use super::zones::Zones;

/// The records of all owners, below the zones that are answered here alone.
///
/// An owner, such as a network interface or a task, has its records entered and removed as one. Several may
/// have records of the same name: a query gets them all, or, of a service, those that its routing policy chooses.
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
    namespaces: Namespaces,
}

#[derive(Debug)]
struct Entry {
    owner: String,
    record: Record,
}

/// What is known of a name.
#[derive(Debug, PartialEq)]
pub enum Known {
    /// It is in none of the zones here.
    Elsewhere,
    /// It is in the zone with this apex, and doesn't exist.
    Nothing(Name),
    /// It is in the zone with this apex, and has these records; none if only names below it do.
    Records(Name, Vec<Record>),
}

impl Names {
    /// No names yet, in these zones, and no namespaces of service discovery.
    pub fn new(zones: Zones) -> Self {
        Self {
            zones,
            table: RwLock::default(),
        }
    }

    /// The zones that are here without service discovery.
    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    /// Replaces the namespaces of service discovery. Records stay: those that were entered before are answered in
    /// the new ones at once.
    pub fn set_namespaces(&self, namespaces: Namespaces) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.namespaces = namespaces;
    }

    /// Enters an owner's records, in place of those that it had. They are answered from now on.
    pub fn enter(&self, owner: &str, records: Vec<Record>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(owner);
        for record in records {
            table.add(owner, record);
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
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let zones = [self.zones.zone_of(&name), table.namespaces.zone_of(&name)];
        let narrowest = zones.into_iter().flatten().max_by_key(|z| z.num_labels());
        let Some(apex) = narrowest else {
            return Known::Elsewhere;
        };
        let is_apex = *apex == name;
        let apex = Name::from(apex.clone());
        if is_apex || table.is_or_leads_to_a_name(&name) {
            Known::Records(apex, table.of(&name))
        } else {
            Known::Nothing(apex)
        }
    }
}

impl Table {
    fn add(&mut self, owner: &str, record: Record) {
        let name = LowerName::new(&record.name);
        self.records.entry(name.clone()).or_default().push(Entry {
            owner: owner.to_owned(),
            record,
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

    fn of(&self, name: &LowerName) -> Vec<Record> {
        let entries = self.records.get(name).into_iter().flatten();
        let mut records: Vec<&Record> = entries.map(|entry| &entry.record).collect();
        if let Some(most) = self.namespaces.most_of(name) {
            records = choose(records, most, |record| record.record_type());
        }
        records.into_iter().cloned().collect()
    }

    /// A name between the apex and one with records exists too (RFC 8020).
    fn is_or_leads_to_a_name(&self, name: &LowerName) -> bool {
        let next = self.records.range(name..).next();
        next.is_some_and(|(next, _)| name.zone_of(next))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use hickory_proto::rr::RData;

    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    fn address(of: &Name, last: u8) -> Record {
        let data = RData::from(Ipv4Addr::new(10, 231, 0, last));
        Record::from_rdata(of.clone(), 60, data)
    }

    fn names() -> Names {
        Names::new(Zones::new("ec2.internal", &[]).unwrap())
    }

    #[test]
    fn an_owners_records_come_and_go_as_one() {
        let names = names();
        let (a, b) = (name("a.ec2.internal"), name("b.ec2.internal"));
        names.enter("one", vec![address(&a, 4), address(&b, 5)]);
        assert_eq!(
            names.find(&name("A.Ec2.Internal")),
            Known::Records(name("ec2.internal"), vec![address(&a, 4)])
        );
        names.enter("one", vec![address(&b, 6)]);
        assert_eq!(names.find(&a), Known::Nothing(name("ec2.internal")));
        assert_eq!(
            names.find(&b),
            Known::Records(name("ec2.internal"), vec![address(&b, 6)])
        );
        names.remove("one");
        names.remove("one");
        assert_eq!(names.find(&b), Known::Nothing(name("ec2.internal")));
    }

    #[test]
    fn a_name_has_the_records_of_all_its_owners() {
        let names = names();
        let web = name("web.ec2.internal");
        names.enter("one", vec![address(&web, 4)]);
        names.enter("two", vec![address(&web, 5)]);
        let found = Known::Records(
            name("ec2.internal"),
            vec![address(&web, 4), address(&web, 5)],
        );
        assert_eq!(names.find(&web), found);
        names.remove("one");
        assert_eq!(
            names.find(&web),
            Known::Records(name("ec2.internal"), vec![address(&web, 5)])
        );
    }

    #[test]
    fn a_name_above_one_with_records_exists_and_one_beside_it_does_not() {
        let names = names();
        names.enter("one", vec![address(&name("a.b.ec2.internal"), 4)]);
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

    /// Eleven instances of two services, at most `most` of which are answered.
    fn services(most: usize) -> Names {
        let names = names();
        for last in 1..=11 {
            let records = ["db.local", "x.db.local"].map(|of| address(&name(of), last));
            names.enter(&last.to_string(), records.to_vec());
        }
        let service = (name("db.local"), most);
        names.set_namespaces(Namespaces::new(&[name("local")], &[service]));
        names
    }

    fn records(names: &Names, of: &str) -> Vec<RData> {
        match names.find(&name(of)) {
            Known::Records(_, records) => records.into_iter().map(|record| record.data).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_namespace_is_a_zone_until_it_is_replaced() {
        let names = services(8);
        assert_eq!(
            names.find(&name("web.Local")),
            Known::Nothing(name("local"))
        );
        let narrower = [name("local"), name("dev.local")];
        names.set_namespaces(Namespaces::new(&narrower, &[]));
        assert_eq!(
            names.find(&name("web.dev.local")),
            Known::Nothing(name("dev.local"))
        );
        // The narrowest is meant, of those that are always there, too.
        names.set_namespaces(Namespaces::new(&[name("internal")], &[]));
        for (of, zone) in [
            ("a.ec2.internal", "ec2.internal"),
            ("a.internal", "internal"),
        ] {
            assert_eq!(names.find(&name(of)), Known::Nothing(name(zone)));
        }
        names.set_namespaces(Namespaces::default());
        assert_eq!(names.find(&name("db.local")), Known::Elsewhere);
    }

    #[test]
    fn as_many_of_a_services_instances_are_chosen_as_its_policy_says() {
        for most in [1, 8] {
            let names = services(most);
            let mut seen = BTreeSet::new();
            for _ in 0..500 {
                let chosen = records(&names, "DB.local");
                assert_eq!(chosen.len(), most);
                seen.extend(chosen.iter().map(ToString::to_string));
            }
            assert_eq!(seen.len(), 11, "each has its turn");
            // What has no policy is answered whole.
            assert_eq!(records(&names, "x.db.local").len(), 11);
        }
    }
}
