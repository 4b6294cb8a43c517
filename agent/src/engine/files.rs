//! The folders of a task: what it has while it runs, and the logs that outlive it.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::etc::Etc;
use crate::config::Config;
use crate::removal;
use crate::supervisor::protocol::{Files, Plan};
use crate::task::Task;
use crate::task_definition::NetworkMode;

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

/// Refuses paths that overlayfs' options or a unix socket's address couldn't hold.
fn check_path(name: &str, path: &Path) -> anyhow::Result<()> {
    let text = path
        .to_str()
        .with_context(|| format!("{name} is '{}', which is no UTF-8", path.display()))?;
    if text.contains([',', ':', '\\', '\n']) {
        bail!("{name} is '{text}'; overlayfs can't take a path with ',', ':' or '\\'");
    }
    // /tasks/<32 digits>/supervisor.sock is added to it; an address holds 108 bytes.
    if text.len() > 48 {
        bail!(
            "{name} is '{text}'; it must have at most 48 bytes, to leave room for the names of sockets below it"
        );
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

    /// Makes the folders, and the files that the containers see in `/etc`. Their interfaces are attached.
    pub fn make(&self, task: &Task) -> anyhow::Result<()> {
        // Of an attempt that was cut off, whose ids may have been others.
        remove_folder(&self.writable)?;
        for folder in [self.run.folder(), &self.etc, &self.logs, &self.writable] {
            make_folder(folder)?;
        }
        for container in &task.definition.container_definitions {
            let folder = self.etc_of(task, &container.name);
            make_folder(&folder)?;
            let owner = task.id_range_of(&container.name);
            Etc::of(task, container)?.write(&folder, owner)?;
        }
        Ok(())
    }

    /// The folder of a container's `hosts`, `hostname` and `resolv.conf`: as on ECS, those that share an interface
    /// share these too.
    pub fn etc_of(&self, task: &Task, container: &str) -> PathBuf {
        match task.definition.network_mode {
            NetworkMode::Awsvpc => self.etc.clone(),
            _ => self.etc.join(container),
        }
    }

    /// Removes all but the logs.
    pub fn remove(&self) -> anyhow::Result<()> {
        remove_folder(&self.writable)?;
        remove_folder(self.run.folder())
    }
}
