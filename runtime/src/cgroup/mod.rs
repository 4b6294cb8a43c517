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
mod files;
mod limits;
mod tree;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

pub use error::{Error, Warning};
pub use limits::{check as check_limits, weight_of_shares};

/// Where the unified hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

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

/// What the kernel has counted in `memory.events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Times that an allocation failed for good at the limit.
    pub oom: u64,
    /// Processes killed by the out-of-memory killer.
    pub oom_kill: u64,
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
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read_to_string(&file).map_err(|source| Error::Membership {
            file: file.clone(),
            source,
        })?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        Self::open(path.ok_or(Error::NotUnified { file })?)
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

    /// Applies limits, all but the device rules, to a cgroup that is new or in use. What the resources
    /// don't name stays as it is.
    ///
    /// The warnings tell what isn't in force: what cgroup v2 has no setting for, and what
    /// [`Limits::BestEffort`] let pass.
    pub fn apply(&self, resources: &LinuxResources, mode: Limits) -> Result<Vec<Warning>, Error> {
        apply::apply(self, resources, mode)
    }

    /// Allows these devices, the ones every container has, and no others.
    pub fn allow_devices(
        &self,
        rules: &[LinuxDeviceCgroup],
        mode: Limits,
    ) -> Result<Vec<Warning>, Error> {
        match devices::attach(self, rules) {
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

    /// What the memory controller has counted; zero where it isn't enabled.
    pub fn memory_events(&self) -> Result<MemoryEvents, Error> {
        let text = match files::read(self, "memory.events") {
            Err(error) if error.errno() == Some(Errno::ENOENT) => String::new(),
            other => other?,
        };
        Ok(MemoryEvents {
            oom: files::field(&text, "oom"),
            oom_kill: files::field(&text, "oom_kill"),
        })
    }

    /// Whether any process is here or below.
    pub fn is_populated(&self) -> Result<bool, Error> {
        Ok(files::field(&files::read(self, "cgroup.events")?, "populated") != 0)
    }

    /// Kills every process here and below; returns before they are gone.
    pub fn kill(&self) -> Result<(), Error> {
        files::write(self, "cgroup.kill", "1")
    }

    /// Waits until no process is left here or below.
    pub fn wait_empty(&self) -> Result<(), Error> {
        let events = files::open_read(self, "cgroup.events")?;
        loop {
            // The file is read again before each wait: reading is what arms the notification.
            let text = files::read_again(self, &events, "cgroup.events")?;
            if files::field(&text, "populated") == 0 {
                return Ok(());
            }
            let mut waits = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut waits, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(files::error(self, "poll", "cgroup.events", errno)),
            }
        }
    }

    /// Kills what is left and removes the cgroup with those below it.
    pub fn remove(&self) -> Result<(), Error> {
        if self.is_populated()? {
            self.kill()?;
        }
        self.wait_empty()?;
        tree::remove(&self.path)
    }

    /// Removes the cgroup if it and those below are empty, and those above it up to `keep` levels
    /// from the root, as far as they are empty too.
    pub fn remove_with_empty_parents(&self, keep: usize) -> Result<(), Error> {
        self.remove()?;
        tree::remove_empty_parents(&self.path, keep)
    }
}
