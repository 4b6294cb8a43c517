//! What is known of a container between two commands: `<root>/<id>/state.json`.

mod processes;
mod record;

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::{Cgroup, Mark, Unit};
use berth_runtime::config::makes_namespace;
use berth_runtime::hooks::Subject;
use berth_runtime::{Container, ContainerId, failpoint, start_socket};
use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Global;
pub(crate) use record::{Stat, State};

const FILE: &str = "state.json";
/// A link whose text is the container's mark and its cgroup's path: made and read by one call.
const CGROUP: &str = "cgroup";
/// The same for the unit, if systemd makes the cgroup.
const UNIT: &str = "unit";

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
        let root = global.root();
        let directory = Self(root.join(id.as_str()));
        let made = match private(false).create(directory.path()) {
            // The first container of all.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                private(true)
                    .create(&root)
                    .with_context(|| format!("make {} (--root says where else)", root.display()))?;
                private(false).create(directory.path())
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("container with id {id} exists already")
            }
            other => other.with_context(|| format!("make {}", directory.path().display()))?,
        }
        failpoint::pass("state-directory-made");
        Ok(directory)
    }

    pub(crate) fn of(global: &Global, id: &ContainerId) -> Self {
        Self(global.root().join(id.as_str()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts the cgroup on record before it is made, with the mark that will tell whether it is this
    /// container's: for a deletion after a crash.
    pub(crate) fn note_cgroup(&self, cgroup: &Path, mark: &Mark) -> Result<()> {
        self.note(CGROUP, &serde_json::to_string(&(mark, cgroup))?)
    }

    /// Puts the unit on record before it is made, likewise.
    pub(crate) fn note_unit(&self, unit: &Unit, mark: &Mark) -> Result<()> {
        self.note(UNIT, &serde_json::to_string(&(mark, unit))?)
    }

    fn note(&self, name: &str, text: &str) -> Result<()> {
        let link = self.0.join(name);
        symlink(text, &link).with_context(|| format!("make {}", link.display()))
    }

    /// The unit on record, if it came to that.
    pub(crate) fn noted_unit(&self) -> Option<(Mark, Unit)> {
        self.noted(UNIT)
    }

    /// The cgroup on record, if it came to that.
    pub(crate) fn noted_cgroup(&self) -> Option<(Mark, PathBuf)> {
        self.noted(CGROUP)
    }

    fn noted<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let text = fs::read_link(self.0.join(name)).ok()?;
        serde_json::from_str(text.to_str()?).ok()
    }

    /// Writes the state whole or not at all.
    pub(crate) fn save(&self, state: &State<impl Serialize>) -> Result<()> {
        let (new, file) = (self.0.join("state.json.new"), self.0.join(FILE));
        let write = || {
            fs::write(&new, serde_json::to_vec(state)?)?;
            failpoint::pass("state-written");
            fs::rename(&new, &file)
        };
        write().with_context(|| format!("write {}", file.display()))?;
        failpoint::pass("state-saved");
        Ok(())
    }

    pub(crate) fn load(&self) -> Result<State> {
        let file = self.0.join(FILE);
        let bytes = match fs::read(&file) {
            // runc's words, which engines know.
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("container does not exist"),
            other => other.with_context(|| format!("read {}", file.display()))?,
        };
        State::parse(&bytes).with_context(|| format!("parse {}", file.display()))
    }

    pub(crate) fn remove(self) -> Result<()> {
        // By their names, which takes a third of the calls that searching the directory would. The
        // unit's note isn't among them: few containers have one.
        for name in [FILE, CGROUP, start_socket::NAME] {
            // What is there still is found by the search below, and said.
            let _removed = fs::remove_file(self.0.join(name)).is_ok();
            failpoint::pass("record-removed");
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
            Some(stat) if stat.has_executed || state.restored => Status::Running,
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

    /// Its cgroup, if it has one, unless that is gone, or another container's is at its path.
    pub(crate) fn open_cgroup(&self) -> Result<Option<Cgroup>> {
        let Some(path) = &self.cgroup else {
            return Ok(None);
        };
        let Some(cgroup) = open_cgroup(path)? else {
            return Ok(None);
        };
        match &self.mark {
            Some(mark) if cgroup.mark()?.as_ref() != Some(mark) => Ok(None),
            _ => Ok(Some(cgroup)),
        }
    }

    /// Kills what is left of it, and removes its cgroup.
    pub(crate) fn remove_cgroup(&self) -> Result<()> {
        match (self.open_cgroup()?, &self.unit) {
            (Some(cgroup), None) => cgroup.remove()?,
            (Some(cgroup), Some(unit)) => cgroup.remove_scope(unit)?,
            // systemd removes the cgroup of a scope that is empty, and may still remember the scope.
            (None, Some(unit)) if self.is_own(unit)? => unit.remove()?,
            (None, _) => {}
        }
        Ok(())
    }

    /// All its processes.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>> {
        match &self.cgroup {
            // One that is gone has none.
            Some(_) => match self.open_cgroup()? {
                Some(cgroup) => Ok(cgroup.all_processes()?),
                None => Ok(Vec::new()),
            },
            None if !self.is_alive() => Ok(Vec::new()),
            None if has_own_pid_namespace(&self.config) => processes::beside(self.pid),
            None => bail!(
                "container {} has neither a cgroup nor a pid namespace of its own, by which its processes \
                 could be told from others",
                self.id
            ),
        }
    }

    /// Whether a scope of this name is this container's. A record from before there were marks has none
    /// to compare.
    fn is_own(&self, unit: &Unit) -> Result<bool> {
        match &self.mark {
            Some(mark) => Ok(unit.is_marked(mark)?),
            None => Ok(true),
        }
    }

    /// The container, if it lives. The check comes after the pidfd is taken, so that what is signalled
    /// through it is the process that was checked.
    pub(crate) fn container(&self) -> Result<Option<Container>> {
        if self.stat().is_none() {
            return Ok(None);
        }
        let container = Container::attach(Pid::from_raw(self.pid), self.open_cgroup()?);
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
            has_cgroup: self.cgroup.is_some(),
        }
    }
}

fn has_own_pid_namespace(config: &Spec) -> bool {
    let linux = config.linux().as_ref();
    linux.is_some_and(|linux| makes_namespace(linux, LinuxNamespaceType::Pid))
}

/// The cgroup at a path, unless it is gone.
pub(crate) fn open_cgroup(path: &Path) -> Result<Option<Cgroup>> {
    match Cgroup::open(path) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
