use std::net::IpAddr;

use super::super::zones::Zones;
use super::*;
use crate::dns::Namespaces;
use crate::dns::message::Request;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::rdata::SRV;

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn asked(of: &str, wanted: RecordType, change: impl FnOnce(&mut Message)) -> Asked {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(name(of), wanted));
    change(&mut message);
    match Request::read(&message.to_vec().unwrap()) {
        Request::Asked(asked) => asked,
        other => panic!("{other:?}"),
    }
}

fn names() -> Names {
    let names = Names::new(Zones::new("ec2.internal", &["8.8.8.0/28".parse().unwrap()]).unwrap());
    let addresses = ["10.231.0.4".parse().unwrap(), "fd00::4".parse().unwrap()];
    let records = crate::dns::interface("ip-10-231-0-4.ec2.internal", &addresses).unwrap();
    names.enter("eni-1", records);
    names
}

fn reply(of: &str, wanted: RecordType) -> Reply {
    reply_of(&names(), of, wanted)
}

fn reply_of(names: &Names, of: &str, wanted: RecordType) -> Reply {
    match decide(&asked(of, wanted, |_| ()), names) {
        Decision::Answer(reply) => reply,
        Decision::Forward => panic!("{of} {wanted} is forwarded"),
    }
}

/// The answers as text, without the name and class.
fn answers(of: &str, wanted: RecordType) -> Vec<String> {
    let reply = reply(of, wanted);
    assert_eq!(reply.code, ResponseCode::NoError, "{of}");
    assert!(reply.authoritative);
    texts(&reply.answers)
}

fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| format!("{} {} {}", record.ttl, record.record_type(), record.data);
    records.iter().map(text).collect()
}

/// Nothing, with this code, for as long as the zone with this apex says.
fn assert_nothing(of: &str, wanted: RecordType, code: ResponseCode, apex: &str) {
    let reply = reply(of, wanted);
    assert_eq!((reply.code, reply.answers.len()), (code, 0), "{of}");
    let [authority] = reply.authorities.as_slice() else {
        panic!("{of}: {reply:?}");
    };
    assert_eq!(authority.name, name(apex), "{of}");
    let RData::SOA(soa) = &authority.data else {
        panic!("{of}: {reply:?}");
    };
    assert_eq!((authority.ttl, soa.minimum), (5, 5), "{of}");
}

#[test]
fn an_interface_has_its_addresses_and_they_have_its_name() {
    let own = "IP-10-231-0-4.ec2.internal";
    assert_eq!(answers(own, RecordType::A), ["60 A 10.231.0.4"]);
    assert_eq!(answers(own, RecordType::AAAA), ["60 AAAA fd00::4"]);
    assert_eq!(answers(own, RecordType::ANY).len(), 2);
    let back = ["60 PTR ip-10-231-0-4.ec2.internal."];
    assert_eq!(answers("4.0.231.10.in-addr.arpa", RecordType::PTR), back);
    let nibbles = format!("4.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(answers(&nibbles, RecordType::PTR), back);
}

#[test]
fn what_is_missing_of_a_zone_is_told_from_what_is_missing_of_a_name() {
    let (no_name, no_data) = (ResponseCode::NXDomain, ResponseCode::NoError);
    assert_nothing(
        "ip-10-231-0-5.ec2.internal",
        RecordType::A,
        no_name,
        "ec2.internal",
    );
    assert_nothing(
        "ip-10-231-0-4.ec2.internal",
        RecordType::MX,
        no_data,
        "ec2.internal",
    );
    assert_nothing(
        "5.0.231.10.in-addr.arpa",
        RecordType::PTR,
        no_name,
        "10.in-addr.arpa",
    );
    assert_nothing(
        "231.10.in-addr.arpa",
        RecordType::NS,
        no_data,
        "10.in-addr.arpa",
    );
    // A zone of one address only, and so a name that exists.
    assert_nothing(
        "4.8.8.8.in-addr.arpa",
        RecordType::PTR,
        no_data,
        "4.8.8.8.in-addr.arpa",
    );
    assert_nothing("x.invalid", RecordType::A, no_name, "invalid");
}

#[test]
fn a_zone_tells_of_itself() {
    assert_eq!(
        answers("ec2.internal", RecordType::NS),
        ["60 NS ec2.internal."]
    );
    let soa = answers("ec2.internal", RecordType::SOA);
    assert!(
        soa[0].starts_with("60 SOA ec2.internal. nobody.invalid."),
        "{soa:?}"
    );
    assert_nothing(
        "ec2.internal",
        RecordType::A,
        ResponseCode::NoError,
        "ec2.internal",
    );
}

#[test]
fn localhost_is_the_tasks_own_loopback() {
    for of in ["localhost", "a.LocalHost"] {
        assert_eq!(answers(of, RecordType::A), ["60 A 127.0.0.1"]);
        assert_eq!(answers(of, RecordType::AAAA), ["60 AAAA ::1"]);
        assert_nothing(of, RecordType::TXT, ResponseCode::NoError, "localhost");
    }
}

#[test]
fn others_are_asked_for_the_rest_if_the_client_wants_that() {
    let names = names();
    for of in [
        "example.com",
        "localhost.example.com",
        "internal",
        "1.1.1.1.in-addr.arpa",
        ".",
    ] {
        let wanted = asked(of, RecordType::A, |_| ());
        assert_eq!(decide(&wanted, &names), Decision::Forward, "{of}");
    }
    let refused = Decision::Answer(Reply::code(ResponseCode::Refused));
    let alone = |message: &mut Message| message.metadata.recursion_desired = false;
    assert_eq!(
        decide(&asked("example.com", RecordType::A, alone), &names),
        refused
    );
    let own = asked("ip-10-231-0-4.ec2.internal", RecordType::A, alone);
    assert!(matches!(decide(&own, &names), Decision::Answer(reply) if reply.answers.len() == 1));
    let chaos = |message: &mut Message| {
        message.queries[0].set_query_class(DNSClass::CH);
    };
    assert_eq!(
        decide(&asked("version.bind", RecordType::TXT, chaos), &names),
        refused
    );
    let transfer = asked("ec2.internal", RecordType::AXFR, |_| ());
    assert_eq!(decide(&transfer, &names), refused);
}

#[test]
fn an_srv_record_comes_with_the_addresses_of_its_target() {
    let names = names();
    let (service, target) = (name("db.local"), name("7042.db.local"));
    let srv = SRV::new(1, 1, 5432, target.clone());
    let address = |ttl, address: IpAddr| {
        let of = if ttl == 7 { &service } else { &target };
        Record::from_rdata(of.clone(), ttl, address.into())
    };
    let records = vec![
        address(7, "10.231.0.4".parse().unwrap()),
        Record::from_rdata(service.clone(), 9, RData::SRV(srv)),
        address(9, "10.231.0.4".parse().unwrap()),
        address(9, "fd00::4".parse().unwrap()),
    ];
    let mut namespaces = Namespaces::new(&[name("local")], &[(service, 8)]);
    namespaces.register("7042", records);
    names.replace_namespaces(namespaces);
    let reply = reply_of(&names, "DB.local", RecordType::SRV);
    assert_eq!(texts(&reply.answers), ["9 SRV 1 1 5432 7042.db.local."]);
    assert_eq!(reply.answers[0].name.to_string(), "DB.local.");
    assert_eq!(
        texts(&reply.additionals),
        ["9 A 10.231.0.4", "9 AAAA fd00::4"]
    );
    assert_eq!(reply.additionals[0].name, target);
    let reply = reply_of(&names, "db.local", RecordType::A);
    assert_eq!(texts(&reply.answers), ["7 A 10.231.0.4"]);
    assert_eq!(reply.additionals, []);
    let reply = reply_of(&names, "local", RecordType::NS);
    assert_eq!(texts(&reply.answers), ["60 NS local."]);
}
