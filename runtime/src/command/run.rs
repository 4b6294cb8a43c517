//! `run`: `create` and `start` in one, and waiting for the end.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use berth_runtime::Child;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::create::{self, Bundle, Create, StartedBy, undo_on_error};
use super::notify_socket::Relay;
use super::state::StateDirectory;
use super::{Global, console, notify_socket};

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(super) create: Create,
    /// Return once the container runs
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Keep the container's state after it has ended
    #[arg(long)]
    pub(super) keep: bool,
    /// Accepted: this command is no subreaper
    #[arg(long)]
    pub(super) no_subreaper: bool,
}

/// Creates a container, starts it, and waits for it unless detached.
pub(crate) fn run(global: &Global, options: &Run) -> Result<u8> {
    create::gain_rights(global, &options.create)?;
    // Blocked before there is anything to forward them to, so that none is lost.
    let signals = if options.detach {
        None
    } else {
        Some(forwarded_signals()?)
    };
    let has_more_to_do = options.create.tells_someone() || notify_socket::is_asked_for();
    let started_by = match has_more_to_do {
        true => StartedBy::This,
        false => StartedBy::Itself,
    };
    let directory = StateDirectory::make(global, &options.create.id)?;
    let started = Bundle::load(&options.create, &directory).and_then(|bundle| {
        let mut created =
            create::prepare(global, &options.create, &directory, &bundle, started_by)?;
        let own_terminal = !options.detach && options.create.console_socket.is_none();
        let console = if own_terminal {
            created.take_console()
        } else {
            None
        };
        if console.is_none() {
            create::hand_over_console(&mut created, &options.create)?;
        }
        create::publish(&created, &options.create)?;
        let relay = notify_socket::listen(&directory)?;
        Ok((created.start()?, console, relay))
    });
    let (container, console, relay) = match started {
        Ok(started) => started,
        Err(error) => return undo_on_error(Err(error), directory),
    };
    let Some(signals) = signals else {
        let told = relay.map_or(Ok(()), |relay| {
            relay.until_ready(container.pidfd(), container.pid().as_raw())
        });
        return match told {
            Ok(()) => Ok(0),
            // As with `start`: a service that can't say that it is ready isn't there.
            Err(error) => undo_on_error(
                container.delete().map_err(Into::into).and(Err(error)),
                directory,
            ),
        };
    };
    let status = attend(container.init(), &signals, console, relay.as_ref());
    if !options.keep {
        container.delete()?;
        directory.remove()?;
    }
    Ok(status? as u8)
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

/// Waits for a process, passing signals on to it, its terminal's text both ways, and that it is ready.
pub(crate) fn attend(
    child: &Child,
    signals: &SignalFd,
    console: Option<OwnedFd>,
    relay: Option<&Relay>,
) -> Result<i32> {
    let mut terminal = console.map(console::Relay::start).transpose()?;
    loop {
        let mut waits = vec![
            PollFd::new(child.pidfd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = &terminal {
            waits.extend(terminal.waits());
        }
        waits.extend(relay.map(Relay::wait));
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
        if let Some(relay) = relay {
            relay.pass_on(None)?;
        }
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
