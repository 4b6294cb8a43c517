//! What a table is besides its contents: its comment, and whose it is.
#![forbid(unsafe_code)]

use super::socket::find;

const OWNED: u32 = 2;
const PERSISTENT: u32 = 4;

/// Who may change a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableKind {
    /// Everybody, and `nft flush ruleset` removes it.
    Plain,
    /// The socket that made it, and nobody else while that is open. Then it stays, and is anyone's, until a
    /// socket makes it its own. Since Linux 6.9; older ones refuse it with `EOPNOTSUPP`.
    Owned,
}

impl TableKind {
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Owned => OWNED | PERSISTENT,
        }
    }
}

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableState {
    /// Empty if it has none.
    pub(crate) comment: String,
    /// The port of the socket that owns it, if one does.
    pub(crate) owner: Option<u32>,
    /// Whether packets pass it by.
    pub(crate) is_dormant: bool,
}

impl TableState {
    pub(super) fn read(attributes: &[u8]) -> Self {
        const FLAGS: u16 = 2;
        const DORMANT: u32 = 1;
        const USERDATA: u16 = 6;
        const OWNER: u16 = 7;
        let number = |kind| {
            let value = find(attributes, kind)?.try_into().ok()?;
            Some(u32::from_be_bytes(value))
        };
        // Type 0, length, text, zero.
        let comment = match find(attributes, USERDATA) {
            Some([0, _, text @ .., 0]) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        Self {
            comment,
            owner: number(OWNER),
            is_dormant: number(FLAGS).is_some_and(|flags| flags & DORMANT != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::Writer;
    use super::*;

    #[test]
    fn the_comment_and_the_owner_are_read() {
        let attributes = Writer::default()
            .bytes(6, b"\0\x03hi\0")
            .number(7, 4711)
            .finish();
        let state = TableState::read(&attributes);
        assert_eq!((state.comment.as_str(), state.owner), ("hi", Some(4711)));
    }
}
