//! A ruleset as the kernel lists it, or as a batch would make it: both consist of the same messages.
//!
//! Rules are kept as the bytes of their expressions, each of which has a name and attributes; what they mean is for those
//! who look at them. Sets have their elements only where they were asked for.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::batch::{NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET};
use super::socket::{FAMILY_HEADER, find, text};
use crate::netlink::Attributes;

/// What a chain or a set is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The number of its table's family.
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
}

impl Place {
    /// One in a table of ours.
    pub(crate) fn of(table: super::Table, name: &str) -> Self {
        Self {
            family: table.family as u8,
            table: table.name.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Another in the same table.
    pub(crate) fn sibling(&self, name: String) -> Self {
        Self {
            name,
            ..self.clone()
        }
    }
}

/// Where a base chain sees packets, and what becomes of those that reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedBase {
    pub(crate) hook: u32,
    pub(crate) priority: i32,
    /// They are dropped.
    pub(crate) drops: bool,
}

/// A chain and its rules, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListedChain {
    pub(crate) base: Option<ListedBase>,
    pub(crate) rules: Vec<ListedRule>,
}

/// A rule, as the list of its expressions: there are hundreds, and most are only compared.
#[derive(Debug, Clone)]
pub(crate) struct ListedRule(Vec<u8>);

/// One instruction of a rule: its name, and its attributes as bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListedExpression<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a [u8],
}

/// The elements of a set or a map.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListedSet {
    /// It is a part of a rule, and small.
    pub(crate) is_anonymous: bool,
    pub(crate) has_ranges: bool,
    is_map: bool,
    has_ends: bool,
    is_sorted: bool,
    /// In the order of their keys.
    pub(crate) elements: Vec<ListedElement>,
}

/// A key of a set, with what a map has for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListedElement {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Value>,
    /// Of a set of ranges: it is the first key behind one.
    pub(crate) ends_range: bool,
}

/// Chains and sets, by their places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ruleset {
    pub(crate) chains: BTreeMap<Place, ListedChain>,
    pub(crate) sets: BTreeMap<Place, ListedSet>,
}

impl Ruleset {
    /// Adds what these messages say is there; those of other kinds say nothing.
    pub(crate) fn read<'a>(&mut self, messages: impl IntoIterator<Item = (u16, &'a [u8])>) {
        for (kind, payload) in messages {
            let attributes = payload.get(FAMILY_HEADER..).unwrap_or_default();
            let family = payload.first().copied().unwrap_or_default();
            match kind {
                NEW_CHAIN => self.read_chain(family, attributes),
                NEW_RULE => self.read_rule(family, attributes),
                NEW_SET => self.read_set(family, attributes),
                NEW_ELEMENT => self.read_elements(family, attributes),
                _ => None,
            };
        }
        for set in self.sets.values_mut().filter(|set| !set.is_sorted) {
            set.elements.sort();
            // An element that is added again is one.
            set.elements.dedup();
            set.is_sorted = true;
        }
    }

    /// Whether it is what was written: the same chains, rules, sets and elements, and no others.
    pub(crate) fn is_as(&self, written: &Self) -> bool {
        fn same<A>(
            own: &BTreeMap<Place, A>,
            written: &BTreeMap<Place, A>,
            is_as: fn(&A, &A) -> bool,
        ) -> bool {
            own.len() == written.len()
                && own
                    .iter()
                    .zip(written)
                    .all(|(own, written)| own.0 == written.0 && is_as(own.1, written.1))
        }
        same(&self.chains, &written.chains, ListedChain::is_as)
            && same(&self.sets, &written.sets, ListedSet::is_as)
    }

    fn read_chain(&mut self, family: u8, attributes: &[u8]) -> Option<()> {
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        let place = place(family, attributes, 3)?;
        let chain = self.chains.entry(place).or_default();
        let hook = find(attributes, HOOK)?;
        chain.base = Some(ListedBase {
            hook: number(hook, 1)?,
            priority: number(hook, 2)?.cast_signed(),
            drops: number(attributes, POLICY) == Some(0),
        });
        Some(())
    }

    fn read_rule(&mut self, family: u8, attributes: &[u8]) -> Option<()> {
        const EXPRESSIONS: u16 = 4;
        let place = place(family, attributes, 2)?;
        let list = find(attributes, EXPRESSIONS).unwrap_or_default();
        let rule = ListedRule(list.to_vec());
        self.chains.entry(place).or_default().rules.push(rule);
        Some(())
    }

    fn read_set(&mut self, family: u8, attributes: &[u8]) -> Option<()> {
        const FLAGS: u16 = 3;
        const ANONYMOUS: u32 = 1;
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        let set = self.sets.entry(place(family, attributes, 2)?).or_default();
        let flags = number(attributes, FLAGS).unwrap_or_default();
        set.is_anonymous = flags & ANONYMOUS != 0;
        set.has_ranges = flags & INTERVAL != 0;
        set.is_map = flags & MAP != 0;
        Some(())
    }

    fn read_elements(&mut self, family: u8, attributes: &[u8]) -> Option<()> {
        const ELEMENTS: u16 = 3;
        const INTERVAL_END: u32 = 1;
        let set = self.sets.entry(place(family, attributes, 2)?).or_default();
        let key = |element: &[u8]| find(find(element, 1)?, 1).map(<[u8]>::to_vec);
        // Keys of several fields, each of which is a range, have an end of their own.
        const KEY_END: u16 = 10;
        let list = || Attributes(find(attributes, ELEMENTS).unwrap_or_default());
        set.has_ends |= list().any(|(_, element)| find(element, KEY_END).is_some());
        let read = |(_, element): (u16, &[u8])| {
            let flags = number(element, 3).unwrap_or_default();
            Some(ListedElement {
                key: key(element)?,
                value: find(element, 2).and_then(Value::read),
                ends_range: flags & INTERVAL_END != 0,
            })
        };
        set.elements.extend(list().filter_map(read));
        set.is_sorted = false;
        Some(())
    }
}

impl ListedChain {
    fn is_as(&self, written: &Self) -> bool {
        let (own, written_rules) = (self.rules.iter(), written.rules.iter());
        self.base == written.base
            && own.len() == written_rules.len()
            && own
                .zip(written_rules)
                .all(|(own, written)| own.is_as(written))
    }
}

impl ListedSet {
    fn is_as(&self, written: &Self) -> bool {
        self.elements().eq(written.elements())
            && (self.has_ranges, self.is_map) == (written.has_ranges, written.is_map)
    }

    /// The kernel closes a set of ranges at the beginning of all addresses: that is none of its elements.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &ListedElement> {
        let is_the_beginning = |element: &ListedElement| {
            element.ends_range && element.key.iter().all(|byte| *byte == 0)
        };
        self.elements
            .iter()
            .filter(move |element| !is_the_beginning(element))
    }

    /// Whether it is understood what is in it: not if ranges are keys of several fields, or have values.
    pub(crate) fn is_understood(&self) -> bool {
        !(self.has_ends || self.has_ranges && self.is_map)
    }

    /// What the set has for a key, if it has the key: of a map its value, of a set nothing.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&Value>> {
        if self.has_ranges {
            return self.has_in_range(key).then_some(None);
        }
        let at = self
            .elements
            .partition_point(|element| element.key.as_slice() < key);
        let element = self.elements.get(at)?;
        (element.key == key).then_some(element.value.as_ref())
    }

    fn has_in_range(&self, key: &[u8]) -> bool {
        let last = |ends: bool| {
            let elements = self.elements.iter();
            let of_kind = elements.filter(|element| element.ends_range == ends);
            let keys = of_kind.map(|element| element.key.as_slice());
            keys.filter(|other| *other <= key).max()
        };
        // A range may begin where another ends.
        last(false).is_some_and(|first| last(true).is_none_or(|behind| behind <= first))
    }
}

impl ListedRule {
    /// A rule of ours, as it would be listed.
    pub(crate) fn written(rule: &[super::Expression]) -> Self {
        Self(super::expression_list(rule))
    }

    /// Its expressions, in their order.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = ListedExpression<'_>> {
        Attributes(&self.0).filter_map(|(_, element)| {
            let name = find(element, 1)?;
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            Some(ListedExpression {
                // Names are ASCII: what isn't is none that anybody knows.
                name: str::from_utf8(name).unwrap_or_default(),
                data: find(element, 2).unwrap_or_default(),
            })
        })
    }

    /// How many packets and bytes its counter has counted, if it has one.
    pub(crate) fn counted(&self) -> Option<(u64, u64)> {
        let counter = self.expressions().find(|part| part.name == "counter")?;
        let number = |kind| {
            let value = find(counter.data, kind)?.try_into().ok()?;
            Some(u64::from_be_bytes(value))
        };
        Some((number(2)?, number(1)?))
    }

    /// The number of the family that it is for alone, as the kernel has families of IP; nothing if it is for both.
    pub(crate) fn family(&self) -> Option<u8> {
        const NETWORK_PROTOCOL: u32 = 15;
        let mut expressions = self.expressions();
        let (meta, compare) = (expressions.next()?, expressions.next()?);
        let is_it = (meta.name, compare.name) == ("meta", "cmp")
            && number(meta.data, 2) == Some(NETWORK_PROTOCOL);
        match Value::read(find(compare.data, 3).filter(|_| is_it)?)? {
            Value::Bytes(bytes) => bytes.first().copied(),
            Value::Verdict(..) => None,
        }
    }

    /// Whether it looks at nothing: it counts, and decides.
    pub(crate) fn decides_alone(&self) -> bool {
        let mut expressions = self.expressions();
        expressions.all(|part| ["counter", "immediate"].contains(&part.name))
    }

    /// Whether it accepts what it matches.
    pub(crate) fn accepts(&self) -> bool {
        const ACCEPT: i32 = 1;
        let last = self.expressions().last();
        let last = last.filter(|part| part.name == "immediate");
        let value = last.and_then(|part| Value::read(find(part.data, 2)?));
        value == Some(Value::Verdict(ACCEPT, None))
    }

    /// Whether it is the same rule as one that we would write. What the kernel says beside that are its defaults.
    pub(crate) fn is_as(&self, written: &Self) -> bool {
        let (mut own, mut written) = (self.expressions(), written.expressions());
        loop {
            match (own.next(), written.next()) {
                (None, None) => return true,
                (Some(own), Some(written)) if own.is_as(written) => {}
                _ => return false,
            }
        }
    }
}

impl ListedExpression<'_> {
    fn is_as(self, written: ListedExpression<'_>) -> bool {
        self.name == written.name
            && Attributes(written.data).all(|(kind, value)| {
                let own = find(self.data, kind);
                own.is_some_and(|own| own == value || self.is_same(kind, own, value))
            })
    }

    /// Whether two values that are written in different ways are the same.
    fn is_same(self, kind: u16, own: &[u8], written: &[u8]) -> bool {
        let number = |value: &[u8]| Some(u32::from_be_bytes(value.try_into().ok()?));
        match (self.name, kind) {
            ("meta", 1 | 3)
            | ("payload" | "ct" | "cmp" | "range" | "immediate" | "fib", 1)
            | ("bitwise", 1 | 2)
            | ("lookup", 2 | 3)
            | ("nat", 3..=6) => {
                number(own).and_then(register) == number(written).and_then(register)
            }
            ("cmp", 3) | ("immediate", 2) | ("bitwise", 4 | 5) | ("range", 3 | 4) => {
                Value::read(own) == Value::read(written)
            }
            _ => false,
        }
    }
}

/// Where a register begins, in bytes; nothing for that of the verdict. They have two sets of numbers: by fours of
/// bytes, and by sixteens.
pub(crate) fn register(number: u32) -> Option<usize> {
    let at = match number {
        1..=4 => (number - 1) * 16,
        8..=23 => (number - 8) * 4,
        _ => return None,
    };
    usize::try_from(at).ok()
}

/// What an attribute that holds data has: bytes, or a verdict with the chain that it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Verdict(i32, Option<String>),
}

impl Value {
    /// An attribute that is a name.
    pub(crate) fn name(data: &[u8], kind: u16) -> Option<String> {
        find(data, kind).map(text)
    }

    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        if let Some(bytes) = find(data, 1) {
            return Some(Self::Bytes(bytes.to_vec()));
        }
        let verdict = find(data, 2)?;
        let chain = find(verdict, 2).map(text);
        Some(Self::Verdict(number(verdict, 1)?.cast_signed(), chain))
    }
}

fn place(family: u8, attributes: &[u8], name: u16) -> Option<Place> {
    Some(Place {
        family,
        table: text(find(attributes, 1)?),
        name: text(find(attributes, name)?),
    })
}

pub(crate) fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let value = find(attributes, kind)?.try_into().ok()?;
    Some(u32::from_be_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(key: &[u8], ends_range: bool) -> ListedElement {
        ListedElement {
            key: key.to_vec(),
            value: None,
            ends_range,
        }
    }

    #[test]
    fn a_key_is_in_a_range_from_its_first_to_before_its_end() {
        let set = ListedSet {
            has_ranges: true,
            ..ListedSet::default()
        };
        let set = ListedSet {
            elements: vec![
                element(&[10, 0], false),
                element(&[11, 0], true),
                element(&[11, 0], false),
                element(&[12, 0], true),
            ],
            ..set
        };
        let has = |key: &[u8]| set.get(key).is_some();
        assert!(has(&[10, 0]) && has(&[10, 255]) && has(&[11, 0]) && has(&[11, 9]));
        assert!(!has(&[9, 255]) && !has(&[12, 0]) && !has(&[200, 0]));
    }

    #[test]
    fn both_numbers_of_a_register_are_the_same_place() {
        assert_eq!(register(1), register(8));
        assert_eq!(register(2), register(12));
        assert_eq!(
            (register(9), register(0), register(24)),
            (Some(4), None, None)
        );
    }
}
