//! Memory and swap.

use oci_spec::runtime::LinuxMemory;

use super::{IfAbsent, Write, wrong};
use crate::cgroup::{Cgroup, Error};

pub(super) fn writes(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<(), Error> {
    check(memory)?;
    let limit = memory.limit().filter(|limit| *limit != 0);
    // Swap first: where the new limit is below what is in use, the kernel may already need it.
    writes.extend(swap_write(memory, limit)?);
    if let Some(limit) = limit {
        writes.push(bytes_write("memory.max", limit));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        writes.push(bytes_write("memory.low", reservation));
    }
    Ok(())
}

fn bytes_write(file: &'static str, bytes: i64) -> Write {
    match bytes {
        ..=-1 => Write::lift(file),
        bytes => Write::limit("memory", file, bytes.to_string()),
    }
}

fn swap_write(memory: &LinuxMemory, limit: Option<i64>) -> Result<Option<Write>, Error> {
    const FILE: &str = "memory.swap.max";
    let limited = |bytes: i64| Write::limit("memory", FILE, bytes.to_string());
    Ok(match swap_alone(memory.swap(), limit)? {
        None => None,
        Some(..=-1) => Some(Write::lift(FILE)),
        // A kernel that accounts no swap has no such file, and no swap for the cgroup to use.
        Some(0) => Some(limited(0).or(IfAbsent::Fine)),
        Some(bytes) => Some(limited(bytes)),
    })
}

/// OCI's swap counts memory and swap together, as v1 did; v2 counts swap alone. -1 lifts the limit.
pub(in crate::cgroup) fn swap_alone(
    swap: Option<i64>,
    limit: Option<i64>,
) -> Result<Option<i64>, Error> {
    match (swap.filter(|swap| *swap != 0), limit) {
        // Memory without a limit alone means both without, as it did in v1.
        (None, Some(..=-1)) | (Some(..=-1), _) => Ok(Some(-1)),
        (None, _) => Ok(None),
        (Some(swap), None | Some(..=-1)) => {
            let expected = "needs memory.limit beside it, which it includes";
            Err(wrong("memory.swap", swap, expected))
        }
        (Some(swap), Some(limit)) if swap < limit => {
            let expected = "must be at least memory.limit, which it includes";
            Err(wrong("memory.swap", swap, expected))
        }
        (Some(swap), Some(limit)) => Ok(Some(swap - limit)),
    }
}

fn check(memory: &LinuxMemory) -> Result<(), Error> {
    let fields = [
        ("memory.limit", memory.limit()),
        ("memory.swap", memory.swap()),
        ("memory.reservation", memory.reservation()),
        ("memory.kernel", memory.kernel()),
        ("memory.kernelTCP", memory.kernel_tcp()),
    ];
    if memory.swappiness() > Some(100) {
        let swappiness = memory.swappiness().unwrap_or_default();
        return Err(wrong("memory.swappiness", swappiness, "must be 0 to 100"));
    }
    match fields
        .into_iter()
        .find(|(_, bytes)| *bytes < Some(-1) && bytes.is_some())
    {
        None => Ok(()),
        Some((field, bytes)) => {
            let expected = "must be a number of bytes, or -1 for no limit";
            Err(wrong(field, bytes.unwrap_or_default(), expected))
        }
    }
}

/// With `checkBeforeUpdate`, refuses limits below what is in use instead of having processes killed.
pub(in crate::cgroup) fn check_usage(memory: &LinuxMemory, cgroup: &Cgroup) -> Result<(), Error> {
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    // Where nothing is counted yet, nothing is in use.
    let usage = cgroup.read("memory.current").ok();
    let usage = usage
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0i64);
    let fields = [
        ("memory.swap", memory.swap()),
        ("memory.limit", memory.limit()),
    ];
    for (field, limit) in fields {
        match limit {
            Some(limit @ 1..) if limit <= usage => {
                let expected = "must be above the current usage, since checkBeforeUpdate is set";
                return Err(wrong(field, format!("{limit} (usage {usage})"), expected));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn passed_over(memory: &LinuxMemory) -> Vec<(&'static str, bool)> {
    vec![
        (
            "memory.kernel",
            memory.kernel().is_some_and(|limit| limit > 0),
        ),
        (
            "memory.kernelTCP",
            memory.kernel_tcp().is_some_and(|limit| limit > 0),
        ),
        ("memory.swappiness", memory.swappiness().is_some()),
        (
            "memory.disableOOMKiller",
            memory.disable_oom_killer() == Some(true),
        ),
        ("memory.useHierarchy", memory.use_hierarchy() == Some(false)),
    ]
}
