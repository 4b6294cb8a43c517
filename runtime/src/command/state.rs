//! What is known of a container between two commands: `<root>/<id>/state.json`.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::{Container, ContainerId, start_socket};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::Global;

const FILE: &str = "state.json";

/// A container's record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// When the process started, in clock ticks since boot: a reused pid differs here.
    pub(crate) start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    /// Below the cgroup root.
    pub(crate) cgroup: PathBuf,
    /// The configuration as it was at creation: the bundle's may have changed since.
    pub(crate) config: Spec,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The directory of a container's state.
#[derive(Debug)]
pub(crate) struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Takes the id: fails if a container has it.
    pub(crate) fn make(global: &Global, id: &ContainerId) -> Result<Self> {
        let private = |recursive| {
            let mut builder = DirBuilder::new();
            builder.mode(0o700).recursive(recursive);
            builder
        };
        private(true)
            .create(&global.root)
            .with_context(|| format!("make {}", global.root.display()))?;
        let directory = Self::of(global, id);
        match private(false).create(directory.path()) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("container with id {id} exists already")
            }
            other => other.with_context(|| format!("make {}", directory.path().display()))?,
        }
        Ok(directory)
    }

    pub(crate) fn of(global: &Global, id: &ContainerId) -> Self {
        Self(global.root.join(id.as_str()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the state whole or not at all.
    pub(crate) fn save(&self, state: &State) -> Result<()> {
        let (new, file) = (self.0.join("state.json.new"), self.0.join(FILE));
        fs::write(&new, serde_json::to_vec(state)?)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    pub(crate) fn load(&self) -> Result<State> {
        let file = self.0.join(FILE);
        let bytes = match fs::read(&file) {
            // runc's words, which engines know.
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("container does not exist"),
            other => other.with_context(|| format!("read {}", file.display()))?,
        };
        serde_json::from_slice(&bytes).with_context(|| format!("parse {}", file.display()))
    }

    pub(crate) fn remove(self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("remove {}", self.0.display())),
        }
    }

    /// Called once the container has been started.
    pub(crate) fn forget_start_socket(&self) -> Result<()> {
        let socket = self.0.join(start_socket::NAME);
        fs::remove_file(&socket).with_context(|| format!("remove {}", socket.display()))
    }

    pub(crate) fn status(&self, state: &State) -> Status {
        if state.is_alive() {
            match self.0.join(start_socket::NAME).exists() {
                true => Status::Created,
                false => Status::Running,
            }
        } else {
            Status::Stopped
        }
    }

    /// The state as OCI has it, with what runc adds.
    pub(crate) fn describe(&self, state: &State) -> serde_json::Value {
        let status = self.status(state);
        let owner = fs::metadata(&self.0).map(|metadata| metadata.uid());
        let annotations: HashMap<_, _> = state.config.annotations().clone().unwrap_or_default();
        serde_json::json!({
            "ociVersion": "1.2.0",
            "id": state.id,
            "pid": if status == Status::Stopped { 0 } else { state.pid },
            "status": status.name(),
            "bundle": state.bundle,
            "rootfs": state.rootfs,
            "created": state.created,
            "owner": if owner.is_ok_and(|uid| uid == 0) { "root" } else { "" },
            "annotations": annotations,
        })
    }
}

impl State {
    fn is_alive(&self) -> bool {
        start_time(self.pid).is_some_and(|time| time == self.start_time)
    }

    /// The container, if it lives. The check comes after the pidfd is taken, so that what is signalled
    /// through it is the process that was checked.
    pub(crate) fn container(&self) -> Result<Option<Container>> {
        if !self.is_alive() {
            return Ok(None);
        }
        let container = Container::attach(Pid::from_raw(self.pid));
        match self.is_alive() {
            true => Ok(Some(container?)),
            false => Ok(None),
        }
    }
}

/// When a process started, unless it is gone or a zombie.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}
