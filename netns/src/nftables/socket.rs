//! The socket of nftables: batches go out, what a table is and a set's keys come in.
#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use super::attributes::Writer;
use super::batch::{
    Batch, GET_CHAIN, GET_ELEMENT, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, header, message,
};
use super::{Family, LinkRule, Place, Ruleset, Table, TableState};
use crate::netlink::{Attributes, Frame, NetlinkError, Socket, flags};

/// What is before the attributes in each message.
pub(super) const FAMILY_HEADER: usize = 4;

/// How often the kernel's ruleset has been changed, by anybody, in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation(pub(super) u32);

impl Generation {
    /// The next one; the kernel leaves out zero.
    fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(1))
    }
}

/// A socket for nftables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct NftSocket {
    socket: Socket,
    /// Of the ruleset as our last change left it, as long as nobody else has been seen to change anything.
    known: Option<Generation>,
}

impl NftSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.allow_large_requests()?;
        Ok(Self {
            socket,
            known: None,
        })
    }

    /// Makes all changes of the batch, or none. It has to be one that changes something.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Some(known) = self.known {
            if self.commit_to(batch, known)? {
                return Ok(());
            }
            self.known = None;
        }
        self.socket.request(&batch.frames(None)).map(drop)
    }

    /// Does the same, so that from then on it is known whether somebody else changes anything.
    pub(crate) fn commit_and_know(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        const ATTEMPTS: u32 = 5;
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            if self.commit_to(batch, generation)? {
                return Ok(());
            }
        }
        self.known = None;
        self.commit(batch)
    }

    /// Makes all changes to a ruleset of this generation; whether it was one.
    pub(crate) fn commit_to(
        &mut self,
        batch: &Batch,
        generation: Generation,
    ) -> Result<bool, NetlinkError> {
        match self.socket.request(&batch.frames(Some(generation))) {
            Err(error) if error.errno == Errno::ERESTART => Ok(false),
            Err(error) => {
                // What has become of it can't be told.
                self.known = None;
                Err(error)
            }
            Ok(_) => {
                self.known = Some(generation.next());
                Ok(true)
            }
        }
    }

    /// The generation that our last change made, if nobody else has changed anything since.
    pub(crate) fn known(&self) -> Option<Generation> {
        self.known
    }

    /// Takes the ruleset of this generation as one that our last change made.
    pub(crate) fn set_known(&mut self, generation: Generation) {
        self.known = Some(generation);
    }

    /// The generation of the ruleset as it is.
    pub(crate) fn generation(&mut self) -> Result<Generation, NetlinkError> {
        const NUMBER: u16 = 1;
        let request = question(GET_GENERATION, flags::ACK, header(Family::Any as u8));
        let messages = self.socket.request(&[request])?;
        let number = messages.first().and_then(|(_, payload)| {
            let attributes = payload.get(FAMILY_HEADER..)?;
            find(attributes, NUMBER)?.try_into().ok()
        });
        let number = number.ok_or_else(|| NetlinkError::malformed("a generation has no number"))?;
        Ok(Generation(u32::from_be_bytes(number)))
    }

    /// A table, if it is there.
    pub(crate) fn table(&mut self, table: Table) -> Result<Option<TableState>, NetlinkError> {
        let request = question(GET_TABLE, flags::ACK, message(table));
        let messages = match self.socket.request(&[request]) {
            Err(error) if error.errno == Errno::ENOENT => return Ok(None),
            outcome => outcome?,
        };
        let payload = messages
            .first()
            .and_then(|(_, payload)| payload.get(FAMILY_HEADER..));
        Ok(Some(TableState::read(payload.unwrap_or_default())))
    }

    /// A number that no other network namespace has during a boot (`SO_NETNS_COOKIE`, Linux 5.14).
    pub(crate) fn netns_cookie(&self) -> Option<u64> {
        self.socket.netns_cookie()
    }

    /// The number that the kernel knows the socket by: as the owner of tables, and as who changed something.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The names of a table's chains.
    pub(crate) fn chains(&mut self, table: Table) -> Result<Vec<String>, NetlinkError> {
        let request = list(GET_CHAIN, header(table.family as u8));
        let messages = self.socket.request(&[request])?;
        let name = |payload: &[u8]| {
            let attributes = payload.get(FAMILY_HEADER..)?;
            let is_ours = text(find(attributes, 1)?) == table.name;
            is_ours.then(|| find(attributes, 3).map(text))?
        };
        let payloads = messages.iter().map(|(_, payload)| payload.as_slice());
        Ok(payloads.filter_map(name).collect())
    }

    /// The handles of a chain's rules, in their order, each with the rule if it is about links alone.
    pub(crate) fn link_rules(
        &mut self,
        table: Table,
        chain: &str,
    ) -> Result<Vec<(u64, Option<LinkRule>)>, NetlinkError> {
        const HANDLE: u16 = 3;
        const EXPRESSIONS: u16 = 4;
        let request = list(GET_RULE, message(table).text(2, chain));
        let messages = self.socket.request(&[request])?;
        let read = |payload: &[u8]| {
            let attributes = payload.get(FAMILY_HEADER..)?;
            let handle = find(attributes, HANDLE)?.try_into().ok()?;
            let rule = find(attributes, EXPRESSIONS).and_then(LinkRule::read);
            Some((u64::from_be_bytes(handle), rule))
        };
        let payloads = messages.iter().map(|(_, payload)| payload.as_slice());
        Ok(payloads.filter_map(read).collect())
    }

    /// All chains with their rules, whosever they are; and of these tables, and of rules, the sets with what is in them.
    pub(crate) fn ruleset(&mut self, ours: &[Table]) -> Result<Ruleset, NetlinkError> {
        const ALL_FAMILIES: u8 = 0;
        let mut ruleset = Ruleset::default();
        for kind in [GET_CHAIN, GET_RULE, GET_SET] {
            self.read_into(&mut ruleset, list(kind, header(ALL_FAMILIES)))?;
        }
        let is_ours = |place: &Place| {
            let mut ours = ours.iter();
            ours.any(|table| place.family == table.family as u8 && place.table == table.name)
        };
        // Others' may be large.
        ruleset
            .sets
            .retain(|place, set| is_ours(place) || set.is_anonymous);
        let places: Vec<Place> = ruleset.sets.keys().cloned().collect();
        for place in places {
            self.read_into(&mut ruleset, elements_of(&place))?;
        }
        ruleset.sets.retain(|_, set| set.is_understood());
        Ok(ruleset)
    }

    /// What is in one table.
    pub(crate) fn contents(
        &mut self,
        table: Table,
        into: &mut Ruleset,
    ) -> Result<(), NetlinkError> {
        let mut all = Ruleset::default();
        for kind in [GET_CHAIN, GET_RULE, GET_SET] {
            self.read_into(&mut all, list(kind, message(table)))?;
        }
        // Not every kernel lists the chains of one table alone.
        all.chains.retain(|place, _| place.table == table.name);
        all.sets.retain(|place, _| place.table == table.name);
        let places: Vec<Place> = all.sets.keys().cloned().collect();
        for place in places {
            self.read_into(&mut all, elements_of(&place))?;
        }
        into.chains.append(&mut all.chains);
        into.sets.append(&mut all.sets);
        Ok(())
    }

    /// Adds the answers to a request. What has gone meanwhile has no answer.
    fn read_into(&mut self, ruleset: &mut Ruleset, request: Frame) -> Result<(), NetlinkError> {
        match self.socket.request(&[request]) {
            Err(error) if error.errno == Errno::ENOENT => {}
            outcome => {
                let messages = outcome?;
                let messages = messages
                    .iter()
                    .map(|(kind, payload)| (*kind, payload.as_slice()));
                ruleset.read(messages);
            }
        }
        Ok(())
    }
}

fn question(kind: u16, flags: u16, content: Writer) -> Frame {
    Frame {
        kind,
        flags: flags::REQUEST | flags,
        payload: content.finish(),
    }
}

fn list(kind: u16, which: Writer) -> Frame {
    question(kind, flags::DUMP, which)
}

fn elements_of(set: &Place) -> Frame {
    let which = header(set.family).text(1, &set.table).text(2, &set.name);
    list(GET_ELEMENT, which)
}

/// A text without the zero at its end.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8_lossy(text).into_owned()
}

/// The first attribute of a kind.
pub(crate) fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}
