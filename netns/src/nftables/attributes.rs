//! The attributes that nftables messages are made of.
#![forbid(unsafe_code)]

use crate::netlink::align;

/// Says that an attribute holds attributes.
const NESTED: u16 = 0x8000;

/// A list of attributes that is being written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.header(kind, value.len());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
        self
    }

    /// A text with the zero that the kernel expects at its end.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
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

    fn header(&mut self, kind: u16, length: usize) {
        let length = u16::try_from(length + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
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
