//! A container's id: also a file name, and part of a cgroup's.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The id of a container: `[A-Za-z0-9_+-][A-Za-z0-9_+.-]*`, at most 255 bytes.
///
/// ```
/// use berth_runtime::ContainerId;
/// let id: ContainerId = "web-1".parse()?;
/// assert_eq!(id.as_str(), "web-1");
/// assert!("../web".parse::<ContainerId>().is_err());
/// # Ok::<(), berth_runtime::InvalidContainerId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

/// A container id that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "container id {value:?} must be 1 to 255 of the characters A-Z a-z 0-9 _ + - . and not begin \
     with a dot"
)]
pub struct InvalidContainerId {
    /// What was given.
    pub value: String,
}

impl ContainerId {
    /// The id as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte);
        let valid = (1..=255).contains(&value.len())
            && value.bytes().all(allowed)
            && !value.starts_with('.');
        match valid {
            true => Ok(Self(value.to_owned())),
            false => Err(InvalidContainerId {
                value: value.to_owned(),
            }),
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_runcs() {
        for good in ["a", "A_1+b.c-d", "-x", "+", &"x".repeat(255)] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "a b",
            "é",
            "a\0",
            &"x".repeat(256),
        ] {
            assert_eq!(bad.parse::<ContainerId>().unwrap_err().value, bad);
        }
    }
}
