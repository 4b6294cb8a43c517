//! Processes and threads.

use super::number;
use crate::cgroup::{Cgroup, Error};

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStatistics {
    /// How many there are.
    pub current: u64,
    /// The limit; `None` is no limit.
    pub max: Option<u64>,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<PidsStatistics, Error> {
    Ok(PidsStatistics {
        current: number(cgroup, "pids.current")?.unwrap_or_default(),
        max: number(cgroup, "pids.max")?,
    })
}
