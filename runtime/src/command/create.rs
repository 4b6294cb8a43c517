//! `create` and `run`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use berth_runtime::{Child, ContainerId, CreateOptions, Created, config, start_socket};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::state::{State, StateDirectory, start_time};
use super::{Global, console, log, time};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The container's id
    pub(crate) id: ContainerId,
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// The configuration, instead of the bundle's config.json
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Send the terminal's master to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Pass so many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Not supported: the root is always changed by pivot_root where the kernel can
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: no session keyring is made
    #[arg(long)]
    no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    create: Create,
    /// Return once the container runs
    #[arg(short, long)]
    detach: bool,
    /// Keep the container's state after it has ended
    #[arg(long)]
    keep: bool,
    /// Accepted: this command is no subreaper
    #[arg(long)]
    no_subreaper: bool,
}

/// Creates a container and leaves it waiting for `start`.
pub(crate) fn create(global: &Global, options: &Create) -> Result<()> {
    let directory = StateDirectory::make(global, &options.id)?;
    let made = prepare(global, options, &directory, true).and_then(|(mut created, state)| {
        hand_over_console(&mut created, options)?;
        write_pid_file(options, state.pid)?;
        directory.save(&state)?;
        created.detach();
        Ok(())
    });
    undo_on_error(made, directory)
}

/// Whatever failed, the id is free again.
fn undo_on_error<T>(result: Result<T>, directory: StateDirectory) -> Result<T> {
    if let Err(error) = result {
        return match directory.remove() {
            Ok(()) => Err(error),
            Err(left) => Err(error.context(format!("and then: {left:#}"))),
        };
    }
    result
}

fn prepare(
    global: &Global,
    options: &Create,
    directory: &StateDirectory,
    start_later: bool,
) -> Result<(Created, State)> {
    if options.no_pivot {
        bail!("--no-pivot is not supported: it would leave the host's root within reach");
    }
    let bundle = fs::canonicalize(&options.bundle)
        .with_context(|| format!("--bundle {}", options.bundle.display()))?;
    let file = options
        .config
        .clone()
        .unwrap_or_else(|| bundle.join("config.json"));
    let spec = config::load(&file)?;
    let mut create = CreateOptions::new(&options.id, &spec, &bundle);
    create.limits = global.limits.into();
    create.preserve_fds = options.preserve_fds;
    if start_later {
        create.start_socket = Some(start_socket::listen(directory.path())?);
    }
    let created = berth_runtime::create(create)?;
    for warning in created.warnings() {
        log::warn(global, &warning.to_string());
    }
    let state = state_of(&created, options, bundle, spec)?;
    Ok((created, state))
}

fn state_of(
    created: &Created,
    options: &Create,
    bundle: PathBuf,
    config: oci_spec::runtime::Spec,
) -> Result<State> {
    let pid = created.pid().as_raw();
    let root = config
        .root()
        .as_ref()
        .map(|root| root.path().clone())
        .unwrap_or_default();
    Ok(State {
        id: options.id.to_string(),
        pid,
        start_time: start_time(pid).context("the container ended while it was created")?,
        rootfs: bundle.join(root),
        bundle,
        created: time::now(),
        cgroup: created.cgroup().path().to_owned(),
        config,
    })
}

fn hand_over_console(created: &mut Created, options: &Create) -> Result<()> {
    match (created.take_console(), &options.console_socket) {
        (Some(master), Some(socket)) => console::send(socket, master.as_fd()),
        (Some(_), None) => {
            bail!("process.terminal is true: --console-socket must say where it goes")
        }
        (None, Some(_)) => bail!("--console-socket needs process.terminal to be true"),
        (None, None) => Ok(()),
    }
}

/// Written whole or not at all: engines watch for the file.
fn write_pid_file(options: &Create, pid: i32) -> Result<()> {
    options
        .pid_file
        .as_deref()
        .map_or(Ok(()), |path| write_pid(path, pid))
}

pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path
        .file_name()
        .with_context(|| format!("--pid-file {}: no file", path.display()))?;
    let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("--pid-file {}", path.display()))
}

/// Creates a container, starts it, and waits for it unless detached.
pub(crate) fn run(global: &Global, options: &Run) -> Result<ExitCode> {
    // Blocked before there is anything to forward them to, so that none is lost.
    let signals = if options.detach {
        None
    } else {
        Some(forwarded_signals()?)
    };
    let directory = StateDirectory::make(global, &options.create.id)?;
    let started =
        prepare(global, &options.create, &directory, false).and_then(|(mut created, state)| {
            let own_terminal = !options.detach && options.create.console_socket.is_none();
            let console = if own_terminal {
                created.take_console()
            } else {
                None
            };
            if console.is_none() {
                hand_over_console(&mut created, &options.create)?;
            }
            write_pid_file(&options.create, state.pid)?;
            directory.save(&state)?;
            Ok((created.start()?, console))
        });
    let (container, console) = match started {
        Ok(started) => started,
        Err(error) => return undo_on_error(Err(error), directory),
    };
    let Some(signals) = signals else {
        return Ok(ExitCode::SUCCESS);
    };
    let status = attend(container.init(), &signals, console);
    if !options.keep {
        container.delete()?;
        directory.remove()?;
    }
    Ok(ExitCode::from(status? as u8))
}

/// Blocks the signals that are the container's rather than ours.
pub(crate) fn forwarded_signals() -> Result<SignalFd> {
    let mut signals = SigSet::all();
    // Those that say something about this process itself.
    for own in [
        Signal::SIGCHLD,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGPIPE,
        Signal::SIGURG,
    ] {
        signals.remove(own);
    }
    signals.thread_block()?;
    Ok(SignalFd::with_flags(
        &signals,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Waits for a process, passing signals on to it and its terminal's text both ways.
pub(crate) fn attend(child: &Child, signals: &SignalFd, console: Option<OwnedFd>) -> Result<i32> {
    let mut terminal = console.map(console::Relay::start).transpose()?;
    loop {
        let mut waits = vec![
            PollFd::new(child.pidfd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = &terminal {
            waits.extend(terminal.waits());
        }
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        let ready: Vec<bool> = waits
            .iter()
            .map(|wait| wait.any().unwrap_or(false))
            .collect();
        drop(waits);
        forward(child, signals, terminal.as_ref())?;
        if let Some(relay) = &mut terminal {
            relay.pump(ready.get(2..).unwrap_or_default())?;
        }
        if ready.first() == Some(&true) {
            if let Some(relay) = terminal {
                relay.drain()?;
            }
            return Ok(child.wait()?.code());
        }
    }
}

fn forward(child: &Child, signals: &SignalFd, terminal: Option<&console::Relay>) -> Result<()> {
    while let Some(signal) = signals.read_signal()? {
        let number = signal.ssi_signo as i32;
        match (number, terminal) {
            (libc::SIGWINCH, Some(relay)) => relay.copy_size()?,
            // It may have ended meanwhile, which the pidfd tells.
            _ => drop(child.kill_number(number)),
        }
    }
    Ok(())
}
