//! The names that this host answers for: a table in memory, changed in place while it is asked.

use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use hickory_proto::rr::{LowerName, Name, Record};

use super::namespaces::Namespaces;
use super::records::Records;
use super::zones::Zones;

/// The records below the zones that are answered here alone, and the namespaces of service discovery beside them.
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
    /// Those of the zones that are here without service discovery.
    records: Records,
    namespaces: Namespaces,
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

    /// Enters an owner's records, in place of those that it had. They are answered from now on.
    pub fn enter(&self, owner: &str, records: Vec<Record>) {
        self.table().records.enter(owner, records);
    }

    /// Removes an owner's records; none is fine too.
    pub fn remove(&self, owner: &str) {
        self.table().records.remove(owner);
    }

    /// Registers an owner in the namespaces, with these records in place of those that it had; with none, it isn't
    /// registered any more.
    pub fn register(&self, owner: &str, records: Vec<Record>) {
        self.table().namespaces.register(owner, records);
    }

    /// Replaces the namespaces of service discovery, with all who are registered in them: a query is answered by those
    /// from before or by these. Those from before are returned, since to free them takes time, and somebody may wait for
    /// a lock of the caller's.
    pub fn replace_namespaces(&self, namespaces: Namespaces) -> Namespaces {
        std::mem::replace(&mut self.table().namespaces, namespaces)
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
        if is_apex || table.has_or_leads_to(&name) {
            Known::Records(apex, table.records_of(&name))
        } else {
            Known::Nothing(apex)
        }
    }

    fn table(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn records_of(&self, name: &LowerName) -> Vec<Record> {
        let mut records = self.records.of(name);
        records.extend(self.namespaces.records_of(name));
        records
    }

    /// A namespace may be above another zone, whose names are below its own then.
    fn has_or_leads_to(&self, name: &LowerName) -> bool {
        self.records.has_or_leads_to(name) || self.namespaces.has_or_leads_to(name)
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
        let service = (name("db.local"), most);
        let mut namespaces = Namespaces::new(&[name("local")], &[service]);
        for last in 1..=11 {
            let records = ["db.local", "x.db.local"].map(|of| address(&name(of), last));
            namespaces.register(&last.to_string(), records.to_vec());
        }
        let names = names();
        names.replace_namespaces(namespaces);
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
        names.replace_namespaces(Namespaces::new(&narrower, &[]));
        assert_eq!(
            names.find(&name("web.dev.local")),
            Known::Nothing(name("dev.local"))
        );
        // The narrowest is meant, of those that are always there, too.
        names.replace_namespaces(Namespaces::new(&[name("internal")], &[]));
        for (of, zone) in [
            ("a.ec2.internal", "ec2.internal"),
            ("a.internal", "internal"),
        ] {
            assert_eq!(names.find(&name(of)), Known::Nothing(name(zone)));
        }
        names.replace_namespaces(Namespaces::default());
        assert_eq!(names.find(&name("db.local")), Known::Elsewhere);
    }

    #[test]
    fn namespaces_are_replaced_with_all_who_are_registered_in_them() {
        let names = services(8);
        names.register("1", Vec::new());
        names.register("12", vec![address(&name("x.db.local"), 12)]);
        assert_eq!(records(&names, "x.db.local").len(), 11);
        let before = names.replace_namespaces(Namespaces::new(&[name("local")], &[]));
        assert_eq!(
            names.find(&name("x.db.local")),
            Known::Nothing(name("local"))
        );
        names.replace_namespaces(before);
        let found = records(&names, "x.db.local");
        let addresses = (2..=12).map(|last| RData::from(Ipv4Addr::new(10, 231, 0, last)));
        assert_eq!(found, addresses.collect::<Vec<_>>());
    }

    #[test]
    fn a_namespace_above_another_zone_has_what_leads_there() {
        let names = Names::new(Zones::new("eu.compute.internal", &[]).unwrap());
        names.replace_namespaces(Namespaces::new(&[name("internal")], &[]));
        let compute = name("compute.internal");
        assert_eq!(names.find(&compute), Known::Nothing(name("internal")));
        names.enter("one", vec![address(&name("a.eu.compute.internal"), 4)]);
        assert_eq!(
            names.find(&compute),
            Known::Records(name("internal"), Vec::new())
        );
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
