//! The names of scopes and slices.

use std::path::Path;

use super::place::Manager;
use crate::cgroup::Error;

/// `UNIT_NAME_MAX` of systemd, without the null byte.
const LONGEST: usize = 255;

/// A container's scope: what `slice:prefix:name` of a configuration stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) slice: String,
    /// With its ending, `.scope`.
    pub(super) unit: String,
}

impl Scope {
    /// Of the configuration's cgroup path, or for a container of this id that has none.
    pub(super) fn of(path: Option<&Path>, id: &str, manager: Manager) -> Result<Self, Error> {
        let default_slice = match manager {
            Manager::System => "system.slice",
            Manager::User => "user.slice",
        };
        let text = path.map(|path| path.to_string_lossy()).unwrap_or_default();
        let parts: Vec<&str> = match text.is_empty() {
            true => vec!["", "berth-runtime", id],
            false => text.split(':').collect(),
        };
        let wrong = |expected| Error::CgroupsPath {
            path: text.clone().into_owned(),
            expected,
        };
        let &[slice, prefix, name] = parts.as_slice() else {
            return Err(wrong(
                "must be \"slice:prefix:name\" with the systemd driver",
            ));
        };
        if name.is_empty() {
            return Err(wrong("must have a name after the second colon"));
        }
        let slice = if slice.is_empty() {
            default_slice
        } else {
            slice
        };
        if !is_slice(slice) {
            return Err(wrong(
                "must begin with the name of a slice such as \"machine.slice\"",
            ));
        }
        let name = match prefix.is_empty() {
            true => escape(name),
            false => escape(&format!("{prefix}-{name}")),
        };
        let unit = format!("{name}.scope");
        match unit.len() <= LONGEST {
            true => Ok(Self {
                slice: slice.to_owned(),
                unit,
            }),
            false => Err(wrong("makes a scope's name that is longer than 255 bytes")),
        }
    }
}

/// `-.slice`, or words with single dashes between them: each dash is a level.
fn is_slice(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".slice") else {
        return false;
    };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(is_allowed);
    stem == "-" || stem.split('-').all(is_word)
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte)
}

/// Container ids may have a "+", and engines' names what they like; units may not.
fn escape(name: &str) -> String {
    let bytes = name.bytes().map(|byte| match is_allowed(byte) {
        true => char::from(byte).to_string(),
        false => format!("\\x{byte:02x}"),
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(path: &str) -> Result<(String, String), Error> {
        let path = (!path.is_empty()).then(|| Path::new(path));
        let scope = Scope::of(path, "id", Manager::System)?;
        Ok((scope.slice, scope.unit))
    }

    #[test]
    fn paths_name_slice_and_scope() {
        for (path, slice, unit) in [
            ("", "system.slice", "berth-runtime-id.scope"),
            (
                "machine.slice:libpod:abc",
                "machine.slice",
                "libpod-abc.scope",
            ),
            (":docker:abc", "system.slice", "docker-abc.scope"),
            ("a-b.slice::abc", "a-b.slice", "abc.scope"),
            ("-.slice:p:abc", "-.slice", "p-abc.scope"),
            ("x.slice:p:a+b/c", "x.slice", "p-a\\x2bb\\x2fc.scope"),
        ] {
            let (got_slice, got_unit) = scope(path).unwrap();
            assert_eq!(
                (got_slice.as_str(), got_unit.as_str()),
                (slice, unit),
                "{path}"
            );
        }
        let user = Scope::of(None, "id", Manager::User).unwrap();
        assert_eq!(user.slice, "user.slice");
    }

    #[test]
    fn what_is_no_slice_prefix_and_name_is_refused() {
        for path in [
            "/a/b",
            "a:b",
            "a:b:c:d",
            "system:p:n",
            "a--b.slice:p:n",
            ".slice:p:n",
            "-a.slice:p:n",
            "a/b.slice:p:n",
            "../x.slice:p:n",
            "a.slice:p:",
        ] {
            let message = scope(path).unwrap_err().to_string();
            assert!(message.contains("linux.cgroupsPath"), "{path}: {message}");
        }
    }
}
