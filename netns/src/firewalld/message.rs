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

/// More than is ever said to us; the protocol allows 128 MiB.
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

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The reply to the call with this number; its text, if that is what it begins with.
    Return { to: u32, text: String },
    /// The refusal of the call with this number: the error's name and its text.
    Error { to: u32, name: String, text: String },
    /// A signal, or a call, which nobody should make to us.
    Other,
}

/// How long the message is whose fixed part this is; nothing if it isn't one.
pub(super) fn length(fixed: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(fixed);
    if cursor.byte()? != b'l' {
        return None;
    }
    cursor.take(3)?;
    let body = cursor.u32()? as usize;
    cursor.take(4)?;
    let fields = cursor.u32()? as usize;
    let header = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?;
    header.checked_add(body).filter(|whole| *whole <= LONGEST)
}

/// Reads a whole message; nothing if it isn't in the protocol's form.
pub(super) fn parse(bytes: &[u8]) -> Option<Incoming> {
    let mut cursor = Cursor::new(bytes);
    cursor.take(1)?;
    let kind = cursor.byte()?;
    cursor.take(10)?;
    let fields_end = FIXED.checked_add(cursor.u32()? as usize)?;
    let (mut to, mut name, mut signature) = (None, None, String::new());
    while cursor.at < fields_end {
        cursor.align(8)?;
        match (cursor.byte()?, cursor.variant()?) {
            (4, Field::Text(text)) => name = Some(text),
            (5, Field::Number(serial)) => to = Some(serial),
            (8, Field::Text(text)) => signature = text,
            _ => {}
        }
    }
    cursor.align(8)?;
    let mut text = || match signature.starts_with('s') {
        true => cursor.text(),
        false => Some(String::new()),
    };
    Some(match kind {
        METHOD_RETURN => Incoming::Return {
            to: to?,
            text: text()?,
        },
        ERROR => Incoming::Error {
            to: to?,
            name: name?,
            text: text()?,
        },
        _ => Incoming::Other,
    })
}

/// What a header's field has.
enum Field {
    Text(String),
    Number(u32),
}

/// Reads marshalled values, one after the other, within bounds.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
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
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
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
        assert_eq!(length(&bytes[..FIXED]), Some(bytes.len()));
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
        let reply = incoming(METHOD_RETURN, &[ONE_TEXT, TO_3].concat(), b"\x02\0\0\0hi\0");
        assert_eq!(length(&reply), Some(reply.len()));
        let text = |text: &str| text.to_owned();
        let expected = Incoming::Return {
            to: 3,
            text: text("hi"),
        };
        assert_eq!(parse(&reply), Some(expected));
        let empty = Incoming::Return {
            to: 3,
            text: text(""),
        };
        assert_eq!(parse(&incoming(METHOD_RETURN, TO_3, b"")), Some(empty));
        let name = b"\x04\x01s\0\x03\0\0\0a.E\0\0\0\0\0";
        let error = incoming(ERROR, &[ONE_TEXT, name, TO_3].concat(), b"\x02\0\0\0no\0");
        let expected = Incoming::Error {
            to: 3,
            name: text("a.E"),
            text: text("no"),
        };
        assert_eq!(parse(&error), Some(expected));
        assert_eq!(parse(&incoming(4, TO_3, b"")), Some(Incoming::Other));
    }

    #[test]
    fn what_breaks_off_or_lies_about_its_length_is_refused() {
        let reply = incoming(METHOD_RETURN, &[ONE_TEXT, TO_3].concat(), b"\x02\0\0\0hi\0");
        for end in 0..reply.len() {
            assert_eq!(parse(&reply[..end]), None, "{end}");
        }
        let mut long = reply.clone();
        long[12..16].fill(0xff);
        assert_eq!((length(&long), parse(&long)), (None, None));
        long[0] = b'B';
        assert_eq!(length(&long), None);
    }
}
