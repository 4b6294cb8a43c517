//! What a test may leave behind, before and after it: processes, mounts, cgroups, network
//! interfaces, records of containers, systemd's units.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::place::{CGROUPS, SLICE};
use crate::ran::PATIENCE;

/// Where engines let the runtime keep its records, and systemd its of the units that were asked for.
const RECORDS: [&str; 7] = [
    "/run/berth-runtime",
    "/run/callers/rootless/run/berth-runtime",
    "/run/user/54321/berth-runtime",
    "/run/docker/runtime-runc/moby",
    "/run/containerd/runc/berth-callers",
    "/run/containerd/runc/k8s.io",
    "/run/systemd/transient",
];

/// The kernel's and the engines' own lists, at one moment.
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks now.
    pub fn take() -> Self {
        let mut all = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        // The first fields are numbers that change; the fifth is where it is mounted.
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        all.extend(points.map(|point| format!("mount {point}")));
        let cgroups = Path::new("/sys/fs/cgroup");
        for parent in [CGROUPS, SLICE] {
            folders(&cgroups.join(parent), "cgroup", &mut all);
        }
        let links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = links.lines().filter_map(|line| line.split_once(':'));
        all.extend(names.map(|(name, _)| format!("link {}", name.trim())));
        for place in RECORDS {
            let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
            all.extend(entries.map(|entry| format!("record {}", entry.path().display())));
        }
        all.extend(children());
        // What an engine makes once, for all containers.
        all.retain(|line| !ONCE.iter().any(|once| line.ends_with(once)));
        Self(all)
    }

    /// What is there now and wasn't, as lines. Waits a while for what goes when it comes to it.
    pub fn compare(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = Self::take();
            let left: Vec<&String> = now.0.difference(&self.0).collect();
            if left.is_empty() || Instant::now() > end {
                let lines = left.into_iter();
                return lines
                    .map(|line| format!("  left behind: {line}\n"))
                    .collect();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What engines keep from their first container on.
const ONCE: [&str; 8] = [
    "/callers/podman/overlay",
    "berth-callers",
    "berthcallers.slice",
    "berth-callers/conmon",
    "berth-callers/pods",
    "link callers0",
    "link podman0",
    "/run/netns",
];

fn folders(folder: &Path, kind: &str, all: &mut BTreeSet<String>) {
    let Ok(listing) = std::fs::read_dir(folder) else {
        return;
    };
    all.insert(format!("{kind} {}", folder.display()));
    for entry in listing.flatten().filter(|entry| entry.path().is_dir()) {
        folders(&entry.path(), kind, all);
    }
}

/// The children of this process, which adopts whatever its children leave. Those that an engine's
/// daemon is are there before as well.
fn children() -> Vec<String> {
    while matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Ok(status) if status != WaitStatus::StillAlive
    ) {}
    let own = std::process::id().to_string();
    let listing = std::fs::read_dir("/proc").unwrap();
    let pids = listing
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        let name = stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
        (parent == own).then(|| format!("process {pid} {name}"))
    })
    .collect()
}
