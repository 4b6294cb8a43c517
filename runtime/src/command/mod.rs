//! The command line: runc's, as engines speak it. Options may stand before or after the id.

mod activation;
mod console;
mod create;
mod describe;
mod events;
mod exec;
mod lifecycle;
pub(crate) mod log;
mod pause;
mod ps;
mod run;
mod size;
mod state;
mod time;
mod update;

use std::path::PathBuf;

use anyhow::{Result, bail};
use berth_runtime::cgroup::{Driver, Limits};
use berth_runtime::{ContainerId, protect_own_binary};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs containers from OCI bundles.
#[derive(Debug, Parser)]
#[command(name = "berth-runtime", version, about, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the state of containers is kept
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/berth-runtime",
        env = "BERTH_RUNTIME_ROOT"
    )]
    root: PathBuf,
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
    /// Who makes the cgroup of a container. One that is there has it on record who did.
    fn cgroup_driver(&self) -> Result<Driver> {
        match (self.cgroup_manager, self.systemd_cgroup) {
            (CgroupManager::Systemd, _) | (_, true) => Ok(Driver::Systemd),
            (CgroupManager::Cgroupfs, false) => Ok(Driver::Cgroupfs),
            (CgroupManager::Disabled, false) => bail!(
                "--cgroup-manager disabled is not supported: each container needs a cgroup of its \
                 own, by which its processes are found and killed; use cgroupfs or systemd"
            ),
        }
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

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container and run it
    Run(run::Run),
    /// Create a container, to be started later
    Create(create::Create),
    /// Start a created container
    Start { id: ContainerId },
    /// Print a container's state
    State { id: ContainerId },
    /// Send a signal to a container
    Kill(lifecycle::Kill),
    /// Delete a container
    Delete(lifecycle::Delete),
    /// List the containers
    List(describe::List),
    /// Run another process in a container
    Exec(exec::Exec),
    /// Stop a container's processes where they are
    Pause { id: ContainerId },
    /// Let a paused container go on
    Resume { id: ContainerId },
    /// Change the limits of a container
    Update(Box<update::Update>),
    /// Print what a container uses, and tell when it runs out of memory
    Events(events::Events),
    /// List a container's processes
    Ps(ps::Ps),
    /// Write a configuration to start from
    Spec(describe::WriteSpec),
    /// Print what this runtime can do
    Features,
}

/// Runs from a read-only mount of this program, for the commands that make processes in containers.
///
/// The words are looked for wherever they stand, since to parse the arguments twice would cost more
/// than to be protected without need.
pub(crate) fn protect_if_needed() -> std::result::Result<(), berth_runtime::Error> {
    let makes_processes = |argument: std::ffi::OsString| {
        ["run", "create", "exec"]
            .iter()
            .any(|word| argument == *word)
    };
    match std::env::args_os().skip(1).any(makes_processes) {
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
        Command::Create(options) => create::create(global, options)?,
        Command::Start { id } => lifecycle::start(global, id)?,
        Command::State { id } => describe::state(global, id)?,
        Command::Kill(options) => lifecycle::kill(global, options)?,
        Command::Delete(options) => lifecycle::delete(global, options)?,
        Command::Pause { id } => pause::pause(global, id)?,
        Command::Resume { id } => pause::resume(global, id)?,
        Command::Update(options) => update::update(global, options)?,
        Command::Events(options) => events::events(global, options)?,
        Command::Ps(options) => ps::ps(global, options)?,
        Command::List(options) => describe::list(global, options)?,
        Command::Spec(options) => describe::write_spec(options)?,
        Command::Features => describe::features()?,
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
