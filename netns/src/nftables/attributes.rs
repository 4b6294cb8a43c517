//! The attributes that nftables messages are made of.
#![forbid(unsafe_code)]

use crate::netlink::align;

/// Says that an attribute holds attributes.
const NESTED: u16 = 0x8000;

const HEADER: usize = 4;

/// How long most lists are, at most: room that grows with each attribute is asked for again and again.
const USUAL: usize = 64;

/// A list of attributes that is being written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
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

    pub(crate) fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(crate) fn nested_bytes(self, kind: u16, inner: &[u8]) -> Self {
        self.bytes(kind | NESTED, inner)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn parts(mut self, kind: u16, value: &[&[u8]]) -> Self {
        let length = HEADER + value.iter().map(|part| part.len()).sum::<usize>();
        if self.0.capacity() == 0 {
            self.0.reserve(length.max(USUAL));
        }
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        value.iter().for_each(|part| self.0.extend_from_slice(part));
        self.0.resize(align(self.0.len()), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Writer;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = Writer::default().text(1, "ab").number(2, 258);
        let bytes = Writer::default().nested(4, inner).finish();
        let golden = [
            20, 0, 4, 0x80, // nested
            7, 0, 1, 0, b'a', b'b', 0, 0, // text
            8, 0, 2, 0, 0, 0, 1, 2, // number
        ];
        assert_eq!(bytes, golden);
    }
}
