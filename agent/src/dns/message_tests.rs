use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, RecordType};

use super::*;
use crate::dns::local::{self, Decision};
use crate::dns::names::Names;
use crate::dns::zones::Zones;

fn name() -> Name {
    Name::from_ascii("Www.example.com.").unwrap()
}

fn query(change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(name(), RecordType::A));
    change(&mut message);
    message.to_vec().unwrap()
}

fn with_edns(size: u16) -> impl FnOnce(&mut Message) {
    move |message| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns.set_dnssec_ok(true);
        message.edns = Some(edns);
    }
}

fn asked(bytes: &[u8]) -> Asked {
    match Request::read(bytes) {
        Request::Asked(asked) => asked,
        other => panic!("{other:?}"),
    }
}

fn refused(bytes: &[u8]) -> Message {
    match Request::read(bytes) {
        Request::Refused(answer) => Message::from_vec(&answer).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn addresses(count: u32) -> Reply {
    let address = |n| RData::from(Ipv4Addr::from(n));
    Reply {
        answers: (0..count)
            .map(|n| Record::from_rdata(name(), 60, address(n)))
            .collect(),
        ..Reply::default()
    }
}

#[test]
fn an_answer_is_to_its_question() {
    let asked = asked(&query(|message| message.metadata.checking_disabled = true));
    let answer = Message::from_vec(&asked.answer(&addresses(2), 512)).unwrap();
    assert_eq!(answer.metadata.id, 0x1234);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
    assert!(answer.metadata.checking_disabled && !answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 2);
    assert!(answer.edns.is_none());
    // Some clients put letters of either case as a secret, and compare.
    assert!(answer.queries[0].name().eq_case(&name()));
}

#[test]
fn who_speaks_edns_is_answered_so() {
    let asked = asked(&query(with_edns(4096)));
    assert_eq!(asked.datagram_limit(), LARGEST_DATAGRAM);
    let reply = Reply::code(ResponseCode::ServFail);
    let answer = Message::from_vec(&asked.answer(&reply, 512)).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let edns = answer.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version()), (LARGEST_DATAGRAM, 0));
    assert!(edns.flags().dnssec_ok);
}

#[test]
fn a_datagram_is_never_larger_than_the_client_takes() {
    for (size, limit) in [
        (None, 512),
        (Some(0), 512),
        (Some(700), 700),
        (Some(65535), 1232),
    ] {
        let asked = match size {
            Some(size) => asked(&query(with_edns(size))),
            None => asked(&query(|_| ())),
        };
        assert_eq!(asked.datagram_limit(), limit);
        let answer = asked.answer(&addresses(200), limit);
        assert!(answer.len() <= usize::from(limit), "{}", answer.len());
        // As full as it can be: another record would not have fitted.
        assert!(answer.len() + 16 > usize::from(limit), "{}", answer.len());
        let message = Message::from_vec(&answer).unwrap();
        assert!(message.metadata.truncation);
        assert_eq!(message.edns.is_some(), size.is_some());
    }
    let whole = asked(&query(|_| ())).answer(&addresses(200), u16::MAX);
    assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 200);
}

#[test]
fn only_a_record_that_was_wanted_is_missed() {
    let asked = asked(&query(with_edns(512)));
    let text = RData::TXT(TXT::new(vec!["x".repeat(200); 3]));
    let reply = Reply {
        additionals: vec![Record::from_rdata(name(), 60, text)],
        ..addresses(2)
    };
    let answer = Message::from_vec(&asked.answer(&reply, 512)).unwrap();
    assert_eq!((answer.answers.len(), answer.additionals.len()), (2, 0));
    assert!(!answer.metadata.truncation);
    assert!(answer.edns.is_some());
}

#[test]
fn what_is_no_question_is_refused_and_what_is_an_answer_gets_none() {
    let update = query(|message| message.metadata.op_code = OpCode::Update);
    let code = |bytes: &[u8]| refused(bytes).metadata.response_code;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let two = query(|message| message.queries.push(message.queries[0].clone()));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let none = query(|message| message.queries.clear());
    assert_eq!(code(&none), ResponseCode::FormErr);
    let whole = query(|_| ());
    assert_eq!(code(&whole[..whole.len() - 1]), ResponseCode::FormErr);
    assert_eq!(refused(&none).metadata.id, 0x1234);
    let newer = query(|message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        message.edns = Some(edns);
    });
    // The same number as of BADSIG, which is of another record (RFC 6895, section 2.3).
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
    let answer = query(|message| message.metadata.message_type = MessageType::Response);
    for nothing in [&answer[..], &whole[..11], &[]] {
        assert!(matches!(Request::read(nothing), Request::Ignored));
    }
}

#[test]
fn resolvers_are_asked_the_same_question_under_another_number() {
    let asked = asked(&query(with_edns(4096)));
    let upstream = Message::from_vec(&asked.to_upstream(9, true).unwrap()).unwrap();
    assert_eq!(upstream.metadata.id, 9);
    assert!(upstream.metadata.recursion_desired);
    assert!(upstream.queries[0].name().eq_case(&name()));
    let edns = upstream.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.max_payload() == LARGEST_DATAGRAM);
    let plain = Message::from_vec(&asked.to_upstream(9, false).unwrap()).unwrap();
    assert!(plain.edns.is_none());
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }
}

/// Whatever comes in: an answer that can be read, to nobody but who asked, and not larger.
fn check(bytes: &[u8], reply: &Reply, names: &Names) {
    match Request::read(bytes) {
        Request::Ignored => {}
        Request::Refused(answer) => {
            assert!(answer.len() <= bytes.len() + usize::from(OPT), "{bytes:?}");
            assert_eq!(answer[..2], bytes[..2]);
            assert_eq!(answer[2] & 0x80, 0x80);
        }
        Request::Asked(asked) => {
            let limit = asked.datagram_limit();
            let answer = asked.answer(reply, limit);
            assert!(answer.len() <= usize::from(limit), "{bytes:?}");
            let message = Message::from_vec(&answer);
            let message = message.unwrap_or_else(|error| panic!("{error}: {bytes:?} {answer:?}"));
            let [question] = message.queries.as_slice() else {
                panic!("{message}");
            };
            assert_eq!(*question, asked.question);
            assert_eq!(message.edns.is_some(), asked.edns.is_some());
            asked.to_upstream(1, true).unwrap();
            if let Decision::Answer(reply) = local::decide(&asked, names) {
                assert!(Message::from_vec(&asked.answer(&reply, limit)).is_ok());
            }
        }
    }
}

#[test]
fn no_bytes_make_it_fail() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let seeds = [query(|_| ()), query(with_edns(1400)), {
        let answer = asked(&query(with_edns(900))).answer(&addresses(20), 900);
        // As a query, with all its records.
        [&answer[..2], &[1, 0], &answer[4..]].concat()
    }];
    let names = Names::new(Zones::new("example.com", &[]).unwrap());
    let replies = [addresses(100), Reply::code(ResponseCode::NXDomain)];
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=numbers.below(6) {
            let at = numbers.below(bytes.len());
            match numbers.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.insert(at, numbers.next().to_be_bytes()[0]),
                // A pointer of a compressed name, to anywhere.
                2 => bytes[at] = 0xc0 | u8::try_from(numbers.below(4)).unwrap(),
                _ => bytes[at] = numbers.next().to_be_bytes()[0],
            }
        }
        check(&bytes, &replies[round % 2], &names);
    }
    for _ in 0..20_000 {
        let length = numbers.below(64);
        let bytes: Vec<u8> = (0..length)
            .map(|_| numbers.next().to_be_bytes()[0])
            .collect();
        check(&bytes, &replies[0], &names);
    }
}
