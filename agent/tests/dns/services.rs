//! The names of services: a zone of their own, and a choice of instances in each answer.

use std::collections::BTreeSet;

use berth_agent::dns::{Namespaces, absolute};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{RData, Record};

use crate::Case;
use crate::client::{Dug, dig};
use crate::upstream::Dnsmasq;
use crate::world::{DOMAIN, OUTSIDE, World};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "an_answer_has_at_most_eight_instances_and_each_its_turn",
            eight_of_ten,
        ),
        ("a_weighted_service_has_one_instance_an_answer", one_of_ten),
        (
            "srv_records_come_with_addresses_as_far_as_there_is_room",
            addresses_of_targets,
        ),
        (
            "no_query_for_a_namespace_leaves_the_host_while_it_is_there",
            nothing_leaves,
        ),
    ]
}

/// Has `db.local` be a service with these instances, at most `most` of which are answered.
fn serve(world: &World, instances: u8, most: usize) {
    let name = |text: &str| absolute(text).expect("a name");
    let service = (name("db.local"), most);
    let mut namespaces = Namespaces::new(&[name("local")], &[service]);
    for last in 0..instances {
        let target = name(&format!("{last:032x}.db.local"));
        let data = |n: u8| RData::from(std::net::Ipv4Addr::new(198, 51, 100, n));
        let srv = RData::SRV(SRV::new(1, 1, 5432, target.clone()));
        let records = vec![
            Record::from_rdata(name("db.local"), 10, data(last)),
            Record::from_rdata(name("db.local"), 20, srv),
            Record::from_rdata(target, 20, data(last)),
        ];
        namespaces.register(&last.to_string(), records);
    }
    world.names.replace_namespaces(namespaces);
}

/// The addresses of an answer, each of which is there once.
fn addresses(dug: &Dug) -> BTreeSet<&str> {
    let found = dug.answers.iter().map(|answer| {
        let address = answer.strip_prefix("10 IN A 198.51.100.");
        address.unwrap_or_else(|| panic!("{}", dug.text))
    });
    let found: BTreeSet<&str> = found.collect();
    assert_eq!(found.len(), dug.answers.len(), "{}", dug.text);
    found
}

/// What thirty queries find: of how many instances each, and how many are among them all.
fn find(world: &World, most: usize) {
    serve(world, 10, most);
    let _resolver = world.resolver();
    let task = world.task(1);
    let answers: Vec<Dug> = (0..30).map(|_| dig(&task, &["DB.Local"])).collect();
    for dug in &answers {
        assert_eq!(addresses(dug).len(), most, "{}", dug.text);
        assert!(dug.has("aa"), "{}", dug.text);
    }
    // That four of ten have none in thirty turns is less likely than one in ten thousand, even of one a turn.
    let all: BTreeSet<&str> = answers.iter().flat_map(addresses).collect();
    assert!(all.len() > 6, "{all:?}");
    let orders: BTreeSet<&str> = answers.iter().map(|dug| dug.answers[0].as_str()).collect();
    assert!(orders.len() > 3, "{orders:?}");
}

fn eight_of_ten(world: &World) {
    find(world, 8);
}

fn one_of_ten(world: &World) {
    find(world, 1);
}

fn addresses_of_targets(world: &World) {
    serve(world, 2, 8);
    let _resolver = world.resolver();
    let task = world.task(1);
    let additional = |dug: &Dug| {
        let text = dug.text.replace('\t', " ");
        text.matches(" 20 IN A 198.51.100.").count()
    };
    let dug = dig(&task, &["SRV", "db.local"]);
    assert_eq!(
        (dug.answers.len(), additional(&dug)),
        (2, 2),
        "{}",
        dug.text
    );
    let first = format!("20 IN SRV 1 1 5432 {:032x}.db.local.", 0);
    assert!(dug.answers.contains(&first), "{}", dug.text);
    // Of eight, the records themselves need more than a datagram without EDNS has.
    serve(world, 10, 8);
    let dug = dig(&task, &["+noedns", "+ignore", "SRV", "db.local"]);
    assert!(dug.has("tc") && dug.answers.len() < 8, "{}", dug.text);
    let dug = dig(&task, &["+noedns", "SRV", "db.local"]);
    assert_eq!(
        (dug.answers.len(), additional(&dug)),
        (8, 8),
        "{}",
        dug.text
    );
    // A datagram with EDNS has room for the records, and leaves the addresses to another question if not for them.
    let dug = dig(&task, &["+ignore", "SRV", "db.local"]);
    assert!(!dug.has("tc") && dug.answers.len() == 8, "{}", dug.text);
}

fn nothing_leaves(world: &World) {
    let dnsmasq = Dnsmasq::start(world, OUTSIDE[0]);
    world.host_asks(&OUTSIDE[..1]);
    let _resolver = world.resolver();
    let task = world.task(1);
    serve(world, 1, 8);
    dig(&task, &["db.local"]).is("NOERROR", &["10 IN A 198.51.100.0"]);
    dig(&task, &["MX", "db.local"]).is("NOERROR", &[]);
    let missing = dig(&task, &["web.local"]);
    missing.is("NXDOMAIN", &[]);
    let authority = missing
        .text
        .contains("\t5\tIN\tSOA\tlocal. nobody.invalid.");
    assert!(authority, "{}", missing.text);
    dig(&task, &["local"]).is("NOERROR", &[]);
    // Beside it, the names that were there before are as they were.
    dig(&task, &[&format!("www.{DOMAIN}")]).is("NXDOMAIN", &[]);
    assert!(!dnsmasq.log().contains(": query["), "{}", dnsmasq.log());
    world.names.replace_namespaces(Namespaces::default());
    dig(&task, &["+noall", "db.local"]);
    let asked = dnsmasq.log().contains(": query[A] db.local");
    assert!(asked, "{}", dnsmasq.log());
}
