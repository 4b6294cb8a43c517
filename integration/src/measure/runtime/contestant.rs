//! A runtime in the comparison: its commands, and the time that each takes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::DISK;
use super::configuration::Configuration;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the configuration to the container's end.
    Run,
    /// Another process in a running container, to its end.
    Exec,
    /// A container up to its program.
    Create,
    /// Its program.
    Start,
    /// What is left after its end.
    Delete,
}

/// A runtime.
pub struct Contestant {
    /// A short name, also of its state's folder.
    name: &'static str,
    /// With its version, for the table.
    pub title: String,
    program: String,
}

impl Contestant {
    /// Asks the program for its version.
    pub fn new(name: &'static str, program: String) -> anyhow::Result<Self> {
        // The processes of containers become ours when `create` ends.
        prctl::set_child_subreaper(true)?;
        let said = super::super::run::said(Command::new(&program).arg("--version"))?;
        let version = said.split_whitespace().find(|word| {
            let digits = word.split('.').next().unwrap_or_default();
            word.contains('.') && digits.parse::<u32>().is_ok()
        });
        Ok(Self {
            name,
            title: format!("{name} {}", version.unwrap_or_default()),
            program,
        })
    }

    /// Everything that is timed, once; each command is carried out by `act`.
    pub fn turn<T>(
        &self,
        configuration: &Configuration,
        sleeper: &Sleeper<'_>,
        act: impl Fn(&mut Command) -> anyhow::Result<T>,
    ) -> anyhow::Result<[(Operation, T); 5]> {
        let run = act(&mut self.run(configuration))?;
        let exec = act(&mut self.exec(sleeper))?;
        let pid_file = format!("{DISK}/{}.pid", self.name);
        let mut create = self.command(&["create", "--bundle", &configuration.bundle]);
        let create = act(create.args(["--pid-file", &pid_file, "one"]))?;
        let start = act(&mut self.command(&["start", "one"]))?;
        await_end(&pid_file)?;
        let delete = act(&mut self.command(&["delete", "one"]))?;
        Ok([
            (Operation::Run, run),
            (Operation::Exec, exec),
            (Operation::Create, create),
            (Operation::Start, start),
            (Operation::Delete, delete),
        ])
    }

    /// The command that runs a container to its end.
    pub fn run(&self, configuration: &Configuration) -> Command {
        self.command(&["run", "--bundle", &configuration.bundle, "one"])
    }

    /// The command that runs a process in a container.
    pub fn exec(&self, sleeper: &Sleeper<'_>) -> Command {
        self.command(&["exec", &sleeper.id, "/bin/true"])
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--root", &format!("/run/{}", self.name)])
            .args(words)
            .stdin(Stdio::null());
        command
    }
}

/// A container that sleeps, ended with this value.
pub struct Sleeper<'a> {
    contestant: &'a Contestant,
    id: String,
    /// Its process.
    pub pid: i32,
    /// Where it is below the hierarchy's root.
    pub cgroup: String,
}

impl<'a> Sleeper<'a> {
    /// Starts it.
    pub fn start(
        contestant: &'a Contestant,
        configuration: &Configuration,
    ) -> anyhow::Result<Self> {
        let (bundle, cgroup) = configuration.sleeper(contestant.name)?;
        let id = format!("sleeper-{}", contestant.name);
        let pid_file = format!("{bundle}/pid");
        let mut run = contestant.command(&["run", "--detach", "--bundle", &bundle]);
        timed(run.args(["--pid-file", &pid_file, &id]))?;
        Ok(Self {
            contestant,
            id,
            pid: pid_of(&pid_file)?,
            cgroup,
        })
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        // It is a child of ours since its runtime has left. It may have died already.
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).ok();
        waitpid(Pid::from_raw(self.pid), None).ok();
        let mut delete = self.contestant.command(&["delete", "--force", &self.id]);
        if let Err(error) = timed(&mut delete) {
            eprintln!("{error:#}");
        }
    }
}

fn pid_of(file: &str) -> anyhow::Result<i32> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{file} holds {text}"))
}

fn await_end(pid_file: &str) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid_of(pid_file)?);
    while waitpid(pid, None) == Err(Errno::EINTR) {}
    Ok(())
}

/// The time of a command from its spawn, without a fork of the rig, to its end.
pub fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let log = Path::new(DISK).join("complaints");
    let errors = std::fs::File::create(&log)?;
    command.stderr(errors);
    let start = Instant::now();
    let status = command.status();
    let time = start.elapsed();
    if !status
        .with_context(|| format!("running {command:?}"))?
        .success()
    {
        bail!("{command:?}: {}", std::fs::read_to_string(&log)?.trim());
    }
    Ok(time)
}
