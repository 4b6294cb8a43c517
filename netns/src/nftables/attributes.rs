//! The attributes that nftables messages are made of.
#![forbid(unsafe_code)]

use crate::netlink::align;

/// Says that an attribute holds attributes.
const NESTED: u16 = 0x8000;

const HEADER: usize = 4;

/// How long most messages are, at most: room that grows with each attribute is asked for again and again.
const USUAL: usize = 128;

/// A list of attributes that is being written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A list that follows these bytes.
    pub(crate) fn after(header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(USUAL);
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    pub(crate) fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.parts(kind, &[value])
    }

    /// A text with the zero that the kernel expects at its end.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.parts(kind, &[value.as_bytes(), &[0]])
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds the list that `write` appends to what it is given.
    pub(crate) fn nested(self, kind: u16, write: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        let Self(mut list) = write(self.parts(kind | NESTED, &[]));
        let length = length(list.len() - start);
        if let Some(of_header) = list.get_mut(start..start + length.len()) {
            of_header.copy_from_slice(&length);
        }
        Self(list)
    }

    pub(crate) fn nested_bytes(self, kind: u16, inner: &[u8]) -> Self {
        self.bytes(kind | NESTED, inner)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn parts(self, kind: u16, value: &[&[u8]]) -> Self {
        let Self(mut list) = self;
        let whole = HEADER + value.iter().map(|part| part.len()).sum::<usize>();
        list.extend_from_slice(&length(whole));
        list.extend_from_slice(&kind.to_ne_bytes());
        value.iter().for_each(|part| list.extend_from_slice(part));
        list.resize(align(list.len()), 0);
        Self(list)
    }
}

/// What the header of an attribute of that many bytes says. There are none that are too long to say it.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::Writer;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = |list: Writer| list.text(1, "ab").number(2, 258);
        let bytes = Writer::default().nested(4, inner).finish();
        let golden = [
            20, 0, 4, 0x80, // nested
            7, 0, 1, 0, b'a', b'b', 0, 0, // text
            8, 0, 2, 0, 0, 0, 1, 2, // number
        ];
        assert_eq!(bytes, golden);
    }
}
