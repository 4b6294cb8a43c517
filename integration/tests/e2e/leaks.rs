//! What a test may leave behind, before and after it: processes, mounts, cgroups, network
//! interfaces, firewall tables.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// The kernel's own lists, at one moment.
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks now.
    pub fn take() -> Self {
        let mut all = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        // The first fields are numbers that change; the fifth is where it is mounted.
        all.extend(
            mounts
                .lines()
                .map(|line| format!("mount {}", line.split(' ').nth(4).unwrap_or(line))),
        );
        // Natively the hierarchy is the whole machine's; there the host checks its own tasks'.
        if super::in_machine() {
            cgroups(Path::new("/sys/fs/cgroup"), &mut all);
        }
        let links = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        let thread_links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or(links);
        let names = thread_links
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim());
        all.extend(names.map(|name| format!("link {name}")));
        if let Ok(output) = Command::new("nft").args(["list", "tables"]).output() {
            all.extend(
                String::from_utf8_lossy(&output.stdout)
                    .lines()
                    .map(|line| format!("nftables {line}")),
            );
        }
        let namespaces = Command::new("ip").args(["netns", "list"]).output();
        all.extend(namespaces.into_iter().flat_map(|o| {
            String::from_utf8_lossy(&o.stdout)
                .lines()
                .map(|l| format!("netns {l}"))
                .collect::<Vec<_>>()
        }));
        Self(all)
    }

    /// What is there now and wasn't, as lines; and the processes that the test left. Waits a
    /// while for what the kernel removes when it comes to it: a namespace with its interface lives
    /// on while an orphaned TCP connection of it does.
    pub fn compare(&self) -> String {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            let (processes, now) = (processes(), Self::take());
            let left: Vec<&String> = now.0.difference(&self.0).collect();
            if (left.is_empty() && processes.is_empty()) || Instant::now() > end {
                let lines = left.into_iter().chain(&processes);
                return lines
                    .map(|line| format!("  left behind: {line}\n"))
                    .collect();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn cgroups(folder: &Path, all: &mut BTreeSet<String>) {
    let Ok(listing) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in listing.flatten().filter(|entry| entry.path().is_dir()) {
        all.insert(format!("cgroup {}", entry.path().display()));
        cgroups(&entry.path(), all);
    }
}

/// Whoever is still a child of this process, which adopts whatever its children leave.
fn processes() -> Vec<String> {
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
    {
    }
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
