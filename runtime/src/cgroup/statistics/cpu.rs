//! Processor time: `cpu.stat`.

use crate::cgroup::files;

/// Processor time, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStatistics {
    /// All time spent.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// Periods of the quota in which there was something to run.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled: u64,
    /// Periods in which more than the quota was used.
    pub burst_periods: u64,
    /// Time spent beyond the quota.
    pub burst: u64,
}

pub(super) fn parse(text: &str) -> CpuStatistics {
    CpuStatistics {
        usage: files::field(text, "usage_usec"),
        user: files::field(text, "user_usec"),
        system: files::field(text, "system_usec"),
        periods: files::field(text, "nr_periods"),
        throttled_periods: files::field(text, "nr_throttled"),
        throttled: files::field(text, "throttled_usec"),
        burst_periods: files::field(text, "nr_bursts"),
        burst: files::field(text, "burst_usec"),
    }
}
