//! Hooks: programs that the configuration wants run at turns of a container's life.
//!
//! | stage | when | where | by |
//! |---|---|---|---|
//! | prestart, createRuntime | mounts are made, the root isn't changed yet | the runtime's namespaces | create |
//! | createContainer | right after those | the container's, with the host's root | create |
//! | startContainer | start was asked for, the program doesn't run yet | the container, as its process | start |
//! | poststart | the program runs | the runtime's namespaces | start |
//! | poststop | the container is deleted | the runtime's namespaces | delete |
//!
//! Each gets the container's state on its standard input (config.md, "POSIX-platform Hooks"). A hook
//! that fails ends the container; after poststop there is nothing left to end, so its failures are
//! only told. What a hook prints is shown when it fails.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Spec};
use serde::Serialize;

use crate::child::{Child, ExitStatus};
use crate::error::Error;
use crate::exec::{Entry, enter, run_here};
use crate::plan::{ProcessPlan, Settings, Stdio, hook_plan, process_plan};
use crate::{config, seccomp};

/// How much of a failed hook's output is shown, in bytes: its end, where errors stand.
const SHOWN_OUTPUT: u64 = 2048;

/// A turn in a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// Those that see the container's mounts while the host's root is still there.
    pub(crate) const BEFORE_PIVOT: [Self; 3] =
        [Self::Prestart, Self::CreateRuntime, Self::CreateContainer];

    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The hooks of a configuration for this stage.
    pub fn hooks(self, spec: &Spec) -> &[Hook] {
        let Some(hooks) = spec.hooks() else {
            return &[];
        };
        // The old stage lives on in the engines.
        #[allow(deprecated)]
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }

    /// The status of which a hook of this stage is told.
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// The container that hooks are run for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its configuration.
    pub spec: &'a Spec,
    /// Its bundle, an absolute path.
    pub bundle: &'a Path,
    /// Its first process, while there is one.
    pub pid: Option<Pid>,
    /// Whether it has a cgroup of its own, where what enters it runs too.
    pub has_cgroup: bool,
}

/// The state as the specification defines it (runtime.md, "State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StateDocument<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a HashMap<String, String>>,
}

impl<'a> Subject<'a> {
    pub(crate) fn state(&self, status: &'static str) -> StateDocument<'a> {
        StateDocument {
            oci_version: self.spec.version(),
            id: self.id,
            status,
            pid: self.pid.map(Pid::as_raw),
            bundle: self.bundle,
            annotations: self.spec.annotations().as_ref(),
        }
    }

    /// Runs the hooks of a stage in their order, up to the first that fails.
    pub fn run(&self, stage: Stage) -> Result<(), Error> {
        for (index, hook) in stage.hooks(self.spec).iter().enumerate() {
            self.run_one(stage, hook).map_err(|reason| Error::Hook {
                stage: stage.name(),
                index,
                path: hook.path().clone(),
                reason: reason.to_string(),
            })?;
        }
        Ok(())
    }

    /// Runs every hook that follows the container's end, and tells which failed.
    pub fn run_poststop(&self) -> Vec<Error> {
        let one = |(index, hook): (usize, &Hook)| {
            let ran = self.run_one(Stage::Poststop, hook);
            ran.err().map(|reason| Error::Hook {
                stage: Stage::Poststop.name(),
                index,
                path: hook.path().clone(),
                reason: reason.to_string(),
            })
        };
        let hooks = Stage::Poststop.hooks(self.spec).iter().enumerate();
        hooks.filter_map(one).collect()
    }

    fn run_one(&self, stage: Stage, hook: &Hook) -> Result<(), Failure> {
        let document =
            serde_json::to_vec(&self.state(stage.status())).map_err(Failure::internal)?;
        let input = memory_file(&document)?;
        let output = memory_file(&[])?;
        let streams = Stdio {
            stdin: Some(input.into()),
            stdout: Some(output.try_clone().map_err(Failure::internal)?.into()),
            stderr: Some(output.try_clone().map_err(Failure::internal)?.into()),
        };
        let child = self.start(stage, hook, streams)?;
        let limit = hook
            .timeout()
            .and_then(|seconds| u64::try_from(seconds).ok());
        let status = wait(&child, limit.map(Duration::from_secs))?;
        match status {
            Some(ExitStatus::Code(0)) => Ok(()),
            Some(status) => Err(Failure::Ended {
                status,
                said: end_of(output),
            }),
            None => Err(Failure::TimedOut {
                seconds: limit.unwrap_or_default(),
                said: end_of(output),
            }),
        }
    }

    fn start(&self, stage: Stage, hook: &Hook, streams: Stdio) -> Result<Child, Error> {
        let process = match stage {
            Stage::StartContainer => self.as_container_process(hook, streams)?,
            _ => hook_plan(hook, streams)?,
        };
        let linux = self.spec.linux().as_ref();
        match (stage, self.pid) {
            (Stage::CreateContainer, Some(pid)) => enter(pid, Entry::new(process, self.has_cgroup)),
            (Stage::StartContainer, Some(pid)) => {
                let mut entry = Entry::new(process, self.has_cgroup);
                entry.seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
                enter(pid, entry)
            }
            _ => run_here(process),
        }
    }

    /// A startContainer hook has the rights of the container's process and no others.
    fn as_container_process(&self, hook: &Hook, streams: Stdio) -> Result<ProcessPlan, Error> {
        let process = self.spec.process();
        let process = process.as_ref().ok_or_else(config::Error::no_process)?;
        let linux = self.spec.linux().as_ref();
        let filter = linux.and_then(|linux| linux.seccomp().as_ref());
        let mut settings = Settings::new(streams);
        settings.seccomp = filter.map(seccomp::install_flags).transpose()?;
        let mut plan = process_plan(process, settings)?;
        plan.terminal = None;
        plan.run_hook(hook)?;
        Ok(plan)
    }
}

/// What a container keeps for the hooks of its later turns.
#[derive(Debug)]
pub(crate) struct Later {
    id: String,
    spec: Spec,
    bundle: PathBuf,
    has_cgroup: bool,
}

impl Later {
    /// For a container that has such hooks; most have none, and pay nothing.
    pub(crate) fn of(subject: &Subject) -> Option<Box<Self>> {
        let later = [Stage::StartContainer, Stage::Poststart, Stage::Poststop];
        let has_any = later
            .iter()
            .any(|stage| !stage.hooks(subject.spec).is_empty());
        has_any.then(|| {
            Box::new(Self {
                id: subject.id.to_owned(),
                spec: subject.spec.clone(),
                bundle: subject.bundle.to_owned(),
                has_cgroup: subject.has_cgroup,
            })
        })
    }

    pub(crate) fn subject(&self, pid: Option<Pid>) -> Subject<'_> {
        Subject {
            id: &self.id,
            spec: &self.spec,
            bundle: &self.bundle,
            pid,
            has_cgroup: self.has_cgroup,
        }
    }
}

/// Why a hook didn't do what it was there for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}{}", describe(*.status), output(.said))]
    Ended { status: ExitStatus, said: String },
    #[error("killed, since it took longer than its timeout of {seconds} s{}", output(.said))]
    TimedOut { seconds: u64, said: String },
    #[error(transparent)]
    Start(#[from] Box<Error>),
    #[error("{0}")]
    Internal(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Start(Box::new(error))
    }
}

impl Failure {
    fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }
}

fn describe(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit status {code}"),
        ExitStatus::Signal(signal) => format!("killed by signal {signal}"),
    }
}

fn output(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("; it said: {text}"),
    }
}

/// A file in memory, with this content and the position at its start: unlike a pipe it neither fills
/// up nor needs anybody at the other end.
fn memory_file(content: &[u8]) -> Result<File, Failure> {
    let fd: OwnedFd = memfd_create(c"hook", MFdFlags::MFD_CLOEXEC).map_err(Failure::internal)?;
    let mut file = File::from(fd);
    file.write_all(content)
        .and_then(|()| file.rewind())
        .map_err(Failure::internal)?;
    Ok(file)
}

fn end_of(mut output: File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let start = length.saturating_sub(SHOWN_OUTPUT);
    let mut bytes = Vec::new();
    let read = output
        .seek(std::io::SeekFrom::Start(start))
        .and_then(|_| output.take(SHOWN_OUTPUT).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => format!("(its output can't be read: {error})"),
    }
}

/// Waits for a hook; one that takes too long is killed, which is `None`.
fn wait(child: &Child, limit: Option<Duration>) -> Result<Option<ExitStatus>, Error> {
    let Some(limit) = limit else {
        return child.wait().map(Some);
    };
    // A limit beyond what the clock holds is none.
    let Some(end) = Instant::now().checked_add(limit) else {
        return child.wait().map(Some);
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill(Signal::SIGKILL)?;
            child.wait()?;
            return Ok(None);
        }
        // Rounded up, so that it isn't woken too early for ever.
        let milliseconds = left.as_millis().saturating_add(1).min(i32::MAX as u128) as i32;
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        let mut waits = [PollFd::new(child.pidfd(), PollFlags::POLLIN)];
        match poll(&mut waits, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return child.wait().map(Some),
            Err(errno) => return Err(Error::system("poll", errno, "wait for a hook")),
        }
    }
}
