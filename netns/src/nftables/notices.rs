//! What the kernel tells of changes to the ruleset, whoever makes them.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::sys::socket::SockProtocol;

use super::batch::{DELETE_RULE, NEW_CHAIN, NEW_RULE, NEW_TABLE};
use super::socket::{FAMILY_HEADER, find, text};
use crate::netlink::{NetlinkError, Socket};

/// The end of a transaction.
const NEW_GENERATION: u16 = NEW_TABLE | 15;

/// A process that changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id, as in the first PID namespace.
    pub id: u32,
    /// The name of its program, of which the kernel knows fifteen bytes.
    pub name: String,
}

/// One thing that the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A table, or something in it, was made, changed or removed.
    Change {
        /// The number of the table's family.
        family: u8,
        table: String,
        /// Of a chain or a rule.
        chain: Option<String>,
    },
    /// Everything since the last of these was one transaction, of this process.
    Commit(Process),
}

impl Notice {
    fn read(kind: u16, payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(FAMILY_HEADER..)?;
        if kind == NEW_GENERATION {
            let id = find(attributes, 2)?.try_into().ok()?;
            return Some(Self::Commit(Process {
                id: u32::from_be_bytes(id),
                name: text(find(attributes, 3)?),
            }));
        }
        let chain = match kind {
            NEW_CHAIN..NEW_RULE => find(attributes, 3).map(text),
            NEW_RULE..=DELETE_RULE => find(attributes, 2).map(text),
            _ => None,
        };
        Some(Self::Change {
            family: *payload.first()?,
            table: text(find(attributes, 1)?),
            chain,
        })
    }
}

/// A socket that hears of every change to the ruleset of its network namespace but those of one other socket.
#[derive(Debug)]
pub(crate) struct Notices(Socket);

impl Notices {
    /// From now on, without what the socket with the number `except` does.
    pub(crate) fn open(except: u32) -> Result<Self, NetlinkError> {
        const NFTABLES: u32 = 1 << 6;
        let socket = Socket::subscribe(SockProtocol::NetlinkNetFilter, NFTABLES)?;
        socket.ignore(except)?;
        socket.allow_large_backlog()?;
        Ok(Self(socket))
    }

    /// What has been told, or is before the deadline. `ENOBUFS` means that something was, and is lost.
    pub(crate) fn read(&mut self, deadline: Instant) -> Result<Vec<Notice>, NetlinkError> {
        let messages = self.0.listen(deadline)?;
        let notices = messages
            .iter()
            .filter_map(|(kind, payload)| Notice::read(*kind, payload));
        Ok(notices.collect())
    }

    /// Whether anything such has been told, or may have been.
    pub(crate) fn has_heard(
        &mut self,
        is_such: impl Fn(&Notice) -> bool,
    ) -> Result<bool, NetlinkError> {
        self.0.has_heard(|(kind, payload)| {
            Notice::read(*kind, payload).is_some_and(|notice| is_such(&notice))
        })
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::Writer;
    use super::*;

    fn read(kind: u16, family: u8, attributes: Writer) -> Option<Notice> {
        let payload = [vec![family, 0, 0, 0], attributes.finish()].concat();
        Notice::read(kind, &payload)
    }

    #[test]
    fn a_rule_and_a_chain_say_which_chain_it_is() {
        let change = |chain: Option<&str>| {
            Some(Notice::Change {
                family: 2,
                table: "filter".into(),
                chain: chain.map(str::to_owned),
            })
        };
        let rule = Writer::default().text(1, "filter").text(2, "FORWARD");
        assert_eq!(read(0x0a08, 2, rule), change(Some("FORWARD")));
        let chain = Writer::default().text(1, "filter").text(3, "FORWARD");
        assert_eq!(read(0x0a03, 2, chain), change(Some("FORWARD")));
        let elements = Writer::default().text(1, "filter").text(2, "a-set");
        assert_eq!(read(0x0a0e, 2, elements), change(None));
        assert_eq!(read(0x0a02, 2, Writer::default()), None);
    }

    #[test]
    fn a_transaction_says_whose_it_was() {
        let attributes = Writer::default()
            .number(1, 7)
            .number(2, 4711)
            .text(3, "nft");
        let process = Process {
            id: 4711,
            name: "nft".into(),
        };
        assert_eq!(read(0x0a0f, 0, attributes), Some(Notice::Commit(process)));
    }
}
