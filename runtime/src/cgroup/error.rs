//! What can go wrong with a cgroup, and what a missing limit reads like as a warning.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;
use thiserror::Error;

use super::BusError;

/// Why something about a cgroup failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no cgroup v2 hierarchy where one belongs.
    #[error(
        "/sys/fs/cgroup is not a cgroup v2 mount: Berth needs the unified hierarchy \
         (boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there)"
    )]
    NotUnifiedRoot,
    /// A process that is in no v2 cgroup.
    #[error("{file} has no line \"0::\": the process is not in the unified hierarchy")]
    NotUnified {
        /// The file that was read.
        file: String,
    },
    /// A process's membership couldn't be read.
    #[error("read {file}: {source}")]
    Membership {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A path that is none.
    #[error("cgroup path {path:?} must have at least one name, and none of them \".\" or \"..\"")]
    Path {
        /// What was given.
        path: PathBuf,
    },
    /// The kernel refused a call on a cgroup's directory or file.
    #[error("{call} cgroup {}/{file}: {errno}", path.display())]
    File {
        /// The call.
        call: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The file in it, or empty.
        file: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel refused a value.
    #[error("write {value:?} to cgroup {}/{file}: {errno}", path.display())]
    Write {
        /// The cgroup.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A limit whose controller this host lacks, or keeps from us.
    #[error(
        "the limit {file} needs the cgroup controller {controller:?}, which cgroup {at:?} does not \
         offer{}: its cgroup.controllers has {available:?}",
        errno.map(why_not_enabled).unwrap_or_default()
    )]
    Controller {
        /// The controller.
        controller: String,
        /// The file that was to be written.
        file: String,
        /// The cgroup that would have to enable it.
        at: PathBuf,
        /// What that cgroup can enable.
        available: String,
        /// Why enabling it failed, if it was tried.
        errno: Option<Errno>,
    },
    /// A limit whose value makes no sense.
    #[error("linux.resources.{field}: {value} {expected}")]
    Value {
        /// The field of the configuration.
        field: String,
        /// Its value.
        value: String,
        /// What is right.
        expected: &'static str,
    },
    /// A limit for a container that has no cgroup.
    #[error("the limit {file} (linux.resources) needs a cgroup: {why}")]
    NoCgroup {
        /// The file that would hold the limit.
        file: String,
        /// Why there is none, and what to do.
        why: String,
    },
    /// Processes that can't be stopped where they are.
    #[error(
        "cgroup {} did not freeze within {seconds} s: one of its processes is in an uninterruptible \
         sleep (state D in ps). It was thawed again", path.display()
    )]
    NotFrozen {
        /// The cgroup.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A cgroup's file that isn't as the kernel documents it.
    #[error("cgroup {}/{file} has {text:?}, which is not in the kernel's form", path.display())]
    Form {
        /// The cgroup.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// What it has.
        text: String,
    },
    /// The device filter couldn't be installed.
    #[error("{call} the device filter of cgroup {}: {errno} (bpf(2) needs CAP_BPF or CAP_SYS_ADMIN)", path.display())]
    Devices {
        /// The call.
        call: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A cgroup that has the mark of another container.
    #[error(
        "cgroup {} (linux.cgroupsPath) belongs to another container, {by:?}: each needs its own; if \
         that container is gone, remove the cgroup", path.display()
    )]
    Marked {
        /// The cgroup.
        path: PathBuf,
        /// The mark: that container's id, and a number.
        by: String,
    },
    /// No mark could be made up.
    #[error("getrandom, to mark the container's cgroup: {errno}")]
    Mark {
        /// The kernel's answer.
        errno: Errno,
    },
    /// A path that the driver in use can't take.
    #[error("linux.cgroupsPath: {path:?} {expected}")]
    CgroupsPath {
        /// What was given.
        path: String,
        /// What is right.
        expected: &'static str,
    },
    /// An annotation that asks systemd for something in no form it understands.
    #[error("annotations[{name:?}]: {value:?} {expected}")]
    Annotation {
        /// The annotation's key.
        name: String,
        /// Its value.
        value: String,
        /// What is right.
        expected: &'static str,
    },
    /// systemd refused something, or couldn't be talked to.
    #[error("systemd's unit {unit}: {source}")]
    Systemd {
        /// The unit.
        unit: String,
        /// Why.
        source: BusError,
    },
    /// systemd took a job up, and it didn't end well.
    #[error("systemd's unit {unit}: {doing}: the job's result is {result:?} (see journalctl)")]
    Job {
        /// The unit.
        unit: String,
        /// What was being done.
        doing: &'static str,
        /// What came of it.
        result: String,
    },
    /// systemd says that a scope is there, and its process is elsewhere.
    #[error("systemd's unit {unit}: it was started, but its first process is in cgroup {at:?}")]
    NotInScope {
        /// The unit.
        unit: String,
        /// Where the process is.
        at: PathBuf,
    },
    /// The process that a scope begins with couldn't be made.
    #[error("clone3 a process for systemd's scope to begin with: {errno}")]
    Placeholder {
        /// The kernel's answer.
        errno: Errno,
    },
}

impl Error {
    /// The kernel's answer, if that is what failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::File { errno, .. }
            | Self::Write { errno, .. }
            | Self::Devices { errno, .. }
            | Self::Mark { errno }
            | Self::Placeholder { errno } => Some(*errno),
            Self::Controller { errno, .. } => *errno,
            _ => None,
        }
    }
}

/// What lies behind the kernel's refusal to enable a controller.
fn why_not_enabled(errno: Errno) -> String {
    let hint = match errno {
        Errno::EBUSY => {
            ": it has processes of its own, and only a cgroup without any can pass controllers on"
        }
        Errno::EOPNOTSUPP => ": it is threaded, and this controller limits whole processes",
        Errno::EACCES | Errno::EPERM | Errno::EROFS => ": it isn't delegated to us",
        _ => "",
    };
    format!(" ({errno}{hint})")
}

/// A limit that isn't in force: the caller asked for best effort, or cgroup v2 has no such limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(String);

impl Warning {
    /// A setting of v1 that no kernel could apply in v2.
    pub(super) fn passed_over(field: &str) -> Self {
        Self(format!(
            "linux.resources.{field} is not in force: cgroup v2 has no such setting"
        ))
    }

    /// Without a cgroup nobody asks about devices.
    pub(super) fn no_device_rules() -> Self {
        Self("linux.resources.devices is not in force: the container has no cgroup".to_owned())
    }
}

impl From<Error> for Warning {
    fn from(error: Error) -> Self {
        Self(format!("a limit is not in force: {error}"))
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
