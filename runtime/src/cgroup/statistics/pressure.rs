//! Pressure stall information: the time that was lost for want of something.

use super::optional;
use crate::cgroup::{Cgroup, Error};

/// The time lost for want of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// While at least one task waited.
    pub some: Stall,
    /// While all tasks waited at once.
    pub full: Stall,
}

/// How much time was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// In all, in microseconds.
    pub total: u64,
}

/// Nothing where the kernel doesn't tell.
pub(super) fn read(cgroup: &Cgroup, file: &str) -> Result<Option<Pressure>, Error> {
    Ok(optional(cgroup, file)?.map(|text| parse(&text)))
}

pub(super) fn parse(text: &str) -> Pressure {
    let line = |name: &str| {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name));
        line.map(stall).unwrap_or_default()
    };
    Pressure {
        some: line("some "),
        full: line("full "),
    }
}

fn stall(line: &str) -> Stall {
    let value = |name: &str| {
        let mut pairs = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let percent = |name| value(name).and_then(|text| text.parse().ok());
    Stall {
        avg10: percent("avg10").unwrap_or_default(),
        avg60: percent("avg60").unwrap_or_default(),
        avg300: percent("avg300").unwrap_or_default(),
        total: value("total")
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
    }
}
