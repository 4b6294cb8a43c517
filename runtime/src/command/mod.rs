//! The command line: runc's, as engines speak it. Options may stand before or after the id.

mod activation;
mod checkpoint;
mod console;
mod create;
mod describe;
mod events;
mod exec;
mod lifecycle;
pub(crate) mod log;
mod notify_socket;
mod pause;
mod plain;
mod ps;
mod restore;
mod run;
mod size;
mod state;
mod time;
mod update;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use berth_runtime::cgroup::{Driver, Limits};
use berth_runtime::{ContainerId, protect_own_binary, rootless};
use clap::error::ContextKind;
use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};
use nix::unistd::geteuid;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) global: Global,
    command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept [default: /run/berth-runtime, or for an ordinary user
    /// $XDG_RUNTIME_DIR/berth-runtime]
    #[arg(long, value_name = "DIR", env = "BERTH_RUNTIME_ROOT")]
    root: Option<PathBuf>,
    /// Write errors to this file too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How to write them
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Accepted for engines that pass it
    #[arg(long)]
    debug: bool,
    /// What to do about limits that this host can't enforce
    #[arg(long, value_enum, default_value = "required")]
    limits: LimitsMode,
    /// Have systemd make the cgroup: short for --cgroup-manager systemd
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who makes a container's cgroup
    #[arg(
        long,
        value_name = "MANAGER",
        value_enum,
        default_value = "cgroupfs",
        conflicts_with = "systemd_cgroup"
    )]
    cgroup_manager: CgroupManager,
    /// Accepted for engines that pass it
    #[arg(long, value_name = "BOOL", hide = true)]
    rootless: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// crun's word for a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

impl Global {
    /// Where the state of containers is kept.
    fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(default_root)
    }

    /// Who makes the cgroup of a container. One that is there has it on record who did.
    fn cgroup_driver(&self) -> Driver {
        match (self.cgroup_manager, self.systemd_cgroup) {
            (CgroupManager::Systemd, _) | (_, true) => Driver::Systemd,
            (CgroupManager::Cgroupfs, false) => Driver::Cgroupfs,
            (CgroupManager::Disabled, false) => Driver::Disabled,
        }
    }
}

/// An ordinary user's is where logind has files for as long as the user is logged in, for root of the user's
/// namespace too.
fn default_root() -> PathBuf {
    const NAME: &str = "berth-runtime";
    let users = std::env::var_os("XDG_RUNTIME_DIR").filter(|name| !name.is_empty());
    match users {
        Some(users) if !rootless::is_root_of_the_host() => Path::new(&users).join(NAME),
        None if !geteuid().is_root() => format!("/run/user/{}/{NAME}", geteuid()).into(),
        _ => Path::new("/run").join(NAME),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LimitsMode {
    Required,
    BestEffort,
}

impl From<LimitsMode> for Limits {
    fn from(mode: LimitsMode) -> Self {
        match mode {
            LimitsMode::Required => Self::Required,
            LimitsMode::BestEffort => Self::BestEffort,
        }
    }
}

#[derive(Debug)]
enum Command {
    Run(run::Run),
    Create(create::Create),
    Start(Named),
    State(Named),
    Kill(lifecycle::Kill),
    Delete(lifecycle::Delete),
    List(describe::List),
    Exec(exec::Exec),
    Pause(Named),
    Resume(Named),
    Update(Box<update::Update>),
    Events(events::Events),
    Ps(ps::Ps),
    Checkpoint(Box<checkpoint::Checkpoint>),
    Restore(Box<restore::Restore>),
    Spec(describe::WriteSpec),
    Features(Nothing),
}

/// The options of a command that takes a container's id and no more.
#[derive(Debug, Args)]
struct Named {
    /// The container's id
    id: ContainerId,
}

/// The options of a command that takes none.
#[derive(Debug, Args)]
struct Nothing {}

/// A command: its name, what it is for, and the two halves of its options.
type Known = (
    &'static str,
    &'static str,
    fn(clap::Command) -> clap::Command,
    fn(&mut ArgMatches) -> clap::error::Result<Command>,
);

/// Ties a command's options to its variant.
macro_rules! known {
    ($name:literal, $about:literal, $options:ty, $variant:expr) => {
        ($name, $about, <$options>::augment_args, |matches| {
            <$options>::from_arg_matches_mut(matches).map($variant)
        })
    };
}

#[rustfmt::skip]
const COMMANDS: [Known; 17] = [
    known!("run", "Create a container and run it", run::Run, Command::Run),
    known!("create", "Create a container, to be started later", create::Create, Command::Create),
    known!("start", "Start a created container", Named, Command::Start),
    known!("state", "Print a container's state", Named, Command::State),
    known!("kill", "Send a signal to a container", lifecycle::Kill, Command::Kill),
    known!("delete", "Delete a container", lifecycle::Delete, Command::Delete),
    known!("list", "List the containers", describe::List, Command::List),
    known!("exec", "Run another process in a container", exec::Exec, Command::Exec),
    known!("pause", "Stop a container's processes where they are", Named, Command::Pause),
    known!("resume", "Let a paused container go on", Named, Command::Resume),
    known!("update", "Change the limits of a container", Box<update::Update>, Command::Update),
    known!("events", "Print what a container uses, and tell when it runs out of memory",
        events::Events, Command::Events),
    known!("ps", "List a container's processes", ps::Ps, Command::Ps),
    known!("checkpoint", "Save a running container in images", Box<checkpoint::Checkpoint>, Command::Checkpoint),
    known!("restore", "Restore a container from images", Box<restore::Restore>, Command::Restore),
    known!("spec", "Write a configuration to start from", describe::WriteSpec, Command::Spec),
    known!("features", "Print what this runtime can do", Nothing, Command::Features),
];

/// The command line. The options of a command are defined once it is known to be the one: to define
/// all of them takes 50 pages of memory, which is a tenth of a small container's start.
fn command_line() -> clap::Command {
    let line = clap::Command::new("berth-runtime")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs containers from OCI bundles")
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .arg_required_else_help(true);
    // One by one: an array of them would be seven pages of stack.
    let known = COMMANDS.into_iter().map(|(name, about, define, _)| {
        let command = clap::Command::new(name).about(about);
        // A flag may be said twice, as with runc: Podman does (checkpoint --leave-running).
        command.args_override_self(true).defer(define)
    });
    Global::augment_args(line).subcommands(known)
}

impl Arguments {
    /// This process's own. If they are wrong, or ask for help, this process ends here.
    pub(crate) fn parse() -> Self {
        let words = with_two_dashes(std::env::args_os().collect());
        plain::read(&words).unwrap_or_else(|| {
            Self::by_clap(words).unwrap_or_else(|error| {
                say_as_runc(&error);
                error.exit()
            })
        })
    }

    fn by_clap(words: Vec<OsString>) -> clap::error::Result<Self> {
        Self::of(command_line().try_get_matches_from(words)?)
    }

    /// What is read is taken out: to read from copies costs as much as to parse.
    fn of(mut matches: ArgMatches) -> clap::error::Result<Self> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, mut own) = matches.remove_subcommand().ok_or_else(missing)?;
        let mut known = COMMANDS.into_iter();
        let (.., read) = known
            .find(|(known, ..)| name == *known)
            .ok_or_else(missing)?;
        Ok(Self {
            global: Global::from_arg_matches_mut(&mut matches)?,
            command: read(&mut own)?,
        })
    }
}

/// containerd gives `restore` one flag with a single dash, which runc reads like two.
fn with_two_dashes(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_command = |word: &&OsString| COMMANDS.iter().any(|(name, ..)| *word == name);
    if words
        .iter()
        .find(is_command)
        .is_some_and(|word| word == "restore")
    {
        for word in words.iter_mut().filter(|word| *word == "-no-subreaper") {
            *word = "--no-subreaper".into();
        }
    }
    words
}

/// In runc's words, by which Podman finds out whether `restore` knows a flag: it leaves out the value.
fn say_as_runc(error: &clap::Error) {
    let value = error.get(ContextKind::InvalidValue);
    let is_missing = value.is_some_and(|value| value.to_string().is_empty());
    if is_missing && let Some(flag) = error.get(ContextKind::InvalidArg) {
        log::say(&format!("flag needs an argument: {flag}"));
    }
}

/// Runs from a read-only mount of this program, for the commands that make processes in containers.
///
/// The words are looked for wherever they stand, since to parse the arguments twice would cost more
/// than to be protected without need.
pub(crate) fn protect_if_needed() -> std::result::Result<(), berth_runtime::Error> {
    let makes_processes = |argument: OsString| {
        ["run", "create", "exec"]
            .iter()
            .any(|word| argument == *word)
    };
    // An ordinary user gets the right to do so with the others (`create::gain_rights`).
    match std::env::args_os().skip(1).any(makes_processes) && !rootless::is_needed() {
        true => protect_own_binary(),
        false => Ok(()),
    }
}

/// Carries out the command.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Run(run) => return run::run(global, run),
        Command::Exec(options) => return exec::exec(global, options),
        Command::Restore(options) => return restore::restore(global, options),
        Command::Create(options) => create::create(global, options)?,
        Command::Start(Named { id }) => lifecycle::start(global, id)?,
        Command::State(Named { id }) => describe::state(global, id)?,
        Command::Kill(options) => lifecycle::kill(global, options)?,
        Command::Delete(options) => lifecycle::delete(global, options)?,
        Command::Pause(Named { id }) => pause::pause(global, id)?,
        Command::Resume(Named { id }) => pause::resume(global, id)?,
        Command::Update(options) => update::update(global, options)?,
        Command::Events(options) => events::events(global, options)?,
        Command::Ps(options) => ps::ps(global, options)?,
        Command::Checkpoint(options) => checkpoint::checkpoint(global, options)?,
        Command::List(options) => describe::list(global, options)?,
        Command::Spec(options) => describe::write_spec(options)?,
        Command::Features(Nothing {}) => describe::features()?,
    }
    Ok(0)
}

/// runc's: 255 says that exec itself failed, since any smaller code may be the process's own.
pub(crate) fn failure_code(arguments: &Arguments) -> u8 {
    match arguments.command {
        Command::Exec(_) => 255,
        _ => 1,
    }
}
