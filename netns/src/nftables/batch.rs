//! A batch: changes to tables that the kernel makes all at once, or not at all.
#![forbid(unsafe_code)]

use super::attributes::Writer;
use super::expression::write_expressions;
use super::{Expression, Generation, Name, Table, TableKind};
use crate::netlink::{Frame, flags};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(super) const NEW_TABLE: u16 = SUBSYSTEM << 8;
pub(super) const GET_TABLE: u16 = NEW_TABLE | 1;
const DELETE_TABLE: u16 = NEW_TABLE | 2;
pub(super) const NEW_CHAIN: u16 = NEW_TABLE | 3;
pub(super) const GET_CHAIN: u16 = NEW_TABLE | 4;
const DELETE_CHAIN: u16 = NEW_TABLE | 5;
pub(super) const NEW_RULE: u16 = NEW_TABLE | 6;
pub(super) const GET_RULE: u16 = NEW_TABLE | 7;
pub(super) const DELETE_RULE: u16 = NEW_TABLE | 8;
pub(super) const NEW_SET: u16 = NEW_TABLE | 9;
pub(super) const GET_SET: u16 = NEW_TABLE | 10;
const DELETE_SET: u16 = NEW_TABLE | 11;
pub(super) const NEW_ELEMENT: u16 = NEW_TABLE | 12;
pub(super) const GET_ELEMENT: u16 = NEW_TABLE | 13;
const DELETE_ELEMENT: u16 = NEW_TABLE | 14;
pub(super) const GET_GENERATION: u16 = NEW_TABLE | 16;

/// Where in the kernel's path a base chain sees packets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A chain: of rules that others jump to, or, with a hook, a base chain that packets enter. What
/// reaches the end of a base chain is accepted.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) name: Name,
    /// The type (`filter`, `nat`), the hook and the priority.
    pub(crate) base: Option<(&'static str, Hook, i32)>,
}

/// What a field of a key is, by the number that the `nft` command shows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Ipv4Address = 7,
    Ipv6Address = 8,
    EtherAddress = 9,
    Protocol = 12,
    Port = 13,
    LinkName = 41,
}

impl Field {
    /// How many bytes it takes in a key, where it is padded to a multiple of four.
    fn length(self) -> u32 {
        match self {
            Self::Ipv4Address | Self::Protocol | Self::Port => 4,
            Self::EtherAddress => 8,
            Self::Ipv6Address | Self::LinkName => 16,
        }
    }
}

/// A set of keys, or a map of keys to other fields.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: Name,
    fields: Vec<Field>,
    /// What a map has for each key.
    values: Option<Vec<Field>>,
    has_ranges: bool,
}

impl Set {
    /// A set of keys of these fields.
    pub(crate) fn of_keys(name: impl Into<Name>, fields: &[Field]) -> Self {
        Self {
            name: name.into(),
            fields: fields.to_vec(),
            values: None,
            has_ranges: false,
        }
    }

    /// A map of such keys to values of other fields.
    pub(crate) fn of_values(name: impl Into<Name>, fields: &[Field], values: &[Field]) -> Self {
        Self {
            values: Some(values.to_vec()),
            ..Self::of_keys(name, fields)
        }
    }

    /// A set of ranges of one field: [`Element::range`].
    pub(crate) fn of_ranges(name: impl Into<Name>, field: Field) -> Self {
        Self {
            has_ranges: true,
            ..Self::of_keys(name, &[field])
        }
    }

    fn write(&self, table: Table, id: u32) -> Writer {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        let flags = if self.values.is_some() { MAP } else { 0 }
            | if self.has_ranges { INTERVAL } else { 0 };
        let mut attributes = message(table)
            .text(2, &self.name)
            .number(3, flags)
            .number(4, kind(&self.fields))
            .number(5, length(&self.fields));
        if let Some(fields) = &self.values {
            attributes = attributes.number(6, kind(fields)).number(7, length(fields));
        }
        attributes.number(10, id)
    }
}

/// The number of a type that consists of these fields: six bits for each.
fn kind(fields: &[Field]) -> u32 {
    let fields = fields.iter();
    fields.fold(0, |all, field| all << 6 | *field as u32)
}

fn length(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.length()).sum()
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) table: Table,
    pub(crate) set: Name,
    pub(crate) key: Vec<u8>,
    /// What a map has for the key.
    pub(crate) value: Option<Vec<u8>>,
    /// Of a set of ranges: it is the first key behind one.
    ends_range: bool,
}

/// Changes that are made together.
#[derive(Debug, Default)]
pub(crate) struct Batch(Vec<Frame>);

impl Batch {
    /// Makes a table, with a comment that says what is in it. If it exists, one that nobody owns gets an owner if it
    /// is of that kind, and else nothing happens.
    pub(crate) fn add_table(&mut self, table: Table, comment: &str, kind: TableKind) {
        // The comment is an attribute of user space: type 0, length, text.
        let mut userdata = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
        userdata.extend_from_slice(comment.as_bytes());
        userdata.push(0);
        let change = message(table).number(2, kind.flags()).bytes(6, &userdata);
        self.push(NEW_TABLE, flags::CREATE, change);
    }

    /// Removes a table with all that is in it. It must exist.
    pub(crate) fn delete_table(&mut self, table: Table) {
        self.push(DELETE_TABLE, 0, message(table));
    }

    pub(crate) fn add_chain(&mut self, table: Table, chain: &Chain) {
        let mut change = message(table).text(3, &chain.name);
        if let Some((kind, hook, priority)) = chain.base {
            let place = |list: Writer| {
                list.number(1, hook as u32)
                    .number(2, priority.cast_unsigned())
            };
            change = change.nested(4, place).number(5, 1).text(7, kind);
        }
        self.push(NEW_CHAIN, flags::CREATE | flags::EXCL, change);
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, table: Table, chain: &str, rule: &[Expression]) {
        self.new_rule(table, chain, rule, flags::APPEND);
    }

    /// Puts a rule before all others of a chain.
    pub(crate) fn insert_rule(&mut self, table: Table, chain: &str, rule: &[Expression]) {
        self.new_rule(table, chain, rule, 0);
    }

    fn new_rule(&mut self, table: Table, chain: &str, rule: &[Expression], place: u16) {
        let change = message(table)
            .text(2, chain)
            .nested(4, |list| write_expressions(list, rule));
        self.push(NEW_RULE, flags::CREATE | place, change);
    }

    /// Removes a rule, which must be there.
    pub(crate) fn delete_rule(&mut self, table: Table, chain: &str, handle: u64) {
        let change = message(table)
            .text(2, chain)
            .bytes(3, &handle.to_be_bytes());
        self.push(DELETE_RULE, 0, change);
    }

    pub(crate) fn add_set(&mut self, table: Table, set: &Set, id: u32) {
        self.push(NEW_SET, flags::CREATE | flags::EXCL, set.write(table, id));
    }

    /// Makes a set unless it is there. Its number is one that no other in the batch has.
    pub(crate) fn ensure_set(&mut self, table: Table, set: &Set, id: u32) {
        self.push(NEW_SET, flags::CREATE, set.write(table, id));
    }

    /// Removes a set, with what is in it. No rule may look at it any more.
    pub(crate) fn delete_set(&mut self, table: Table, name: &str) {
        self.push(DELETE_SET, 0, message(table).text(2, name));
    }

    /// Makes a chain that others go to, unless it is there, and leaves it without rules.
    pub(crate) fn ensure_empty_chain(&mut self, table: Table, name: &Name) {
        self.push(NEW_CHAIN, flags::CREATE, message(table).text(3, name));
        // Those of the chain, all.
        self.push(DELETE_RULE, 0, message(table).text(2, name));
    }

    /// Removes a chain that has no rules, and to which nothing goes any more.
    pub(crate) fn delete_chain(&mut self, table: Table, name: &str) {
        self.push(DELETE_CHAIN, 0, message(table).text(3, name));
    }

    /// Adds an element. Nothing happens if it is there.
    pub(crate) fn add_element(&mut self, element: &Element) {
        self.push(NEW_ELEMENT, flags::CREATE, element.write());
    }

    /// Removes an element that is there, or the batch fails: not to, can only kernels from 6.3 on be told. Of a
    /// map's, the key is enough.
    pub(crate) fn remove_element(&mut self, element: &Element) {
        self.push(DELETE_ELEMENT, 0, element.write());
    }

    /// Has the changes of another one follow.
    pub(crate) fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages without their envelope, to recognise a batch by.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|frame| frame.payload.as_slice())
    }

    /// The same with their kinds, to read what they would make.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.0
            .iter()
            .map(|frame| (frame.kind, frame.payload.as_slice()))
    }

    fn push(&mut self, kind: u16, flags: u16, change: Writer) {
        self.0.push(Frame {
            kind,
            flags: flags::REQUEST | flags,
            payload: change.finish(),
        });
    }

    /// The batch as it is sent. Its last change is answered; those before it only if they fail. With a generation, the
    /// kernel refuses it (`ERESTART`) if its ruleset is of another one.
    pub(super) fn frames(&self, generation: Option<Generation>) -> Vec<Frame> {
        const GENERATION: u16 = 1;
        let envelope = |kind| {
            let [high, low] = SUBSYSTEM.to_be_bytes();
            Frame {
                kind,
                flags: flags::REQUEST,
                payload: vec![0, 0, high, low],
            }
        };
        let mut begin = envelope(BATCH_BEGIN);
        if let Some(Generation(number)) = generation {
            let list = Writer::after(&begin.payload);
            begin.payload = list.number(GENERATION, number).finish();
        }
        let mut frames = vec![begin];
        frames.extend(self.0.iter().cloned());
        if let Some(last) = frames.last_mut() {
            last.flags |= flags::ACK;
        }
        frames.push(envelope(BATCH_END));
        frames
    }
}

impl Element {
    /// A key of a set.
    pub(crate) fn new(table: Table, set: impl Into<Name>, key: Vec<u8>) -> Self {
        Self {
            table,
            set: set.into(),
            key,
            value: None,
            ends_range: false,
        }
    }

    /// A range of a set of ranges: its first key, and the first behind it.
    pub(crate) fn range(table: Table, set: Name, [first, behind]: [Vec<u8>; 2]) -> [Self; 2] {
        let end = Self {
            ends_range: true,
            ..Self::new(table, set.clone(), behind)
        };
        [Self::new(table, set, first), end]
    }

    /// A key of a map, with what it has there.
    pub(crate) fn of_map(table: Table, map: impl Into<Name>, key: Vec<u8>, value: Vec<u8>) -> Self {
        Self {
            value: Some(value),
            ..Self::new(table, map, key)
        }
    }

    fn write(&self) -> Writer {
        const INTERVAL_END: u32 = 1;
        let element = |list: Writer| {
            let mut list = list.nested(1, |key| key.bytes(1, &self.key));
            if let Some(value) = &self.value {
                list = list.nested(2, |data| data.bytes(1, value));
            }
            match self.ends_range {
                true => list.number(3, INTERVAL_END),
                false => list,
            }
        };
        message(self.table)
            .text(2, &self.set)
            .nested(3, |list| list.nested(1, element))
    }
}

/// What each message begins with: its family, a version, and no number.
pub(super) fn header(family: u8) -> Writer {
    Writer::after(&[family, 0, 0, 0])
}

/// A message about a table, or something in it.
pub(super) fn message(table: Table) -> Writer {
    header(table.family as u8).text(1, table.name)
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::*;

    const TABLE: Table = Table {
        family: Family::Inet,
        name: "t",
    };

    #[test]
    fn an_element_is_encoded_as_the_kernel_reads_it() {
        let element = Element::new(TABLE, "s", vec![10, 0, 0, 1]);
        let mut batch = Batch::default();
        batch.add_element(&element);
        let golden = [
            1, 0, 0, 0, // family
            6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b's', 0, 0, 0, // table and set
            20, 0, 3, 0x80, 16, 0, 1, 0x80, 12, 0, 1, 0x80, // list, element, key
            8, 0, 1, 0, 10, 0, 0, 1, // value
        ];
        assert_eq!(batch.payloads().next(), Some(&golden[..]));
    }

    #[test]
    fn a_batch_says_what_generation_it_is_for() {
        let mut batch = Batch::default();
        batch.delete_table(TABLE);
        let begin = |generation| batch.frames(generation).swap_remove(0).payload;
        assert_eq!(begin(None), [0, 0, 0, 10]);
        let expected = [0, 0, 0, 10, 8, 0, 1, 0, 0, 0, 0, 7];
        assert_eq!(begin(Some(Generation(7))), expected);
    }

    #[test]
    fn only_the_last_change_of_a_batch_is_answered() {
        let mut batch = Batch::default();
        batch.delete_table(TABLE);
        batch.delete_table(TABLE);
        let frames = batch.frames(None);
        let kinds: Vec<u16> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [0x10, 0x0a02, 0x0a02, 0x11]);
        let answered: Vec<bool> = frames
            .iter()
            .map(|frame| frame.flags & flags::ACK != 0)
            .collect();
        assert_eq!(answered, [false, false, true, false]);
    }
}
