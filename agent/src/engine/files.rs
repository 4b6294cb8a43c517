//! The folders of a task: what it has while it runs, and the logs that outlive it.

use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::check_path;
use crate::config::Config;
use crate::removal;
use crate::supervisor::protocol::{Files, Plan};

/// Makes the agent's own folders, closed to everyone else.
pub fn make_folders(config: &Config) -> anyhow::Result<()> {
    check_path("root", &config.root)?;
    check_path("run", &config.run)?;
    for path in [
        &config.root,
        &config.run,
        &config.root.join("tasks"),
        &config.run.join("tasks"),
    ] {
        make_folder(path)?;
    }
    Ok(())
}

/// Makes a folder that only root can enter.
pub fn make_folder(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("making {}", path.display()))
}

/// Removes a folder with all that is in it; none is fine too.
pub fn remove_folder(path: &Path) -> anyhow::Result<()> {
    removal::remove(path).with_context(|| format!("removing {}", path.display()))
}

/// Removes the run folders of tasks that nobody knows.
pub fn remove_orphans(config: &Config, known: impl Fn(&str) -> bool) {
    let Ok(listing) = std::fs::read_dir(config.run.join("tasks")) else {
        return;
    };
    for entry in listing.flatten() {
        if !known(&entry.file_name().to_string_lossy())
            && let Err(error) = remove_folder(&entry.path())
        {
            tracing::warn!("{error:#}");
        }
    }
}

/// The task whose plan lists that layer.
pub fn layer_user(config: &Config, layer: &Path) -> Option<String> {
    let tasks = std::fs::read_dir(config.run.join("tasks")).ok()?;
    tasks.flatten().find_map(|entry| {
        let plan: Plan =
            serde_json::from_slice(&std::fs::read(Files::new(&entry.path()).plan()).ok()?).ok()?;
        let uses = plan
            .containers
            .iter()
            .any(|container| container.layers.iter().any(|used| used == layer));
        uses.then_some(plan.task)
    })
}

/// The paths of one task.
pub struct TaskFiles {
    /// The supervisor's.
    pub run: Files,
    /// `hosts`, `hostname` and `resolv.conf`.
    pub etc: PathBuf,
    /// The containers' logs.
    pub logs: PathBuf,
    /// What the containers write to their root filesystems.
    pub writable: PathBuf,
}

impl TaskFiles {
    /// The paths of the task with that id.
    pub fn new(config: &Config, id: &str) -> Self {
        let (run, root) = (config.task_run(id), config.task_root(id));
        Self {
            etc: run.join("etc"),
            run: Files::new(&run),
            logs: root.join("logs"),
            writable: root.join("writable"),
        }
    }

    /// Makes the folders, and the files that every container of the task sees in `/etc`.
    pub fn make(&self, hostname: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        for folder in [self.run.folder(), &self.etc, &self.logs, &self.writable] {
            make_folder(folder)?;
        }
        let hosts = format!("127.0.0.1 localhost\n{address} {hostname}\n");
        for (name, content) in [
            ("hosts", hosts),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", resolvers()),
        ] {
            let path = self.etc.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes all but the logs.
    pub fn remove(&self) -> anyhow::Result<()> {
        remove_folder(&self.writable)?;
        remove_folder(self.run.folder())
    }
}

/// The host's resolvers that a task can reach. One on the host's own loopback is no use in
/// another network namespace; behind systemd's are those that it asks itself.
fn resolvers() -> String {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let useful = |line: &&str| {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => words
                    .next()
                    .and_then(|address| address.parse::<Ipv4Addr>().ok())
                    .is_some_and(|address| !address.is_loopback()),
                Some("search" | "options") => true,
                _ => false,
            }
        };
        text.lines()
            .filter(useful)
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let own = read("/etc/resolv.conf");
    if own.contains("nameserver") {
        own
    } else {
        read("/run/systemd/resolve/resolv.conf")
    }
}
