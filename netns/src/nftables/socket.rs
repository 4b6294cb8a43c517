//! The socket of nftables: batches go out, what a table is and a set's keys come in.
#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::attributes::Writer;
use super::batch::{Batch, GET_CHAIN, GET_RULE, GET_TABLE, frame};
use super::{LinkRule, Table, TableState};
use crate::netlink::{Attributes, NetlinkError, Socket, flags};

/// What is before the attributes in each message.
pub(super) const FAMILY_HEADER: usize = 4;

/// A socket for nftables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct NftSocket(Socket);

impl NftSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        socket.allow_large_requests()?;
        Ok(Self(socket))
    }

    /// Makes all changes of the batch, or none.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.0.request(&batch.into_frames()).map(drop)
    }

    /// A table, if it is there.
    pub(crate) fn table(&mut self, table: Table) -> Result<Option<TableState>, NetlinkError> {
        let attributes = Writer::default().text(1, table.name).finish();
        let request = frame(GET_TABLE, flags::ACK, table.family, attributes);
        let messages = match self.0.request(&[request]) {
            Err(error) if error.errno == Errno::ENOENT => return Ok(None),
            outcome => outcome?,
        };
        let payload = messages
            .first()
            .and_then(|(_, payload)| payload.get(FAMILY_HEADER..));
        Ok(Some(TableState::read(payload.unwrap_or_default())))
    }

    /// The number that the kernel knows the socket by: as the owner of tables, and as who changed something.
    pub(crate) fn port(&self) -> u32 {
        self.0.port()
    }

    /// The names of a table's chains.
    pub(crate) fn chains(&mut self, table: Table) -> Result<Vec<String>, NetlinkError> {
        let request = frame(GET_CHAIN, flags::DUMP, table.family, Vec::new());
        let messages = self.0.request(&[request])?;
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
        let attributes = Writer::default().text(1, table.name).text(2, chain);
        let request = frame(GET_RULE, flags::DUMP, table.family, attributes.finish());
        let messages = self.0.request(&[request])?;
        let read = |payload: &[u8]| {
            let attributes = payload.get(FAMILY_HEADER..)?;
            let handle = find(attributes, HANDLE)?.try_into().ok()?;
            let rule = find(attributes, EXPRESSIONS).and_then(LinkRule::read);
            Some((u64::from_be_bytes(handle), rule))
        };
        let payloads = messages.iter().map(|(_, payload)| payload.as_slice());
        Ok(payloads.filter_map(read).collect())
    }
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
