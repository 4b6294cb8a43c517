//! One container in the supervisor's hands: from its root filesystem to its exit.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use berth_runtime::cgroup::Cgroup;
use berth_runtime::{Container, CreateOptions, Stdio, cgroup};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

use super::log::{LogWriter, Stream};
use super::protocol::{Exec, Files, Plan, PlannedContainer, State, Status};
use super::rootfs::Rootfs;
use super::spec;
use super::user_namespace::UserNamespace;
use crate::config::Limits;
use crate::id::Timestamp;

/// A container that was asked for.
pub struct Supervised {
    container: Option<Container>,
    spec: oci_spec::runtime::Spec,
    log: LogWriter,
    outputs: [Option<OwnedFd>; 2],
    /// When it is killed, if it doesn't end before.
    deadline: Option<Instant>,
    stop_signal: Signal,
    asked_to_stop: bool,
    user_namespace: Option<UserNamespace>,
    _rootfs: Rootfs,
}

/// The most that a pipe holds: the kernel's default of `fs.pipe-max-size`.
const PIPE_LIMIT: u64 = 1 << 20;

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// The policy in the runtime's words.
pub fn limits(limits: Limits) -> cgroup::Limits {
    match limits {
        Limits::Required => cgroup::Limits::Required,
        Limits::BestEffort => cgroup::Limits::BestEffort,
    }
}

/// Creates and starts a container. The error's first words are ECS's name for it. Whatever was
/// made before the error is undone.
pub fn start(
    plan: &Plan,
    files: &Files,
    planned: &PlannedContainer,
    warnings: &mut Vec<String>,
) -> Result<(Supervised, Status), String> {
    let create = || -> anyhow::Result<_> {
        let user_namespace = UserNamespace::of(&planned.network)?;
        let rootfs = Rootfs::mount(
            planned,
            &files.rootfs(&planned.name),
            user_namespace.as_ref(),
        )?;
        let spec = spec::container(plan, planned, rootfs.path(), user_namespace.as_ref())?;
        let log = plan.logs.join(format!("{}.log", planned.name));
        let log = LogWriter::open(&log).with_context(|| format!("opening {}", log.display()))?;
        let (stdout, out) = output()?;
        let (stderr, err) = output()?;
        if let Some(namespace) = &user_namespace {
            namespace.give([&out, &err])?;
        }
        let id = planned.name.parse()?;
        let null = std::fs::File::open("/dev/null").context("opening /dev/null")?;
        let mut options = CreateOptions::new(&id, &spec, files.folder());
        options.stdio = Stdio {
            stdin: Some(null.into()),
            stdout: Some(out),
            stderr: Some(err),
        };
        options.limits = limits(plan.limits);
        options.parent_death_signal = Some(Signal::SIGKILL);
        let created = berth_runtime::create(options)?;
        let outputs = [Some(stdout), Some(stderr)];
        Ok((created, rootfs, spec, log, outputs, user_namespace))
    };
    let (created, rootfs, spec, log, outputs, user_namespace) =
        create().map_err(|error| format!("CannotStartContainerError: {error:#}"))?;
    warnings.extend(
        created
            .warnings()
            .iter()
            .map(|warning| format!("{}: {warning}", planned.name)),
    );
    let container = created
        .start()
        .map_err(|error| format!("CannotStartContainerError: {error}"))?;
    let status = Status {
        container: planned.name.clone(),
        state: State::Running {
            pid: container.pid().as_raw(),
        },
        started: Some(Timestamp::now()),
        finished: None,
    };
    let supervised = Supervised {
        container: Some(container),
        spec,
        log,
        outputs,
        deadline: None,
        stop_signal: signal(&planned.stop_signal),
        asked_to_stop: false,
        user_namespace,
        _rootfs: rootfs,
    };
    Ok((supervised, status))
}

/// A pipe whose reading end doesn't wait, so that a container that prints can't hold us up.
fn output() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let (read, write) =
        pipe2(OFlag::O_CLOEXEC).context("making a pipe for the container's output")?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .context("making a pipe for the container's output")?;
    Ok((read, write))
}

/// The signal of that name or number; SIGTERM where it is neither.
fn signal(name: &str) -> Signal {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    let by_number = || {
        name.parse::<i32>()
            .ok()
            .and_then(|n| Signal::try_from(n).ok())
    };
    full.parse()
        .ok()
        .or_else(by_number)
        .unwrap_or(Signal::SIGTERM)
}

impl Supervised {
    /// Becomes readable when the first process has ended; nothing once that is known.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.container.as_ref().map(Container::pidfd)
    }

    /// Its outputs that are still open.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.outputs
            .iter()
            .enumerate()
            .filter_map(|(i, output)| Some((i, output.as_ref()?.as_fd())))
    }

    /// When to look at it again, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.container.is_some())
    }

    /// Writes what it printed to its log, up to what has come so far.
    pub fn drain(&mut self, which: usize) {
        let Some(stream) = STREAMS.get(which) else {
            return;
        };
        let mut buffer = [0u8; 32 << 10];
        // A container that prints without pause must not keep the others waiting.
        for _ in 0..8 {
            let Some(Some(output)) = self.outputs.get(which) else {
                return;
            };
            match nix::unistd::read(output, &mut buffer) {
                Ok(0) => {
                    self.close(which);
                    return;
                }
                Ok(n) => complain(self.log.write(*stream, buffer.get(..n).unwrap_or_default())),
                Err(nix::Error::EAGAIN) => return,
                Err(nix::Error::EINTR) => {}
                Err(error) => {
                    complain(Err(error.into()));
                    self.close(which);
                    return;
                }
            }
        }
    }

    fn close(&mut self, which: usize) {
        if let (Some(output), Some(stream)) = (self.outputs.get_mut(which), STREAMS.get(which)) {
            *output = None;
            complain(self.log.end(*stream));
        }
    }

    /// Sends the stop signal, once, and sets the time of the kill.
    pub fn stop(&mut self, timeout: u32) {
        let Some(container) = &self.container else {
            return;
        };
        if self.asked_to_stop {
            return;
        }
        self.asked_to_stop = true;
        self.deadline = Some(Instant::now() + Duration::from_secs(timeout.into()));
        if let Err(error) = container.kill(self.stop_signal) {
            eprintln!("sending {}: {error}", self.stop_signal);
        }
    }

    /// Kills it where its time to stop is over.
    pub fn enforce_deadline(&mut self) {
        if self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            self.deadline = None;
            self.kill();
        }
    }

    /// Kills every process of it.
    pub fn kill(&self) {
        if let Some(container) = &self.container
            && let Err(error) = container.kill_all()
        {
            eprintln!("killing a container: {error}");
        }
    }

    /// Waits until its first process has ended: after a kill, no time.
    pub fn wait_for_end(&self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(pidfd) = self.pidfd() else { return };
        while poll(
            &mut [PollFd::new(pidfd, PollFlags::POLLIN)],
            PollTimeout::NONE,
        ) == Err(nix::Error::EINTR)
        {}
    }

    /// Its exit, if its first process has ended: collected, its last words in the log, its
    /// cgroup removed.
    pub fn take_exit(&mut self) -> Option<State> {
        let status = match self.container.as_ref()?.try_wait() {
            Ok(status) => status?,
            Err(error) => {
                eprintln!("waiting for a container: {error}");
                return None;
            }
        };
        let container = self.container.take()?;
        let code = status.code();
        let counted = container.cgroup().map(Cgroup::memory_events);
        let killed = counted.is_some_and(|events| events.is_ok_and(|events| events.oom_kill > 0));
        if let Err(error) = container.delete() {
            eprintln!("removing a container: {error}");
        }
        self.last_words();
        Some(State::Exited {
            code,
            out_of_memory: killed && code == 128 + Signal::SIGKILL as i32,
        })
    }

    /// Reads its outputs to their end. With its first process its PID namespace has ended, so
    /// nobody is left to write.
    fn last_words(&mut self) {
        for which in 0..STREAMS.len() {
            let Some(Some(output)) = self.outputs.get(which) else {
                continue;
            };
            let file = match output.try_clone() {
                Ok(output) => std::fs::File::from(output),
                Err(error) => {
                    complain(Err(error));
                    continue;
                }
            };
            let mut rest = Vec::new();
            // Would-block counts as the end, and so does all that a pipe can hold: a descriptor that
            // was passed to another container could be kept open, and written to without end.
            file.take(PIPE_LIMIT).read_to_end(&mut rest).ok();
            if let Some(stream) = STREAMS.get(which) {
                complain(self.log.write(*stream, &rest));
            }
            self.close(which);
        }
    }

    /// Runs a program in it.
    pub fn exec(
        &self,
        request: &Exec,
        descriptors: Vec<OwnedFd>,
    ) -> anyhow::Result<berth_runtime::Child> {
        let container = self
            .container
            .as_ref()
            .context("the container has stopped")?;
        let process = spec::exec_process(&self.spec, &request.args, request.terminal)?;
        if let Some(namespace) = &self.user_namespace {
            namespace.give(&descriptors)?;
        }
        let mut given = descriptors.into_iter();
        let stdio = if request.terminal {
            Stdio {
                stdin: None,
                stdout: None,
                stderr: None,
            }
        } else {
            Stdio {
                stdin: given.next(),
                stdout: given.next(),
                stderr: given.next(),
            }
        };
        let seccomp = self
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref());
        let mut options = berth_runtime::ExecOptions::new(&process);
        options.seccomp = seccomp;
        options.stdio = stdio;
        options.parent_death_signal = Some(Signal::SIGKILL);
        Ok(berth_runtime::exec(container.pid(), options)?)
    }
}

/// The log's own troubles go where people look for the supervisor's; the container goes on.
fn complain(result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("writing a container's log: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_found_by_name_and_number() {
        for (name, expected) in [
            ("SIGQUIT", Signal::SIGQUIT),
            ("int", Signal::SIGINT),
            ("9", Signal::SIGKILL),
            ("", Signal::SIGTERM),
            ("SIGNONSENSE", Signal::SIGTERM),
        ] {
            assert_eq!(signal(name), expected, "{name}");
        }
    }
}
