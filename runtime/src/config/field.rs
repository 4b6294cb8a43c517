//! Which field of a document a place in its text belongs to.
//!
//! The parser tells by line and column where it gave up. A parser that kept track of the fields' names
//! would be another one to the compiler: an eighth of the program, for text that is nearly always right.

/// The path of the field that was being read `column` bytes into a line, both as
/// [`serde_json::Error`] counts them. A dot is the document itself.
pub(super) fn at(text: &[u8], line: usize, column: usize) -> String {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let end = (before + column).min(text.len());
    let mut place = Place::default();
    place.read(text.get(..end).unwrap_or_default());
    place.path()
}

/// A value that holds others, and which of them is being read.
enum Level {
    Object(Option<String>),
    Array(Option<usize>),
}

/// How deep in the document a text has come.
#[derive(Default)]
struct Place(Vec<Level>);

impl Place {
    fn read(&mut self, text: &[u8]) {
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            at += 1;
            match byte {
                b'{' => self.0.push(Level::Object(None)),
                b'[' => self.0.push(Level::Array(Some(0))),
                // What is wrong with a value as a whole shows at its end: it is the last one then.
                b'}' | b']' if at == text.len() => self.leave_member(),
                b'}' | b']' => drop(self.0.pop()),
                b',' => self.next_member(),
                b'"' => {
                    let rest = text.get(at..).unwrap_or_default();
                    let length = string_length(rest);
                    if let Some(text) = rest.get(..length) {
                        self.name_member(text);
                    }
                    at += length + 1;
                }
                _ => {}
            }
        }
    }

    fn leave_member(&mut self) {
        match self.0.last_mut() {
            Some(Level::Object(key)) => *key = None,
            Some(Level::Array(index)) => *index = None,
            None => {}
        }
    }

    fn next_member(&mut self) {
        match self.0.last_mut() {
            Some(Level::Object(key)) => *key = None,
            Some(Level::Array(Some(index))) => *index += 1,
            _ => {}
        }
    }

    /// A string where an object has no key yet is the key.
    fn name_member(&mut self, text: &[u8]) {
        if let Some(Level::Object(key @ None)) = self.0.last_mut() {
            *key = Some(String::from_utf8_lossy(text).into_owned());
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for level in &self.0 {
            match level {
                Level::Object(Some(key)) if path.is_empty() => path.push_str(key),
                Level::Object(Some(key)) => path.extend([".", key]),
                Level::Array(Some(index)) => path.push_str(&format!("[{index}]")),
                Level::Object(None) | Level::Array(None) => {}
            }
        }
        match path.is_empty() {
            true => ".".to_owned(),
            false => path,
        }
    }
}

/// The length of a string whose opening quote is behind us, without the closing one.
fn string_length(text: &[u8]) -> usize {
    let mut is_escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    end.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use oci_spec::runtime::Spec;

    use super::super::{Error, parse};

    /// The field that the parser's refusal of this text is told to be about.
    fn refused(text: &str) -> String {
        match parse::<Spec>(Path::new("config.json"), text.as_bytes()) {
            Err(Error::Parse { field, .. }) => field,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_found() {
        for (text, field) in [
            (r#"{"ociVersion": 1}"#, "ociVersion"),
            (
                r#"{"ociVersion": "1.0.2", "root": {"path": {}}}"#,
                "root.path",
            ),
            (
                r#"{"ociVersion": "1.0.2", "root": {"path": "/", "readonly": "no"}}"#,
                "root.readonly",
            ),
            (
                r#"{"ociVersion": "1.0.2", "mounts": [{"destination": "/a"}, {"destination": 7}]}"#,
                "mounts[1].destination",
            ),
            (r#"{"ociVersion": "1.0.2", "mounts": [[]]}"#, "mounts[0]"),
            (
                r#"{"ociVersion": "1.0.2",
                 "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["\"},{\\", true]}}"#,
                "process.args[1]",
            ),
            (
                r#"{"ociVersion": "1.0.2",
                 "process": {"cwd": "/", "user": {"uid": -1, "gid": 0}}}"#,
                "process.user.uid",
            ),
            (
                r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "mnt"}]}}"#,
                "linux.namespaces[0].type",
            ),
            ("7", "."),
        ] {
            assert_eq!(refused(text), field, "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_missed_where_it_belongs() {
        for (text, field) in [
            (
                r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "pid"}, {}]}}"#,
                "linux.namespaces[1]",
            ),
            (
                r#"{"ociVersion": "1.0.2", "mounts": [{"destination": "/"}, {}]}"#,
                "mounts[1]",
            ),
        ] {
            assert_eq!(refused(text), field, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_json_is_refused_where_it_breaks_off() {
        for (text, field) in [
            ("", "."),
            (
                r#"{"ociVersion": "1.0.2", "root": {"path": "/"#,
                "root.path",
            ),
            (
                r#"{"ociVersion": "1.0.2", "mounts": [{"destination": "/"},"#,
                "mounts[1]",
            ),
            (r#"{"ociVersion": "1.0.2"} x"#, "."),
        ] {
            assert_eq!(refused(text), field, "{text}");
        }
    }
}
