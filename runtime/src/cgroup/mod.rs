//! Control groups, version 2.
//!
//! A [`Cgroup`] is a directory held by descriptor: its files are opened relative to it, so a path is
//! resolved once. Processes live in leaves only; controllers are enabled on the way down, and only
//! those that a limit needs. Files are written by hand rather than through the crate cgroups-rs,
//! which resolves a path and reads the mount table for each: starting a container would pay for it.
//!
//! ```no_run
//! use berth_runtime::cgroup::{Cgroup, Limits};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let task = Cgroup::create("berth/0123")?;
//! let resources = serde_json::from_str(r#"{"memory": {"limit": 67108864}}"#)?;
//! for warning in task.apply(&resources, Limits::BestEffort)? {
//!     eprintln!("{warning}");
//! }
//! # Ok(())
//! # }
//! ```

mod apply;
mod controllers;
mod devices;
mod error;
mod events;
mod files;
mod freezer;
mod limits;
mod mark;
mod memory_watch;
pub mod statistics;
mod systemd;
mod tree;
#[cfg(any(test, fuzzing))]
mod unwritten;
mod without;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use events::Event;

pub use error::{Error, Warning};
pub use limits::{check as check_limits, weight_of_shares};
pub use mark::Mark;
pub use memory_watch::MemoryWatch;
pub use statistics::{MemoryEvents, Statistics};
pub use systemd::{BusError, Manager, Unit};
pub(crate) use systemd::{Placeholder, Started, Wanted, check_annotations, start as start_scope};
pub(crate) use without::go_without;

#[cfg(any(test, fuzzing))]
pub(crate) use unwritten::unwritten;

/// Where the unified hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// Berth, in the cgroup file system. The configuration's `cgroupsPath` is a path.
    #[default]
    Cgroupfs,
    /// systemd, as a transient scope. The configuration's `cgroupsPath` is `slice:prefix:name`.
    Systemd,
    /// Nobody: the container stays in the cgroup of whoever makes it, without limits of its own.
    Disabled,
}

/// What to do about a limit that this host can't enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limits {
    /// It is an error.
    #[default]
    Required,
    /// It becomes a [`Warning`], and the container runs without it.
    BestEffort,
}

/// A control group.
#[derive(Debug)]
pub struct Cgroup {
    directory: OwnedFd,
    path: PathBuf,
    /// Whether making this value made the cgroup.
    is_new: bool,
}

impl Cgroup {
    /// Creates the cgroup at `path`, relative to the root, with those above it. One that exists is
    /// opened.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let (directory, path, is_new) = tree::create(path.as_ref())?;
        Ok(Self {
            directory,
            path,
            is_new,
        })
    }

    /// Opens a cgroup that exists.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let (directory, path) = tree::open(path.as_ref())?;
        Ok(Self {
            directory,
            path,
            is_new: false,
        })
    }

    /// Opens the cgroup that a process is in.
    pub fn of(pid: Pid) -> Result<Self, Error> {
        Self::open(path_of(pid)?)
    }

    /// The path below the root, without a leading slash.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, to clone a process into it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether [`Self::create`] made it, so that nobody can be in it yet.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Marks it as a container's own. One that has a mark already is another's, which is an error.
    pub fn claim(&self, mark: &Mark) -> Result<(), Error> {
        mark::claim(self, mark)
    }

    /// The mark that it has from [`Self::claim`].
    pub fn mark(&self) -> Result<Option<Mark>, Error> {
        mark::read(self)
    }

    /// Applies limits, all but the device rules, to a cgroup that is new or in use. What the resources
    /// don't name stays as it is.
    ///
    /// The warnings tell what isn't in force: what cgroup v2 has no setting for, and what
    /// [`Limits::BestEffort`] let pass.
    pub fn apply(&self, resources: &LinuxResources, mode: Limits) -> Result<Vec<Warning>, Error> {
        apply::apply(self, resources, mode)
    }

    /// Allows these devices, the ones every container has, and no others. What was allowed before by
    /// the same call is replaced at once.
    pub fn allow_devices(
        &self,
        rules: &[LinuxDeviceCgroup],
        mode: Limits,
    ) -> Result<Vec<Warning>, Error> {
        match devices::allow(self, rules) {
            Err(error) if mode == Limits::BestEffort => Ok(vec![Warning::from(error)]),
            other => other.map(|()| Vec::new()),
        }
    }

    /// Reads a file of the cgroup, such as `memory.current`.
    pub fn read(&self, file: &str) -> Result<String, Error> {
        files::read(self, file)
    }

    /// Moves a process here.
    pub fn add(&self, pid: Pid) -> Result<(), Error> {
        files::write(self, "cgroup.procs", &pid.to_string())
    }

    /// The processes here, not those in cgroups below.
    pub fn processes(&self) -> Result<Vec<Pid>, Error> {
        let pids = files::read(self, "cgroup.procs")?;
        Ok(pids
            .lines()
            .filter_map(|line| line.parse().ok())
            .map(Pid::from_raw)
            .collect())
    }

    /// The processes here and in the cgroups below, which a container may have made.
    pub fn all_processes(&self) -> Result<Vec<Pid>, Error> {
        let mut pids = self.processes()?;
        for below in tree::below(self)? {
            match below.and_then(|below| below.all_processes()) {
                Ok(more) => pids.extend(more),
                // Removed meanwhile: it is empty.
                Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// What the kernel has counted: time, memory, processes, input and output, pressure.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        statistics::read(self)
    }

    /// What the memory controller has counted; zero where it isn't enabled.
    pub fn memory_events(&self) -> Result<MemoryEvents, Error> {
        statistics::memory_events(self)
    }

    /// The same to be polled, if the memory controller is enabled.
    pub fn watch_memory(&self) -> Result<Option<MemoryWatch>, Error> {
        MemoryWatch::open(self)
    }

    /// Whether any process is here or below.
    pub fn is_populated(&self) -> Result<bool, Error> {
        events::is(self, Event::Populated)
    }

    /// Stops every process here and below where it is, and waits until they have stopped, at most for
    /// so long; if they don't, they go on.
    pub fn freeze(&self, patience: Duration) -> Result<(), Error> {
        freezer::freeze(self, patience)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Error> {
        freezer::thaw(self)
    }

    /// Whether they are frozen, by a cgroup above too.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        events::is(self, Event::Frozen)
    }

    /// Kills every process here and below, frozen or not; returns before they are gone.
    pub fn kill(&self) -> Result<(), Error> {
        files::write(self, "cgroup.kill", "1")
    }

    /// Waits until no process is left here or below.
    pub fn wait_empty(&self) -> Result<(), Error> {
        events::wait(self, Event::Populated, false, None).map(drop)
    }

    /// Kills what is left and removes the cgroup with those below it.
    pub fn remove(&self) -> Result<(), Error> {
        // Mostly it is empty, and this one call is all.
        if tree::remove_if_unused(&self.path)? {
            return Ok(());
        }
        self.end()?;
        tree::remove(&self.path)
    }

    /// Removes the cgroup if nothing is in it or below it, and tells whether it is gone. Nothing is
    /// killed.
    pub fn remove_if_unused(&self) -> Result<bool, Error> {
        tree::remove_if_unused(&self.path)
    }

    /// Kills what is left, waits until it is gone, and has systemd remove the scope whose cgroup this
    /// is. One that is gone already, as systemd removes empty scopes by itself, is as wanted.
    pub fn remove_scope(&self, unit: &Unit) -> Result<(), Error> {
        match self.end() {
            Err(error) if !matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                return Err(error);
            }
            _ => {}
        }
        unit.remove()
    }

    fn end(&self) -> Result<(), Error> {
        if self.is_populated()? {
            self.kill()?;
        }
        self.wait_empty()
    }

    /// Removes the cgroup if it and those below are empty, and those above it up to `keep` levels
    /// from the root, as far as they are empty too.
    pub fn remove_with_empty_parents(&self, keep: usize) -> Result<(), Error> {
        self.remove()?;
        tree::remove_empty_parents(&self.path, keep)
    }
}

/// The path of the cgroup that a process is in, below the root.
pub(crate) fn path_of(pid: Pid) -> Result<PathBuf, Error> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).map_err(|source| Error::Membership {
        file: file.clone(),
        source,
    })?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(PathBuf::from).ok_or(Error::NotUnified { file })
}
