//! Properties of the scope that a configuration's annotations ask for: `org.systemd.property.NAME`.
//!
//! Their values are in GVariant's text form, of which this reads what properties have: booleans, strings,
//! numbers with or without a type before them, and lists of strings.

use std::collections::HashMap;

use super::properties::property;
use super::value::Value;
use crate::cgroup::Error;

const PREFIX: &str = "org.systemd.property.";

/// Whether an annotation is meant for systemd.
pub(super) fn is_property(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// The properties, in the order of their names.
pub(super) fn properties(annotations: &HashMap<String, String>) -> Result<Vec<Value>, Error> {
    let mut asked: Vec<_> = annotations
        .iter()
        .filter_map(|(key, text)| Some((key.strip_prefix(PREFIX)?, text)))
        .collect();
    asked.sort();
    let properties = asked.into_iter().map(|(name, text)| {
        let wrong = |expected| Error::Annotation {
            name: format!("{PREFIX}{name}"),
            value: text.clone(),
            expected,
        };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(wrong("must be named after a property of systemd"));
        }
        match seconds_name(name) {
            Some(microseconds_name) => {
                let value =
                    microseconds(text).ok_or_else(|| wrong("must be a number of seconds"))?;
                Ok(property(microseconds_name, value))
            }
            None => {
                let expected = "must be a value such as true, 5, uint64 5, 'text' or ['a', 'b']";
                let value = parse(text.trim()).ok_or_else(|| wrong(expected))?;
                Ok(property(name, value))
            }
        }
    });
    properties.collect()
}

/// Files say `TimeoutStopSec`, and D-Bus `TimeoutStopUSec`.
fn seconds_name(name: &str) -> Option<String> {
    let stem = name.strip_suffix("Sec")?;
    let is_seconds = stem.ends_with(|letter: char| letter.is_ascii_lowercase());
    is_seconds.then(|| format!("{stem}USec"))
}

fn microseconds(text: &str) -> Option<Value> {
    let number = match parse(text.trim())? {
        Value::I32(value) => f64::from(value),
        Value::U32(value) => f64::from(value),
        Value::I64(value) => value as f64,
        Value::U64(value) => value as f64,
        Value::F64(value) => value,
        _ => return None,
    };
    let microseconds = number * 1e6;
    (0.0..u64::MAX as f64)
        .contains(&microseconds)
        .then_some(Value::U64(microseconds as u64))
}

fn parse(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(list) = text.strip_prefix("@as ").unwrap_or(text).strip_prefix('[') {
        return list_of_strings(list.trim_end().strip_suffix(']')?);
    }
    if text.starts_with(['\'', '"']) {
        let (string, rest) = quoted(text)?;
        return rest.is_empty().then_some(Value::Text(string));
    }
    number(text)
}

fn number(text: &str) -> Option<Value> {
    let (kind, digits) = text.split_once(' ').unwrap_or(("", text));
    let digits = digits.trim();
    match kind {
        "byte" => digits.parse().ok().map(Value::Byte),
        "int32" => digits.parse().ok().map(Value::I32),
        "uint32" => digits.parse().ok().map(Value::U32),
        "int64" => digits.parse().ok().map(Value::I64),
        "uint64" => digits.parse().ok().map(Value::U64),
        "double" => digits.parse().ok().map(Value::F64),
        // GVariant's defaults.
        "" if digits.contains('.') => digits.parse().ok().map(Value::F64),
        "" => digits.parse().ok().map(Value::I32),
        _ => None,
    }
}

fn list_of_strings(mut text: &str) -> Option<Value> {
    let mut strings = Vec::new();
    text = text.trim();
    while !text.is_empty() {
        let (string, rest) = quoted(text)?;
        strings.push(string);
        text = match rest.trim_start().strip_prefix(',') {
            // Nothing may follow but another.
            Some(rest) if !rest.trim().is_empty() => rest.trim_start(),
            None if rest.trim().is_empty() => "",
            _ => return None,
        };
    }
    Some(Value::texts(strings))
}

/// A string in quotes of either kind, with backslashes before those within; and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut letters = text.char_indices();
    let (_, quote) = letters
        .next()
        .filter(|(_, letter)| ['\'', '"'].contains(letter))?;
    let mut string = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => string.push(letters.next()?.1),
            letter if letter == quote => return Some((string, text.get(at + 1..)?)),
            letter => string.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_gvariant_writes_them() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("5", Value::I32(5)),
            ("-5", Value::I32(-5)),
            ("uint64 5", Value::U64(5)),
            ("byte 7", Value::Byte(7)),
            ("1.5", Value::F64(1.5)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            ("\"it's\"", Value::text("it's")),
            (r"'it\'s'", Value::text("it's")),
            ("['a', \"b\"]", Value::texts(["a", "b"])),
            ("[]", Value::texts(Vec::<String>::new())),
            ("@as []", Value::texts(Vec::<String>::new())),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in [
            "",
            "yes",
            "'open",
            "'a' 'b'",
            "['a'",
            "['a',]",
            "['a' 'b']",
            "uint64 -1",
            "uint9 1",
            "99999999999",
            "[1]",
            "'",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    fn of(name: &str, text: &str) -> Result<Vec<Value>, Error> {
        let name = format!("{PREFIX}{name}");
        let others = ("org.other".to_owned(), "x".to_owned());
        properties(&HashMap::from([(name, text.to_owned()), others]))
    }

    #[test]
    fn seconds_become_microseconds() {
        let stop = |value| vec![property("TimeoutStopUSec", Value::U64(value))];
        assert_eq!(of("TimeoutStopSec", "5").unwrap(), stop(5_000_000));
        assert_eq!(of("TimeoutStopSec", "uint64 1").unwrap(), stop(1_000_000));
        assert_eq!(of("TimeoutStopSec", "1.5").unwrap(), stop(1_500_000));
        assert_eq!(of("TimeoutStopUSec", "uint64 7").unwrap(), stop(7));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, text) in [
            ("CollectMode", "'x"),
            ("A", "true"),
            ("Bad.Name", "true"),
            ("TimeoutStopSec", "'5'"),
            ("TimeoutStopSec", "-5"),
        ] {
            let message = of(name, text).unwrap_err().to_string();
            assert!(message.contains(&format!("{PREFIX}{name}")), "{message}");
        }
    }
}
