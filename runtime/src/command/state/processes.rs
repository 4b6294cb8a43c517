//! The processes of a container that has no cgroup: those of its pid namespace.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::Pid;

/// The processes in the pid namespace of a process.
pub(super) fn beside(pid: i32) -> Result<Vec<Pid>> {
    let file = format!("/proc/{pid}/ns/pid");
    let namespace = fs::read_link(&file).with_context(|| format!("read {file}"))?;
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        // One that is gone, or not ours to look at, is in another.
        let its = fs::read_link(Path::new("/proc").join(entry.file_name()).join("ns/pid")).ok()?;
        (its == namespace).then_some(Pid::from_raw(pid))
    });
    Ok(pids.collect())
}
