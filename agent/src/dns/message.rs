//! Queries as they come in and answers as they go out, byte for byte within their limits.

use std::iter;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// The most of an answer that one datagram carries: what passes everywhere in one piece (the
/// "DNS flag day 2020" of the DNS software's makers).
pub const LARGEST_DATAGRAM: u16 = 1232;

/// What a client takes in a datagram if it doesn't say (RFC 1035, section 4.2.1).
const SMALLEST_DATAGRAM: u16 = 512;

/// The length of a message's header.
const HEADER: usize = 12;

/// The length of the OPT record in our answers: no name, type, size, flags and no options.
const OPT: u16 = 11;

/// What came in.
#[derive(Debug)]
pub enum Request {
    /// A question that can have an answer.
    Asked(Asked),
    /// Something else, which has this answer.
    Refused(Vec<u8>),
    /// Nothing that may have an answer: it is none of ours to make, or it is an answer itself.
    Ignored,
}

/// A client's question.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    id: u16,
    /// The name, as the client wrote it, the type and the class.
    pub question: Query,
    /// Whether we shall ask others.
    pub recursion_desired: bool,
    /// Whether an answer that fails validation is wanted all the same.
    pub checking_disabled: bool,
    /// Whether signatures are wanted.
    pub dnssec_ok: bool,
    /// The largest datagram that the client takes, if it speaks EDNS (RFC 6891).
    edns: Option<u16>,
}

/// An answer, before it is fitted to the client.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the DNS's own words")]
pub struct Reply {
    pub code: ResponseCode,
    pub authoritative: bool,
    pub authentic_data: bool,
    pub truncated: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    /// An answer that only has a code.
    pub fn code(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }
}

impl Request {
    /// Reads what came in.
    pub fn read(bytes: &[u8]) -> Self {
        let Some((id, flags)) = header(bytes) else {
            return Self::Ignored;
        };
        let opcode = (flags >> 11) & 0xf;
        if flags >> 15 == 1 {
            return Self::Ignored;
        }
        if opcode != 0 {
            return Self::Refused(bare(id, flags, ResponseCode::NotImp));
        }
        // One question, as everyone asks and RFC 9619 demands; looked at first, since the parser
        // makes room for as many as are announced.
        let one_question = bytes.get(4..6) == Some(&[0, 1]);
        let Some(message) = one_question
            .then(|| Message::from_vec(bytes).ok())
            .flatten()
        else {
            return Self::Refused(bare(id, flags, ResponseCode::FormErr));
        };
        let version = message.edns.as_ref().map_or(0, Edns::version);
        match Asked::of(message) {
            Some(asked) if version == 0 => Self::Asked(asked),
            Some(asked) => {
                let reply = Reply::code(ResponseCode::BADVERS);
                Self::Refused(asked.answer(&reply, SMALLEST_DATAGRAM))
            }
            None => Self::Refused(bare(id, flags, ResponseCode::FormErr)),
        }
    }
}

impl Asked {
    fn of(mut message: Message) -> Option<Self> {
        let question = message.queries.pop()?;
        let edns = message.edns.as_ref();
        Some(Self {
            id: message.metadata.id,
            question,
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
            edns: edns.map(Edns::max_payload),
        })
    }

    /// Whether the question is about the Internet, the only class that there is.
    pub fn is_of_the_internet(&self) -> bool {
        self.question.query_class() == DNSClass::IN
    }

    /// The largest answer to this client in a datagram.
    pub fn datagram_limit(&self) -> u16 {
        let size = self.edns.unwrap_or_default();
        size.clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM)
    }

    /// The question as it is put to another server, under a number of our own.
    pub fn to_upstream(&self, id: u16, with_edns: bool) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.queries.push(self.question.clone());
        if with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_DATAGRAM);
            edns.set_dnssec_ok(self.dnssec_ok);
            message.edns = Some(edns);
        }
        message.to_vec().ok()
    }

    /// The answer's bytes, at most `limit`. Records that have no room are left out whole, and the
    /// answer says so, unless they were additional ones (RFC 2181, section 9).
    pub fn answer(&self, reply: &Reply, limit: u16) -> Vec<u8> {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        let metadata = &mut message.metadata;
        metadata.recursion_desired = self.recursion_desired;
        metadata.recursion_available = true;
        metadata.checking_disabled = self.checking_disabled;
        metadata.authoritative = reply.authoritative;
        metadata.authentic_data = reply.authentic_data;
        metadata.truncation = reply.truncated;
        metadata.response_code = reply.code;
        message.queries.push(self.question.clone());
        message.answers.clone_from(&reply.answers);
        message.authorities.clone_from(&reply.authorities);
        message.additionals.clone_from(&reply.additionals);
        let room = limit - self.edns.map_or(0, |_| OPT);
        let mut bytes = fit(&message, room);
        if bytes.as_deref().is_some_and(is_truncated) {
            message.additionals.clear();
            bytes = fit(&message, room);
        }
        match bytes {
            Some(bytes) if self.edns.is_some() => self.with_opt(bytes, reply.code),
            Some(bytes) => bytes,
            // A question that was read can be written, and what doesn't fit is left out.
            None => bare(self.id, 0, ResponseCode::ServFail),
        }
    }

    /// Adds the OPT record, for which the other records have left room.
    fn with_opt(&self, mut bytes: Vec<u8>, code: ResponseCode) -> Vec<u8> {
        let dnssec_ok = if self.dnssec_ok { 0x80 } else { 0 };
        let [size_high, size_low] = LARGEST_DATAGRAM.to_be_bytes();
        bytes.extend([
            0,
            0,
            41,
            size_high,
            size_low,
            code.high(),
            0,
            dnssec_ok,
            0,
            0,
            0,
        ]);
        if let Some([high, low]) = bytes.get_mut(10..HEADER) {
            let additionals = u16::from_be_bytes([*high, *low]).saturating_add(1);
            [*high, *low] = additionals.to_be_bytes();
        }
        bytes
    }
}

/// As much of a message as fits.
fn fit(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(SMALLEST_DATAGRAM));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    // What was begun of the first record that didn't fit.
    encoder.trim();
    Some(bytes)
}

/// Whether a message says that something of it was left out.
fn is_truncated(bytes: &[u8]) -> bool {
    header(bytes).is_some_and(|(_, flags)| flags & 0x0200 != 0)
}

/// A message's number and its flags.
fn header(bytes: &[u8]) -> Option<(u16, u16)> {
    match bytes {
        [a, b, c, d, rest @ ..] if rest.len() >= HEADER - 4 => {
            Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
        }
        _ => None,
    }
}

/// An answer of a header only, to what has these flags.
fn bare(id: u16, flags: u16, code: ResponseCode) -> Vec<u8> {
    let kept = flags & 0x7900;
    let flags = 0x8000 | kept | u16::from(code.low());
    let words = [id, flags].into_iter().chain(iter::repeat_n(0, 4));
    words.flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
