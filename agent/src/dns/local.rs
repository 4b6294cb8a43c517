//! What is answered here, and what is asked of others.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::TTL;
use super::message::{Asked, Reply};
use super::names::{Known, Names};

/// How long it may be kept that a name doesn't exist, in seconds: a task may get it any moment.
const NEGATIVE_TTL: u32 = 5;

/// How a query is answered.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// With this.
    Answer(Reply),
    /// By whoever the host asks.
    Forward,
}

/// Decides how a query is answered.
pub fn decide(asked: &Asked, names: &Names) -> Decision {
    let question = &asked.question;
    if !asked.is_of_the_internet() || is_about_the_server(question.query_type()) {
        return Decision::Answer(Reply::code(ResponseCode::Refused));
    }
    let name = question.name();
    if is_localhost(name) {
        return Decision::Answer(localhost(name, question.query_type()));
    }
    match names.find(name) {
        Known::Records(apex, records) => {
            let reply = records_of(name, question.query_type(), &apex, records);
            Decision::Answer(with_addresses(reply, names))
        }
        Known::Nothing(apex) => Decision::Answer(Reply {
            code: ResponseCode::NXDomain,
            ..nothing(&apex)
        }),
        Known::Elsewhere if !asked.recursion_desired => {
            Decision::Answer(Reply::code(ResponseCode::Refused))
        }
        Known::Elsewhere => Decision::Forward,
    }
}

/// Transfers of zones, and types that only speak of a message.
fn is_about_the_server(of: RecordType) -> bool {
    matches!(
        of,
        RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG | RecordType::ZERO
    )
}

/// `localhost` and whatever is below it never leave the host (RFC 6761, section 6.3).
fn is_localhost(name: &Name) -> bool {
    let last = name.iter().next_back();
    last.is_some_and(|label| label.eq_ignore_ascii_case(b"localhost"))
}

fn localhost(name: &Name, wanted: RecordType) -> Reply {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    let apex = name.trim_to(1);
    records_of(name, wanted, &apex, loopback.map(record).to_vec())
}

/// The records of a name that are of the wanted type.
fn records_of(name: &Name, wanted: RecordType, apex: &Name, mut records: Vec<Record>) -> Reply {
    if name == apex {
        let own = [authority(apex), RData::NS(NS(apex.clone()))];
        records.extend(own.map(|data| Record::from_rdata(name.clone(), TTL, data)));
    }
    records.retain(|record| wanted == RecordType::ANY || record.record_type() == wanted);
    if records.is_empty() {
        return nothing(apex);
    }
    for record in &mut records {
        // As the client wrote it.
        record.name.clone_from(name);
    }
    Reply {
        authoritative: true,
        answers: records,
        ..Reply::default()
    }
}

/// Adds the addresses of what SRV records lead to: clients look for them next (RFC 2782).
fn with_addresses(mut reply: Reply, names: &Names) -> Reply {
    let targets = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(&srv.target),
            _ => None,
        });
    let found = targets.flat_map(|target| match names.find(target) {
        Known::Records(_, records) => records,
        Known::Nothing(_) | Known::Elsewhere => Vec::new(),
    });
    let addresses = found.filter(|record| record.record_type().is_ip_addr());
    reply.additionals = addresses.collect();
    reply
}

/// No such record, and for how long that may be kept (RFC 2308, section 5).
fn nothing(apex: &Name) -> Reply {
    let authority = Record::from_rdata(apex.clone(), NEGATIVE_TTL, authority(apex));
    Reply {
        authoritative: true,
        authorities: vec![authority],
        ..Reply::default()
    }
}

/// The record of a zone that no other server knows, in the form of RFC 6303, section 3.
fn authority(apex: &Name) -> RData {
    let nobody = Name::from_ascii("nobody.invalid.").unwrap_or_else(|_| apex.clone());
    let soa = SOA::new(apex.clone(), nobody, 1, 3600, 1200, 604_800, NEGATIVE_TTL);
    RData::SOA(soa)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
