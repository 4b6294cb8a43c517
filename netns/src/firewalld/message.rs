//! D-Bus messages, as far as firewalld needs them: calls with strings, and their replies.
#![forbid(unsafe_code)]

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Nobody is started to answer: a service that was stopped stays so.
const NO_AUTO_START: u8 = 2;
const VERSION: u8 = 1;

/// The fixed part of a header: endianness, type, flags, version, body length, serial, and the length of the fields.
pub(super) const FIXED: usize = 16;

/// More than is ever replied to us; the protocol allows 128 MiB.
const LONGEST: usize = 1 << 20;

/// A method to call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: &'a [&'a str],
}

impl Call<'_> {
    /// The message, with a number that its reply will have.
    pub(super) fn marshal(&self, serial: u32) -> Vec<u8> {
        let mut fields = Vec::new();
        for (code, kind, value) in [
            (1, b'o', self.path),
            (2, b's', self.interface),
            (3, b's', self.member),
            (6, b's', self.destination),
        ] {
            align(&mut fields, 8);
            fields.extend([code, 1, kind, 0]);
            put_text(&mut fields, value);
        }
        let mut body = Vec::new();
        for argument in self.arguments {
            put_text(&mut body, argument);
        }
        if let count @ 1.. = self.arguments.len() {
            align(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, count as u8]);
            fields.extend(vec![b's'; count]);
            fields.push(0);
        }
        let mut message = vec![b'l', METHOD_CALL, NO_AUTO_START, VERSION];
        for number in [body.len() as u32, serial, fields.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        align(&mut message, 8);
        message.extend(body);
        message
    }
}

fn align(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    align(bytes, 4);
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// The fixed part of a message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    order: Order,
    kind: u8,
    fields: usize,
    /// How many bytes come behind the fixed part.
    pub(super) rest: usize,
}

impl Start {
    /// Reads it; nothing if it isn't in the protocol's form, or longer than memory.
    pub(super) fn read(fixed: &[u8; FIXED]) -> Option<Self> {
        let [order, kind, ..] = *fixed;
        let order = match order {
            b'l' => Order::Little,
            b'B' => Order::Big,
            _ => return None,
        };
        let mut cursor = Cursor::new(order, fixed);
        cursor.take(4)?;
        let body = cursor.u32()? as usize;
        cursor.take(4)?;
        let fields = cursor.u32()? as usize;
        let rest = fields.checked_next_multiple_of(8)?.checked_add(body)?;
        Some(Self {
            order,
            kind,
            fields,
            rest,
        })
    }

    /// Whether it may be a reply to a call of ours; all else is a signal, or a call, which nobody should make to us.
    pub(super) fn may_be_reply(&self) -> bool {
        matches!(self.kind, METHOD_RETURN | ERROR) && self.rest <= LONGEST
    }

    /// What is behind the fixed part, if that is a reply to the call with this number.
    pub(super) fn reply(&self, rest: &[u8], call: u32) -> Option<Reply> {
        let mut cursor = Cursor::new(self.order, rest);
        let (mut to, mut name, mut signature) = (None, None, String::new());
        let mut is_whole = true;
        while is_whole && cursor.at < self.fields {
            match cursor.field() {
                Some((4, Field::Text(text))) => name = Some(text),
                Some((5, Field::Number(serial))) => to = Some(serial),
                Some((8, Field::Text(text))) => signature = text,
                Some(_) => {}
                None => is_whole = false,
            }
        }
        if to != Some(call) {
            return None;
        }
        let mut text = || match signature.starts_with('s') {
            true => cursor.align(8).and_then(|()| cursor.text()),
            false => Some(String::new()),
        };
        let reply = match (self.kind, name) {
            (METHOD_RETURN, _) => text().map(Reply::Return),
            (ERROR, Some(name)) => text().map(|text| Reply::Error { name, text }),
            _ => None,
        };
        Some(reply.filter(|_| is_whole).unwrap_or(Reply::Malformed))
    }
}

/// The reply to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Its text, if that is what it begins with.
    Return(String),
    /// A refusal: the error's name and its text.
    Error { name: String, text: String },
    /// Not in the protocol's form.
    Malformed,
}

/// Which byte of a number comes first: the sender's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

/// What a header's field has.
enum Field {
    Text(String),
    Number(u32),
}

/// Reads marshalled values, one after the other, within bounds.
struct Cursor<'a> {
    order: Order,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The bytes begin where values of all kinds are aligned.
    fn new(order: Order, bytes: &'a [u8]) -> Self {
        Self {
            order,
            bytes,
            at: 0,
        }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, alignment: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(alignment)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(match self.order {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        })
    }

    /// A string or an object path.
    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.string(length)
    }

    /// A signature.
    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.string(length)
    }

    fn string(&mut self, length: usize) -> Option<String> {
        let text = self.take(length)?;
        self.take(1)?;
        String::from_utf8(text.to_vec()).ok()
    }

    /// A header's field: its code, and what it has.
    fn field(&mut self) -> Option<(u8, Field)> {
        self.align(8)?;
        Some((self.byte()?, self.variant()?))
    }

    fn variant(&mut self) -> Option<Field> {
        match self.signature()?.as_str() {
            "s" | "o" => self.text().map(Field::Text),
            "g" => self.signature().map(Field::Text),
            "u" => self.u32().map(Field::Number),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_written_as_the_protocol_says() {
        let call = Call {
            destination: "a.b",
            path: "/a",
            interface: "a.b",
            member: "Hi",
            arguments: &["x", "yz"],
        };
        let mut expected = vec![b'l', 1, 2, 1, 15, 0, 0, 0, 7, 0, 0, 0, 72, 0, 0, 0];
        expected.extend(b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0");
        expected.extend(b"\x02\x01s\0\x03\0\0\0a.b\0\0\0\0\0");
        expected.extend(b"\x03\x01s\0\x02\0\0\0Hi\0\0\0\0\0\0");
        expected.extend(b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0");
        expected.extend(b"\x08\x01g\0\x02ss\0");
        expected.extend(b"\x01\0\0\0x\0\0\0\x02\0\0\0yz\0");
        let bytes = call.marshal(7);
        assert_eq!(bytes, expected);
        let (start, rest) = started(&bytes);
        assert_eq!(start.unwrap().rest, rest.len());
    }

    fn started(message: &[u8]) -> (Option<Start>, &[u8]) {
        let (fixed, rest) = message.split_first_chunk().unwrap();
        (Start::read(fixed), rest)
    }

    /// What a message is to the call with number 3.
    fn reply(message: &[u8]) -> Option<Reply> {
        let (start, rest) = started(message);
        start.unwrap().reply(rest, 3)
    }

    /// A message of the bus, with fields as they are on the wire: aligned, and no padding behind the last.
    fn incoming(kind: u8, fields: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'l', kind, 1, 1];
        for number in [body.len() as u32, 9, fields.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(fields);
        bytes.extend(body);
        bytes
    }

    const TO_3: &[u8] = b"\x05\x01u\0\x03\0\0\0";
    const ONE_TEXT: &[u8] = b"\x08\x01g\0\x01s\0\0";

    #[test]
    fn replies_and_errors_are_read_and_the_rest_is_told_from_them() {
        let message = incoming(METHOD_RETURN, &[ONE_TEXT, TO_3].concat(), b"\x02\0\0\0hi\0");
        assert_eq!(started(&message).0.unwrap().rest, message.len() - FIXED);
        assert_eq!(reply(&message), Some(Reply::Return("hi".into())));
        let empty = incoming(METHOD_RETURN, TO_3, b"");
        assert_eq!(reply(&empty), Some(Reply::Return(String::new())));
        let name = b"\x04\x01s\0\x03\0\0\0a.E\0\0\0\0\0";
        let error = incoming(ERROR, &[ONE_TEXT, name, TO_3].concat(), b"\x02\0\0\0no\0");
        let expected = Reply::Error {
            name: "a.E".into(),
            text: "no".into(),
        };
        assert_eq!(reply(&error), Some(expected));
        let (start, rest) = started(&message);
        assert_eq!(start.unwrap().reply(rest, 4), None, "to another call");
        assert!(!started(&incoming(4, TO_3, b"")).0.unwrap().may_be_reply());
    }

    #[test]
    fn numbers_come_in_either_order() {
        let mut message = vec![b'B', METHOD_RETURN, 1, 1];
        message.extend(b"\0\0\0\x07\0\0\0\x09\0\0\0\x10");
        message.extend(b"\x08\x01g\0\x01s\0\0\x05\x01u\0\0\0\0\x03\0\0\0\x02hi\0");
        assert_eq!(reply(&message), Some(Reply::Return("hi".into())));
    }

    #[test]
    fn a_reply_that_breaks_off_or_has_what_is_unknown_is_malformed_if_it_is_to_us() {
        let message = incoming(METHOD_RETURN, &[TO_3, ONE_TEXT].concat(), b"\x02\0\0\0hi\0");
        for end in FIXED..message.len() {
            let malformed = (end >= FIXED + TO_3.len()).then_some(Reply::Malformed);
            assert_eq!(reply(&message[..end]), malformed, "{end}");
        }
        let unknown = b"\x0b\x02ai\0\0\0\0";
        let after = incoming(METHOD_RETURN, &[TO_3, unknown].concat(), b"");
        assert_eq!(reply(&after), Some(Reply::Malformed));
        let before = incoming(METHOD_RETURN, &[unknown, TO_3].concat(), b"");
        assert_eq!(reply(&before), None);
    }

    #[test]
    fn what_lies_about_its_length_is_no_reply() {
        let mut long = incoming(METHOD_RETURN, &[ONE_TEXT, TO_3].concat(), b"");
        long[4..8].fill(0xff);
        assert!(!started(&long).0.is_some_and(|start| start.may_be_reply()));
        long[0] = b'x';
        assert_eq!(started(&long).0, None);
    }
}
