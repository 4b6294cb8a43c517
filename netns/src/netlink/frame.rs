//! One netlink message: its header, and the kernel's answers taken apart.
#![forbid(unsafe_code)]

use nix::errno::Errno;

use super::NetlinkError;

/// The flags of a message's header.
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 0x01;
    pub(crate) const ACK: u16 = 0x04;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
    /// In an answer: the list changed while it was read, so it has to be read again.
    pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
    /// In a refusal: the request is not repeated in full.
    pub(super) const CAPPED: u16 = 0x100;
    /// In a refusal: attributes that explain it follow.
    pub(super) const ACK_ATTRIBUTES: u16 = 0x200;
}

const HEADER: usize = 16;
const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const ATTRIBUTE_MESSAGE: u16 = 1;

/// A request: its type, its flags and what follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether the kernel answers it even when all is well.
    pub(super) fn is_answered(&self) -> bool {
        // The two bits of a dump mean something else one by one, for requests that make things.
        self.flags & flags::ACK != 0 || self.flags & flags::DUMP == flags::DUMP
    }

    /// Has the kernel say nothing when all is well.
    pub(super) fn answer_refusals_only(&mut self) {
        self.flags &= !flags::ACK;
    }

    /// Appends the message as the kernel reads it.
    pub(super) fn write(&self, sequence: u32, buffer: &mut Vec<u8>) {
        let length = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        buffer.extend_from_slice(&length.to_ne_bytes());
        buffer.extend_from_slice(&self.kind.to_ne_bytes());
        buffer.extend_from_slice(&self.flags.to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0u32.to_ne_bytes());
        buffer.extend_from_slice(&self.payload);
        buffer.resize(align(buffer.len()), 0);
    }
}

/// Netlink pads everything to four bytes.
pub(crate) fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// An answer of the kernel to the request with the same sequence number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) sequence: u32,
    pub(super) kind: u16,
    pub(super) interrupted: bool,
    pub(super) content: Content<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// The request was carried out, or the list is complete.
    Done,
    Refused(NetlinkError),
    Data(&'a [u8]),
}

/// Takes the first answer off a datagram.
pub(super) fn next_answer<'a>(datagram: &mut &'a [u8]) -> Result<Option<Answer<'a>>, NetlinkError> {
    if datagram.is_empty() {
        return Ok(None);
    }
    let truncated = || NetlinkError::malformed("a netlink answer is cut short");
    let length = u32_at(datagram, 0).ok_or_else(truncated)? as usize;
    let kind = u16_at(datagram, 4).ok_or_else(truncated)?;
    let flags = u16_at(datagram, 6).ok_or_else(truncated)?;
    let sequence = u32_at(datagram, 8).ok_or_else(truncated)?;
    let payload = datagram.get(HEADER..length).ok_or_else(truncated)?;
    *datagram = datagram.get(align(length)..).unwrap_or_default();
    let content = match kind {
        KIND_ERROR => outcome(payload, flags),
        KIND_DONE => Content::Done,
        _ => Content::Data(payload),
    };
    let interrupted = flags & flags::DUMP_INTERRUPTED != 0;
    Ok(Some(Answer {
        sequence,
        kind,
        interrupted,
        content,
    }))
}

fn outcome<'a>(payload: &[u8], flags: u16) -> Content<'a> {
    let code = u32_at(payload, 0).map_or(-libc::EBADMSG, u32::cast_signed);
    if code == 0 {
        return Content::Done;
    }
    let errno = Errno::from_raw(code.wrapping_neg());
    Content::Refused(NetlinkError {
        errno,
        explanation: explanation(payload, flags),
    })
}

/// The kernel's own words, which follow the header of the refused request (and the request itself,
/// unless that was left out).
fn explanation(payload: &[u8], flags: u16) -> Option<String> {
    if flags & flags::ACK_ATTRIBUTES == 0 {
        return None;
    }
    let request = u32_at(payload, 4)? as usize;
    let repeated = if flags & flags::CAPPED == 0 {
        request
    } else {
        HEADER
    };
    let attributes = payload.get(4 + align(repeated)..)?;
    let (_, text) = Attributes(attributes).find(|(kind, _)| *kind == ATTRIBUTE_MESSAGE)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Walks over netlink attributes; stops where they are not well formed.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        /// The two highest bits say that an attribute is nested, and its byte order.
        const KIND_MASK: u16 = 0x3fff;
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_padded_and_carries_its_sequence_number() {
        let frame = Frame {
            kind: 16,
            flags: 5,
            payload: vec![1, 2, 3],
        };
        let mut bytes = Vec::new();
        frame.write(7, &mut bytes);
        let golden = [19, 0, 0, 0, 16, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0];
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_refusal_carries_the_words_of_the_kernel() {
        let mut bytes = vec![0, 0, 0, 0, 2, 0, 0, 3, 9, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend((-libc::EEXIST).to_ne_bytes());
        bytes.extend([20, 0, 0, 0, 16, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([9, 0, 1, 0, b'b', b'u', b's', b'y', 0, 0, 0, 0]);
        bytes[0] = u8::try_from(bytes.len()).expect("short");
        let mut rest = bytes.as_slice();
        let answer = next_answer(&mut rest)
            .expect("well formed")
            .expect("one answer");
        let Content::Refused(error) = answer.content else {
            panic!("{answer:?}")
        };
        assert_eq!(error.errno, Errno::EEXIST);
        assert_eq!(error.explanation.as_deref(), Some("busy"));
        assert!(rest.is_empty());
    }

    #[test]
    fn a_truncated_answer_is_an_error_at_every_length() {
        let whole = [20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for length in 1..whole.len() {
            assert!(next_answer(&mut &whole[..length]).is_err(), "{length}");
        }
        assert!(next_answer(&mut &whole[..]).is_ok());
    }
}
