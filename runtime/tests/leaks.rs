//! What a test left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

pub(crate) struct Snapshot {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut cgroups = BTreeSet::new();
        collect_directories(Path::new("/sys/fs/cgroup"), &mut cgroups);
        Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            cgroups,
        }
    }

    pub(crate) fn what_is_left(&self) -> Vec<String> {
        let now = Self::take();
        let mounts = now
            .mounts
            .difference(&self.mounts)
            .map(|mount| format!("mount {mount}"));
        let cgroups = now
            .cgroups
            .difference(&self.cgroups)
            .map(|cgroup| format!("cgroup {cgroup}"));
        mounts.chain(cgroups).chain(children()).collect()
    }
}

/// Ours alone: the hierarchy is the whole machine's.
fn collect_directories(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path().display().to_string();
            if is_ours(&path) {
                found.insert(path);
            }
            collect_directories(&entry.path(), found);
        }
    }
}

/// Whether it has this process's number as bundles or the tests' own cgroups have it: a user's slice and others'
/// scopes have numbers too.
fn is_ours(path: &str) -> bool {
    ["t", "berth-test-"].iter().any(|mark| {
        let own = format!("{mark}{}", std::process::id());
        let mut after = path
            .match_indices(&own)
            .map(|(at, _)| &path[at + own.len()..]);
        after.any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    })
}

/// Reaps the dead, and names the living: orphans come to us.
fn children() -> Vec<String> {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
    let describe = |pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid} {}", command.replace('\0', " "))
    };
    of_ours().into_iter().map(describe).collect()
}

/// Our children, dead or alive.
fn of_ours() -> Vec<i32> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            list.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    found
}

/// Reaps the dead, but for one: a container's first process can't end before those in its pid namespace
/// have been reaped, and the orphans among them come to us.
pub(crate) fn reap_all_but(child: u32) {
    for pid in of_ours().into_iter().filter(|pid| *pid != child as i32) {
        // It may live.
        let _status = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}
