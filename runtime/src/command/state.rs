//! What is known of a container between two commands: `<root>/<id>/state.json`.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::{Cgroup, Unit};
use berth_runtime::hooks::Subject;
use berth_runtime::{Container, ContainerId, start_socket};
use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::Global;

const FILE: &str = "state.json";
/// A link whose text is the cgroup's path: made and read by one call.
const CGROUP: &str = "cgroup";
/// The same for the unit, if systemd makes the cgroup.
const UNIT: &str = "unit";

/// A container's record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<Config = Spec> {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// When the process started, in clock ticks since boot: a reused pid differs here.
    pub(crate) start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    /// Below the cgroup root.
    pub(crate) cgroup: PathBuf,
    /// The scope whose cgroup it is, if systemd made it.
    #[serde(default)]
    pub(crate) unit: Option<Unit>,
    /// Whether its processes stay in the session keyrings of their callers.
    pub(crate) no_new_keyring: bool,
    /// The configuration as it was at creation: the bundle's may have changed since.
    pub(crate) config: Config,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
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

    /// Puts the cgroup on record before it is made, for a deletion after a crash.
    pub(crate) fn note_cgroup(&self, cgroup: &Path) -> Result<()> {
        let link = self.0.join(CGROUP);
        symlink(cgroup, &link).with_context(|| format!("make {}", link.display()))
    }

    /// Puts the unit on record before it is made.
    pub(crate) fn note_unit(&self, unit: &Unit) -> Result<()> {
        let link = self.0.join(UNIT);
        let text = serde_json::to_string(unit)?;
        symlink(text, &link).with_context(|| format!("make {}", link.display()))
    }

    /// The unit on record, if it came to that.
    pub(crate) fn noted_unit(&self) -> Option<Unit> {
        let text = fs::read_link(self.0.join(UNIT)).ok()?;
        serde_json::from_str(text.to_str()?).ok()
    }

    /// The cgroup on record, if it came to that.
    pub(crate) fn noted_cgroup(&self) -> Option<PathBuf> {
        fs::read_link(self.0.join(CGROUP)).ok()
    }

    /// Writes the state whole or not at all.
    pub(crate) fn save(&self, state: &State<impl Serialize>) -> Result<()> {
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
        // By their names, which takes a third of the calls that searching the directory would. The
        // unit's note isn't among them: few containers have one.
        for name in [FILE, CGROUP, start_socket::NAME] {
            // What is there still is found by the search below, and said.
            let _removed = fs::remove_file(self.0.join(name)).is_ok();
        }
        match fs::remove_dir(&self.0) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(_) => {}
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("remove {}", self.0.display())),
        }
    }

    /// Where the container is in its life.
    pub(crate) fn status(&self, state: &State) -> Status {
        match state.stat() {
            Some(_) if state.is_paused() => Status::Paused,
            Some(stat) if stat.has_executed => Status::Running,
            Some(_) => Status::Created,
            None => Status::Stopped,
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
    /// Its first process, if that lives.
    fn stat(&self) -> Option<Stat> {
        Stat::of(self.pid).filter(|stat| stat.start_time == self.start_time)
    }

    /// Whether its first process is there.
    pub(crate) fn is_alive(&self) -> bool {
        self.stat().is_some()
    }

    fn is_paused(&self) -> bool {
        // A cgroup that can't be asked isn't one that was frozen.
        let cgroup = self.open_cgroup().ok().flatten();
        cgroup.is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }

    /// Its cgroup, unless that is gone.
    pub(crate) fn open_cgroup(&self) -> Result<Option<Cgroup>> {
        open_cgroup(&self.cgroup)
    }

    /// Kills what is left of it, and removes its cgroup.
    pub(crate) fn remove_cgroup(&self) -> Result<()> {
        match (self.open_cgroup()?, &self.unit) {
            (Some(cgroup), None) => cgroup.remove()?,
            (Some(cgroup), Some(unit)) => cgroup.remove_scope(unit)?,
            // systemd removes the cgroup of a scope that is empty, and may still remember the scope.
            (None, Some(unit)) => unit.remove()?,
            (None, None) => {}
        }
        Ok(())
    }

    /// The container, if it lives. The check comes after the pidfd is taken, so that what is signalled
    /// through it is the process that was checked.
    pub(crate) fn container(&self) -> Result<Option<Container>> {
        if self.stat().is_none() {
            return Ok(None);
        }
        let container = Container::attach(Pid::from_raw(self.pid));
        match self.stat() {
            Some(_) => Ok(Some(container?)),
            None => Ok(None),
        }
    }

    /// The container as its hooks, and those who decide about its system calls, are told of it.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.id,
            spec: &self.config,
            bundle: &self.bundle,
            pid: self.stat().map(|_| Pid::from_raw(self.pid)),
        }
    }
}

/// The cgroup at a path, unless it is gone.
pub(crate) fn open_cgroup(path: &Path) -> Result<Option<Cgroup>> {
    match Cgroup::open(path) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What /proc/<pid>/stat tells of a process (proc_pid_stat(5)).
pub(crate) struct Stat {
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
    /// Whether it has executed a program since it was cloned: a container's first process does so
    /// when it is started.
    pub(crate) has_executed: bool,
}

impl Stat {
    /// Unless the process is gone or a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        /// `PF_FORKNOEXEC` of include/linux/sched.h, which has been this bit since there is git.
        const FORKED_WITHOUT_EXEC: u64 = 0x40;
        let mut buffer = [0; 1024];
        let mut file = fs::File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = file.read(&mut buffer).ok()?;
        let stat = String::from_utf8_lossy(buffer.get(..length)?);
        // The second field is the name in parentheses, which may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let flags: u64 = fields.nth(5)?.parse().ok()?;
        Some(Self {
            start_time: fields.nth(12)?.parse().ok()?,
            has_executed: flags & FORKED_WITHOUT_EXEC == 0,
        })
    }
}
