//! `berth exec`: a program in a container that runs, over the task's supervisor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::task_id;
use crate::config::Config;
use crate::supervisor::connection::Connection;
use crate::supervisor::protocol::{Exec, Files, Message, Plan, Request};

/// The options of `berth exec`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  berth exec 4f1c -- ps\n  berth exec -it 4f1c -c web -- sh")]
pub struct Args {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// The container; the task's first, if not given
    #[arg(short, long)]
    container: Option<String>,
    /// The task: its ARN, its id, or the beginning of that
    task: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub fn exec(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let id = task_id(config, &args.task)?;
    let files = Files::new(&config.task_run(&id));
    let mut connection = connect(&files).with_context(|| format!("task {id} isn't running"))?;
    let container = match &args.container {
        Some(name) => name.clone(),
        None => first_container(&files)?,
    };
    let request = Request::Exec(Exec {
        container,
        args: args.command.clone(),
        terminal: args.tty,
    });
    let code = if args.tty {
        with_terminal(&mut connection, &request)?
    } else {
        with_pipes(&mut connection, &request, args.interactive)?
    };
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

fn connect(files: &Files) -> anyhow::Result<Connection> {
    let stream = UnixStream::connect(files.socket()).context("its supervisor doesn't answer")?;
    let mut connection = Connection::new(stream);
    match receive(&mut connection)? {
        Message::Hello { protocol, .. } if protocol <= crate::supervisor::protocol::PROTOCOL => {
            Ok(connection)
        }
        Message::Hello { protocol, .. } => {
            bail!("its supervisor speaks protocol {protocol}; use the newer berth")
        }
        other => bail!("its supervisor began with {other:?}"),
    }
}

fn first_container(files: &Files) -> anyhow::Result<String> {
    let plan: Plan =
        serde_json::from_slice(&std::fs::read(files.plan()).context("reading the task's plan")?)?;
    plan.containers
        .into_iter()
        .next()
        .map(|container| container.name)
        .context("the task has no container")
}

fn receive(connection: &mut Connection) -> anyhow::Result<Message> {
    loop {
        if let Some(message) = connection.message()? {
            return Ok(message);
        }
        if !connection.fill()? {
            bail!("the task's supervisor is gone");
        }
    }
}

/// Waits for the program's start. Statuses of containers come in between.
fn started(connection: &mut Connection) -> anyhow::Result<()> {
    loop {
        match receive(connection)? {
            Message::ExecStarted => return Ok(()),
            Message::Failed { reason } => bail!("{reason}"),
            _ => {}
        }
    }
}

fn exited(connection: &mut Connection) -> anyhow::Result<i32> {
    loop {
        if let Message::ExecExited { code } = receive(connection)? {
            return Ok(code);
        }
    }
}

/// Our own descriptors stay here: a program in a container could open the host's files behind
/// them again, and type into the host's terminal.
fn with_pipes(
    connection: &mut Connection,
    request: &Request,
    interactive: bool,
) -> anyhow::Result<i32> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).context("making a pipe");
    let ((stdin, mut input), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
    connection.send_with(request, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    drop((stdin, stdout, stderr));
    started(connection)?;
    if interactive {
        std::thread::spawn(move || copy(&io::stdin().as_fd().try_clone_to_owned()?, &input));
    } else {
        input = pipe()?.1;
        drop(input);
    }
    let outputs = [
        std::thread::spawn(move || copy(&output, &io::stdout().as_fd().try_clone_to_owned()?)),
        std::thread::spawn(move || copy(&errors, &io::stderr().as_fd().try_clone_to_owned()?)),
    ];
    let code = exited(connection)?;
    for output in outputs {
        output.join().ok();
    }
    Ok(code)
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<u64> {
    io::copy(
        &mut File::from(from.try_clone()?),
        &mut File::from(to.try_clone()?),
    )
}

fn with_terminal(connection: &mut Connection, request: &Request) -> anyhow::Result<i32> {
    connection.send(request)?;
    started(connection)?;
    let console = connection
        .take_descriptors()
        .pop()
        .context("the supervisor sent no terminal")?;
    let raw = RawTerminal::enter()?;
    resize(&console);
    let (input, output) = (console.try_clone()?, console.try_clone()?);
    std::thread::spawn(move || forward_keys(&input));
    let shown = std::thread::spawn(move || {
        // A terminal whose program is gone says EIO.
        copy(&output, &io::stdout().as_fd().try_clone_to_owned()?)
    });
    std::thread::spawn(move || follow_size(&console));
    let code = exited(connection)?;
    shown.join().ok();
    drop(raw);
    Ok(code)
}

fn forward_keys(console: &OwnedFd) -> io::Result<()> {
    let mut console = File::from(console.try_clone()?);
    let mut keys = [0u8; 1024];
    loop {
        let n = io::stdin().read(&mut keys)?;
        if n == 0 {
            return Ok(());
        }
        console.write_all(keys.get(..n).unwrap_or_default())?;
    }
}

fn resize(console: &impl AsFd) {
    if let Ok(size) = tcgetwinsize(io::stdin()) {
        tcsetwinsize(console, size).ok();
    }
}

/// Passes on each change of our terminal's size.
fn follow_size(console: &OwnedFd) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut changes =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
        while changes.recv().await.is_some() {
            resize(console);
        }
        Ok(())
    })
}

/// Our terminal, passing every key on as it is, until this is dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        if !isatty(io::stdin()) {
            return Ok(Self(None));
        }
        let before = tcgetattr(io::stdin()).context("asking the terminal for its mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)
            .context("setting the terminal's mode")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}
