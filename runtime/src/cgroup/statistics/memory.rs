//! Memory and swap.

use std::collections::BTreeMap;

use super::{flat, number, optional, optional_number};
use crate::cgroup::{Cgroup, Error, files};

/// The memory controller's numbers, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// In use.
    pub current: u64,
    /// The most that was ever in use, where the kernel tells (5.19).
    pub peak: Option<u64>,
    /// The limit; `None` is no limit.
    pub max: Option<u64>,
    /// Swap, where the kernel counts it.
    pub swap: Option<SwapStatistics>,
    /// What has happened at the limits.
    pub events: MemoryEvents,
    /// `memory.stat` as it is.
    pub stat: BTreeMap<String, u64>,
}

/// Swap alone, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapStatistics {
    /// In use.
    pub current: u64,
    /// The most that was ever in use, where the kernel tells (6.5).
    pub peak: Option<u64>,
    /// The limit; `None` is no limit.
    pub max: Option<u64>,
}

/// What the kernel has counted in `memory.events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEvents {
    /// Times that memory was reclaimed though less than the protected amount was used.
    pub low: u64,
    /// Times that processes were slowed down since `memory.high` was exceeded.
    pub high: u64,
    /// Times that the limit was about to be exceeded.
    pub max: u64,
    /// Times that an allocation failed for good at the limit.
    pub oom: u64,
    /// Processes killed by the out-of-memory killer.
    pub oom_kill: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<MemoryStatistics, Error> {
    let stat = files::read(cgroup, "memory.stat")?;
    Ok(MemoryStatistics {
        current: number(cgroup, "memory.current")?.unwrap_or_default(),
        peak: optional_number(cgroup, "memory.peak")?,
        max: number(cgroup, "memory.max")?,
        swap: swap(cgroup)?,
        events: events(cgroup)?,
        stat: flat(&stat)
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

fn swap(cgroup: &Cgroup) -> Result<Option<SwapStatistics>, Error> {
    match optional_number(cgroup, "memory.swap.current")? {
        None => Ok(None),
        Some(current) => Ok(Some(SwapStatistics {
            current,
            peak: optional_number(cgroup, "memory.swap.peak")?,
            max: number(cgroup, "memory.swap.max")?,
        })),
    }
}

/// Zero where the controller isn't enabled.
pub(in crate::cgroup) fn events(cgroup: &Cgroup) -> Result<MemoryEvents, Error> {
    Ok(parse_events(
        &optional(cgroup, "memory.events")?.unwrap_or_default(),
    ))
}

pub(in crate::cgroup) fn parse_events(text: &str) -> MemoryEvents {
    MemoryEvents {
        low: files::field(text, "low"),
        high: files::field(text, "high"),
        max: files::field(text, "max"),
        oom: files::field(text, "oom"),
        oom_kill: files::field(text, "oom_kill"),
    }
}
