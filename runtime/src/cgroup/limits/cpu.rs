//! Processor time and the processors it may be spent on.

use oci_spec::runtime::LinuxCpu;

use super::{Write, wrong};
use crate::cgroup::Error;

/// The kernel's own period, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// The kernel's largest quota, in microseconds (`max_bw_quota_period_us` of kernel/sched/core.c).
const LARGEST_QUOTA: i64 = (1 << 44) - 1;

pub(super) fn writes(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<(), Error> {
    check(cpu)?;
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let weight = weight_of_shares(shares).to_string();
        writes.push(Write::limit("cpu", "cpu.weight", weight));
    }
    writes.extend(bandwidth(cpu));
    if let Some(burst) = cpu.burst() {
        writes.push(unless_zero("cpu.max.burst", burst));
    }
    // After the weight, which the kernel doesn't take from a cgroup that is idle.
    if let Some(idle) = cpu.idle() {
        writes.push(unless_zero("cpu.idle", idle.unsigned_abs()));
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            writes.push(Write::limit("cpuset", file, value.clone()));
        }
    }
    Ok(())
}

fn unless_zero(file: &'static str, value: u64) -> Write {
    match value {
        0 => Write::default_of(file, "0"),
        value => Write::limit("cpu", file, value.to_string()),
    }
}

fn bandwidth(cpu: &LinuxCpu) -> Option<Write> {
    let period = cpu.period().filter(|period| *period != 0);
    match (cpu.quota().filter(|quota| *quota != 0), period) {
        (None, None) => None,
        (Some(..=-1), None) => Some(Write::lift("cpu.max")),
        (None | Some(..=-1), Some(period)) => {
            Some(Write::limit("cpu", "cpu.max", format!("max {period}")))
        }
        (Some(quota), period) => {
            let value = format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD));
            Some(Write::limit("cpu", "cpu.max", value))
        }
    }
}

/// The kernel's bounds, so that what it would refuse as "invalid argument" is said with its field.
fn check(cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(period) = cpu.period().filter(|period| *period != 0)
        && !(1000..=1_000_000).contains(&period)
    {
        let expected = "must be 1000 to 1000000 microseconds";
        return Err(wrong("cpu.period", period, expected));
    }
    if let Some(quota @ (..-1 | 1..1000)) = cpu.quota() {
        let expected = "must be at least 1000 microseconds, or -1 for no limit";
        return Err(wrong("cpu.quota", quota, expected));
    }
    if cpu.quota() > Some(LARGEST_QUOTA) {
        let expected = "must be at most 17592186044415 microseconds, or -1 for no limit";
        return Err(wrong(
            "cpu.quota",
            cpu.quota().unwrap_or_default(),
            expected,
        ));
    }
    let quota = cpu.quota().and_then(|quota| u64::try_from(quota).ok());
    if let (Some(quota @ 1..), Some(burst)) = (quota, cpu.burst())
        && burst > quota
    {
        return Err(wrong("cpu.burst", burst, "must be at most cpu.quota"));
    }
    for (field, list) in [("cpu.cpus", cpu.cpus()), ("cpu.mems", cpu.mems())] {
        let list = list.as_deref().unwrap_or_default();
        if !is_list(list) {
            let shown: String = list.chars().take(100).collect();
            let expected = "must be a list such as \"0-3,7\"";
            return Err(wrong(field, format!("{shown:?}"), expected));
        }
    }
    match cpu.idle() {
        None | Some(0 | 1) => Ok(()),
        Some(idle) => Err(wrong("cpu.idle", idle, "must be 0 or 1")),
    }
}

/// The kernel's form for processors and nodes: numbers and ranges, and `first-last:used/of` for a part of
/// a range (Documentation/admin-guide/kernel-parameters.rst, "cpu lists").
fn is_list(list: &str) -> bool {
    /// Processors and nodes of the largest configuration are fewer.
    const END: u32 = 1 << 16;
    /// What one write takes.
    const LONGEST: usize = 4095;
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < END);
    let is_part = |part: &str| {
        let (range, group) = match part.split_once(':') {
            Some((range, group)) => (range, Some(group)),
            None => (part, None),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let is_range = number(first).is_some() && number(first) <= number(last);
        let is_group = group.is_none_or(|group| {
            let (used, of) = group.split_once('/').unwrap_or_default();
            number(used) > Some(0) && number(used) <= number(of)
        });
        is_range && is_group
    };
    let list = list.trim();
    list.len() <= LONGEST && (list.is_empty() || list.split(',').map(str::trim).all(is_part))
}

pub(super) fn passed_over(cpu: &LinuxCpu) -> Vec<(&'static str, bool)> {
    vec![
        (
            "cpu.realtimeRuntime",
            cpu.realtime_runtime().is_some_and(|runtime| runtime != 0),
        ),
        (
            "cpu.realtimePeriod",
            cpu.realtime_period().is_some_and(|period| period != 0),
        ),
    ]
}

/// The weight that gives the proportions of v1's shares: 2 → 1, 1024 → 100, 262144 → 10000.
///
/// A quadratic in the logarithm, as runc and crun have agreed on. The older linear formula mapped the
/// default 1024 to 39, which put containers behind every process of the host.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}
