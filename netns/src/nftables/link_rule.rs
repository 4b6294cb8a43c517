//! Reading rules that decide by the names of links alone; others are told from them, and not read.
#![forbid(unsafe_code)]

use super::socket::{find, text};
use super::{MetaKey, Verdict};
use crate::netlink::Attributes;

/// A rule that looks at which link a packet comes from and which it goes to, counts it, and decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkRule {
    /// The bytes that the name of a link begins with; with a zero at their end, they are all of it.
    pub(crate) from: Option<Vec<u8>>,
    pub(crate) to: Option<Vec<u8>>,
    /// Accept, drop or return.
    pub(crate) verdict: Verdict,
}

impl LinkRule {
    /// Reads a rule from its list of expressions, if it is of this form.
    pub(super) fn read(list: &[u8]) -> Option<Self> {
        let mut rule = Self {
            from: None,
            to: None,
            verdict: Verdict::Drop,
        };
        let mut expressions = Attributes(list).filter_map(|(_, expression)| {
            let data = find(expression, 2).unwrap_or_default();
            Some((text(find(expression, 1)?), data))
        });
        let (mut name, mut data) = expressions.next()?;
        while name == "meta" {
            let (compare, value) = expressions.next()?;
            let is_equal = compare == "cmp" && number(value, 2)? == 0;
            let value = find(find(value, 3)?, 1).filter(|_| is_equal)?.to_vec();
            match number(data, 2)? {
                key if key == MetaKey::InputName as u32 => rule.from = Some(value),
                key if key == MetaKey::OutputName as u32 => rule.to = Some(value),
                _ => return None,
            }
            (name, data) = expressions.next()?;
        }
        let (last, data) = expressions.next().filter(|_| name == "counter")?;
        let verdict = find(find(data, 2)?, 2).filter(|_| last == "immediate")?;
        rule.verdict = Verdict::read(number(verdict, 1)?)?;
        expressions.next().is_none().then_some(rule)
    }
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let value = find(attributes, kind)?.try_into().ok()?;
    Some(u32::from_be_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::super::{Comparison, Expression, Register, expression_list};
    use super::*;

    fn name_is(key: MetaKey, name: &[u8]) -> [Expression; 2] {
        let (register, into) = (Register::FIRST, Register::FIRST);
        let compare = Expression::Compare {
            register,
            comparison: Comparison::Equal,
            value: name.to_vec(),
        };
        [Expression::Meta { key, into }, compare]
    }

    #[test]
    fn a_rule_about_links_is_read_and_every_other_is_not() {
        let [meta, compare] = name_is(MetaKey::InputName, b"berth0\0");
        let (counter, accept) = (Expression::Counter, Expression::Verdict(Verdict::Accept));
        let read = |rule: &[&Expression]| {
            let rule: Vec<Expression> = rule.iter().map(|part| (*part).clone()).collect();
            LinkRule::read(&expression_list(&rule))
        };
        let rule = LinkRule {
            from: Some(b"berth0\0".to_vec()),
            to: None,
            verdict: Verdict::Accept,
        };
        assert_eq!(read(&[&meta, &compare, &counter, &accept]), Some(rule));
        assert_eq!(read(&[&meta, &compare, &accept]), None);
        assert_eq!(read(&[&meta, &counter, &accept]), None);
        assert_eq!(read(&[&meta, &compare, &counter]), None);
        assert_eq!(read(&[&meta, &compare, &counter, &accept, &counter]), None);
        let [meta, _] = name_is(MetaKey::Mark, b"");
        assert_eq!(read(&[&meta, &compare, &counter, &accept]), None);
        assert_eq!(read(&[]), None);
    }
}
