//! The command `berth`: its flags, and one file for each of its verbs.

mod activation;
mod agent;
mod credentials;
mod doctor;
mod exec;
mod follow;
mod image;
mod logs;
mod network;
mod ps;
mod run;
mod session;
mod stop;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Given, LogFormat};

/// Runs Amazon ECS task definitions on this host.
#[derive(Parser)]
#[command(
    name = "berth",
    version,
    after_help = "Examples:\n  \
        berth doctor                      what this host has and lacks\n  \
        berth run task.json               run a task definition, with its logs, until it ends\n  \
        berth run -p 8080:80 task.json    the same, with port 80 of the task on 127.0.0.1:8080\n  \
        berth network check 4c01 9f2b 80  whether one task reaches another's port 80, or why not\n  \
        berth agent                       serve the ECS API, for the AWS CLI and SDKs\n  \
        eval $(berth credentials)         the environment that an AWS client needs for that"
)]
struct Cli {
    #[command(flatten)]
    given: Given,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the ECS API and drive tasks, until stopped; tasks outlive it
    Agent,
    /// Run a task definition, show its logs, and exit as its essential container does
    Run(run::Args),
    /// List tasks
    Ps(ps::Args),
    /// Show what a task's containers have printed
    Logs(logs::Args),
    /// Stop a task
    Stop(stop::Args),
    /// Run a program in a container of a running task
    Exec(exec::Args),
    /// Bring, list and remove images
    #[command(subcommand)]
    Image(image::Verb),
    /// Show the network, and say why a task doesn't reach another
    #[command(subcommand)]
    Network(network::Verb),
    /// Print what an AWS client needs to call this agent
    Credentials(credentials::Args),
    /// Say what this host has and lacks
    Doctor(doctor::Args),
    /// Supervise one task; the agent starts this, people don't
    #[command(hide = true)]
    Supervise {
        /// The task's folder
        folder: PathBuf,
    },
    /// List the places at which BERTH_FAILPOINT can make the agent die, for tests
    #[command(hide = true)]
    Failpoints,
}

/// What `main` does.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("berth: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // Before anything else: the supervisor takes nothing from the environment.
    if let Command::Supervise { folder } = &cli.command {
        return crate::supervisor::run(folder).map(|()| ExitCode::SUCCESS);
    }
    let config = Config::resolve(cli.given)?;
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Agent => done(agent::agent(config)),
        Command::Run(args) => run::run(config, args),
        Command::Ps(args) => done(ps::ps(config, &args)),
        Command::Logs(args) => done(logs::logs(&config, &args)),
        Command::Stop(args) => done(stop::stop(config, &args)),
        Command::Exec(args) => exec::exec(&config, &args),
        Command::Image(verb) => done(image::image(&config, verb)),
        Command::Network(verb) => network::network(&config, &verb),
        Command::Credentials(args) => done(credentials::credentials(&config, &args)),
        Command::Doctor(args) => doctor::doctor(&config, &args),
        Command::Supervise { .. } => Ok(ExitCode::SUCCESS),
        Command::Failpoints => {
            crate::failpoint::FAILPOINTS
                .iter()
                .for_each(|name| println!("{name}"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Starts our own log, on standard error; `RUST_LOG` overrules the level. People who typed a
/// command see a warning as a line of its answer, without the moment.
fn start_log(format: LogFormat, level: &str) {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match (format, level) {
        (LogFormat::Text, "warn") => log.without_time().init(),
        (LogFormat::Text, _) => log.init(),
        (LogFormat::Json, _) => log.json().init(),
    }
}

/// The async runtime of a verb: two threads do, the work is waiting.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// The tasks on disk whose id begins with `start`: exactly one, or an error that says how many.
fn task_id(config: &Config, start: &str) -> anyhow::Result<String> {
    let start = start.rsplit('/').next().unwrap_or(start);
    let listing = std::fs::read_dir(config.root.join("tasks"));
    let names = listing
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    match (found.pop(), found.len()) {
        (Some(id), 0) => Ok(id),
        (None, _) => anyhow::bail!("no task begins with '{start}'; `berth ps --all` lists them"),
        (Some(_), more) => anyhow::bail!(
            "{} tasks begin with '{start}'; give more of the id",
            more + 1
        ),
    }
}
