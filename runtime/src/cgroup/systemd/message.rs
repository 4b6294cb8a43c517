//! D-Bus messages: the calls that are made, and the replies and signals that come.

use super::value::{Value, align, alignment};

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const VERSION: u8 = 1;

/// The fixed part of a header: endianness, type, flags, version, body length, serial, and the length of
/// the fields.
pub(super) const FIXED: usize = 16;

/// More than systemd ever says to us; the protocol allows 128 MiB.
const LONGEST: usize = 1 << 24;

/// A method to call, with its arguments.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
    pub(super) arguments: Vec<Value>,
}

impl Call {
    pub(super) fn marshal(&self, serial: u32) -> Vec<u8> {
        let mut body = Vec::new();
        for argument in &self.arguments {
            argument.marshal(&mut body);
        }
        let field =
            |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(1, Value::ObjectPath(self.path.to_owned())),
            field(2, Value::text(self.interface)),
            field(3, Value::text(self.member)),
            field(6, Value::text(self.destination)),
        ];
        if !self.arguments.is_empty() {
            let signature = self.arguments.iter().map(Value::signature).collect();
            fields.push(field(8, Value::Signature(signature)));
        }
        let mut message = vec![b'l', METHOD_CALL, 0, VERSION];
        message.extend((body.len() as u32).to_le_bytes());
        message.extend(serial.to_le_bytes());
        Value::Array("(yv)".to_owned(), fields).marshal(&mut message);
        align(&mut message, 8);
        message.extend(body);
        message
    }
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The reply to the call of this serial.
    Return { to: u32, body: Vec<u8> },
    /// The refusal of the call of this serial: the error's name and its text.
    Error { to: u32, name: String, text: String },
    /// A signal.
    Signal { member: String, body: Vec<u8> },
    /// A call, which nobody should make to us.
    Other,
}

/// How long the message is whose fixed part this is; nothing if it isn't one.
pub(super) fn length(fixed: &[u8]) -> Option<usize> {
    let mut cursor = Cursor::new(fixed);
    if cursor.byte()? != b'l' {
        return None;
    }
    cursor.skip(3)?;
    let body = cursor.u32()? as usize;
    cursor.skip(4)?;
    let fields = cursor.u32()? as usize;
    let header = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?;
    header.checked_add(body).filter(|whole| *whole <= LONGEST)
}

/// Reads a whole message; nothing if it isn't in the protocol's form.
pub(super) fn parse(bytes: &[u8]) -> Option<Incoming> {
    let mut cursor = Cursor::new(bytes);
    cursor.skip(1)?;
    let kind = cursor.byte()?;
    cursor.skip(10)?;
    let fields_end = FIXED.checked_add(cursor.u32()? as usize)?;
    let (mut to, mut name, mut member) = (None, None, None);
    while cursor.at < fields_end {
        cursor.align(8)?;
        let code = cursor.byte()?;
        match (code, cursor.variant()?) {
            (3, Field::Text(text)) => member = Some(text),
            (4, Field::Text(text)) => name = Some(text),
            (5, Field::Number(serial)) => to = Some(serial),
            _ => {}
        }
    }
    cursor.align(8)?;
    let body = bytes.get(cursor.at..)?.to_vec();
    Some(match kind {
        METHOD_RETURN => Incoming::Return { to: to?, body },
        ERROR => Incoming::Error {
            to: to?,
            name: name?,
            // Usually there is a text, though there need not be.
            text: Cursor::new(&body).text().unwrap_or_default(),
        },
        SIGNAL => Incoming::Signal {
            member: member?,
            body,
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
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(drop)
    }

    fn align(&mut self, alignment: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(alignment)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(alignment("u"))?;
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A string or an object path.
    pub(super) fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = self.take(length)?;
        self.skip(1)?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.skip(1)?;
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

    /// `Hello` as the specification's example of a header has it, field by field.
    #[test]
    fn a_call_is_marshalled_as_the_protocol_says() {
        let call = Call {
            destination: "a.b",
            path: "/a",
            interface: "a.b",
            member: "Hi",
            arguments: vec![Value::text("x"), Value::Bool(true)],
        };
        let mut want = vec![b'l', 1, 0, 1, 12, 0, 0, 0, 7, 0, 0, 0, 75, 0, 0, 0];
        want.extend(b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0");
        want.extend(b"\x02\x01s\0\x03\0\0\0a.b\0\0\0\0\0");
        want.extend(b"\x03\x01s\0\x02\0\0\0Hi\0\0\0\0\0\0");
        want.extend(b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0");
        want.extend(b"\x08\x01g\0\x02sb\0");
        align(&mut want, 8);
        want.extend(b"\x01\0\0\0x\0\0\0\x01\0\0\0");
        // The fields end with the signature, before the padding.
        want[12] = 64 + 8;
        let bytes = call.marshal(7);
        assert_eq!(bytes, want);
        assert_eq!(length(&bytes[..FIXED]), Some(bytes.len()));
    }

    fn incoming(kind: u8, fields: Vec<(u8, Value)>, arguments: &[Value]) -> Vec<u8> {
        let mut body = Vec::new();
        arguments.iter().for_each(|value| value.marshal(&mut body));
        let mut bytes = vec![b'l', kind, 1, 1];
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(9u32.to_le_bytes());
        let fields = fields.into_iter().map(|(code, value)| {
            Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
        });
        Value::Array("(yv)".to_owned(), fields.collect()).marshal(&mut bytes);
        align(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn replies_errors_and_signals_are_read() {
        let job = Value::ObjectPath("/job/1".to_owned());
        let fields = vec![(5, Value::U32(3)), (8, Value::Signature("o".to_owned()))];
        let bytes = incoming(METHOD_RETURN, fields, &[job]);
        assert_eq!(length(&bytes), Some(bytes.len()));
        let Some(Incoming::Return { to: 3, body }) = parse(&bytes) else {
            panic!("{:?}", parse(&bytes));
        };
        assert_eq!(Cursor::new(&body).text().unwrap(), "/job/1");

        let fields = vec![(4, Value::text("a.Error")), (5, Value::U32(3))];
        let bytes = incoming(ERROR, fields.clone(), &[Value::text("no")]);
        let want = |text: &str| Incoming::Error {
            to: 3,
            name: "a.Error".to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(parse(&bytes), Some(want("no")));
        assert_eq!(parse(&incoming(ERROR, fields, &[])), Some(want("")));

        let fields = vec![
            (1, Value::ObjectPath("/a".to_owned())),
            (2, Value::text("a.b")),
            (3, Value::text("JobRemoved")),
        ];
        let bytes = incoming(SIGNAL, fields, &[Value::U32(1), Value::text("x")]);
        let Some(Incoming::Signal { member, body }) = parse(&bytes) else {
            panic!("{:?}", parse(&bytes));
        };
        assert_eq!(member, "JobRemoved");
        let mut cursor = Cursor::new(&body);
        assert_eq!((cursor.u32(), cursor.text()), (Some(1), Some("x".into())));
    }

    #[test]
    fn a_message_cut_anywhere_is_refused_without_a_panic() {
        let fields = vec![(5, Value::U32(3)), (4, Value::text("a.Error"))];
        let whole = incoming(ERROR, fields, &[Value::text("no")]);
        for end in 0..whole.len() {
            let cut = &whole[..end];
            assert!(length(&cut[..end.min(FIXED)]).is_none() || end >= FIXED);
            let _parsed = parse(cut);
        }
        // And so is every length that a header could claim.
        for at in [4, 5, 6, 7, 12, 13, 14, 15] {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            let _parsed = (length(&bytes[..FIXED]), parse(&bytes));
        }
        let mut big = whole;
        big[0] = b'B';
        assert_eq!(length(&big[..FIXED]), None);
    }
}
