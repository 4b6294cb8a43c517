//! `start`, `kill` and `delete`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_runtime::hooks::Stage;
use berth_runtime::{
    ContainerId, failpoint, protect_own_binary, remove_class, rootless, start_socket,
};
use clap::Args;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::state::{State, StateDirectory, Status, open_cgroup};
use super::{Global, log, notify_socket};

/// Starts a created container.
pub(crate) fn start(global: &Global, id: &ContainerId) -> Result<()> {
    let directory = StateDirectory::of(global, id);
    let state = directory.load()?;
    match directory.status(&state) {
        Status::Created => {}
        other => bail!(
            "cannot start container {id}: it is {}, not created",
            other.name()
        ),
    }
    let started = start_with_hooks(&directory, &state);
    if started.is_err() {
        end(&state)?;
    }
    started
}

fn start_with_hooks(directory: &StateDirectory, state: &State) -> Result<()> {
    let args = state
        .config
        .process()
        .as_ref()
        .and_then(|process| process.args().as_ref());
    let command = args
        .and_then(|args| args.first())
        .map_or("", String::as_str);
    let subject = state.subject();
    if !Stage::StartContainer.hooks(&state.config).is_empty() {
        // Only these make processes in the container. If it begins again, nothing was done yet.
        match rootless::is_needed() {
            true => rootless::enter_beside(Pid::from_raw(state.pid))?,
            false => protect_own_binary()?,
        }
        subject.run(Stage::StartContainer)?;
    }
    let relay = notify_socket::listen(directory)?;
    start_socket::start(directory.path(), command)?;
    subject.run(Stage::Poststart)?;
    failpoint::pass("poststart-run");
    match (relay, state.container()?) {
        (Some(relay), Some(container)) => relay.until_ready(container.pidfd(), state.pid),
        _ => Ok(()),
    }
}

/// How long a process that was killed may take to end: runc's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the first process, if it lives, and waits until it is gone.
fn end(state: &State) -> Result<()> {
    if let Some(container) = state.container()? {
        container.init().kill(Signal::SIGKILL)?;
        if !container.init().wait_gone_within(PATIENCE)? {
            // runc's words to begin with. The kernel keeps a pid namespace's first process until all
            // others of it have been reaped; those that an exec left behind are with another parent.
            bail!(
                "container init still running: process {} was killed and stays until the container's \
                 last process is reaped, by whichever process has become its parent; then delete again",
                container.pid()
            );
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The container's id
    pub(super) id: ContainerId,
    /// The signal: TERM, SIGTERM or 15
    #[arg(default_value = "SIGTERM", value_parser = parse_signal)]
    pub(super) signal: i32,
    /// Send it to every process of the container
    #[arg(short, long)]
    pub(super) all: bool,
}

/// Signals by number, or by name with or without SIG.
pub(super) fn parse_signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return match (0..=64).contains(&number) {
            true => Ok(number),
            false => Err("a signal's number is 0 to 64".to_owned()),
        };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let signal = format!("SIG{name}").parse::<Signal>();
    signal
        .map(|signal| signal as i32)
        .map_err(|_| "no signal has this name".to_owned())
}

/// Sends a signal to a container.
pub(crate) fn kill(global: &Global, options: &Kill) -> Result<()> {
    let state = StateDirectory::of(global, &options.id).load()?;
    if options.all {
        return kill_all(&state, options.signal);
    }
    match state.container()? {
        Some(container) => Ok(container.init().kill_number(options.signal)?),
        // runc's words, which engines take for success where they wanted it dead.
        None => bail!("container not running"),
    }
}

fn kill_all(state: &State, signal: i32) -> Result<()> {
    if let Some(cgroup) = state.open_cgroup()?
        && signal == libc::SIGKILL
    {
        return Ok(cgroup.kill()?);
    }
    for pid in state.processes()? {
        let signal = Signal::try_from(signal).context("--all takes signals that have names")?;
        match nix::sys::signal::kill(pid, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => return Err(errno).with_context(|| format!("signal process {pid}")),
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The container's id
    pub(super) id: ContainerId,
    /// Kill the container if it runs; do nothing if it doesn't exist
    #[arg(short, long)]
    pub(super) force: bool,
}

/// Deletes a container: what is left of its processes, its cgroup, its state. Then its poststop hooks
/// are run.
pub(crate) fn delete(global: &Global, options: &Delete) -> Result<()> {
    let directory = StateDirectory::of(global, &options.id);
    let state = match directory.load() {
        Ok(state) => state,
        // Also when the state itself is missing: a `create` that was killed leaves a directory.
        Err(_) if options.force => return delete_remains(directory),
        Err(error) => return Err(error),
    };
    // OCI allows only the deletion of stopped containers; engines delete created ones too.
    let status = directory.status(&state);
    if matches!(status, Status::Running | Status::Paused) && !options.force {
        bail!(
            "cannot delete container {} that is not stopped: it is {}; stop it or use --force",
            options.id,
            status.name()
        );
    }
    remove(global, directory, &state, &options.id)
}

/// Removes a container of which nothing has to be kept.
pub(crate) fn remove(
    global: &Global,
    directory: StateDirectory,
    state: &State,
    id: &ContainerId,
) -> Result<()> {
    end(state)?;
    failpoint::pass("process-ended");
    state.remove_cgroup()?;
    remove_class(&state.config, id)?;
    failpoint::pass("cgroup-removed");
    directory.remove()?;
    failpoint::pass("state-removed");
    for error in state.subject().run_poststop() {
        log::warn(global, &error.to_string());
    }
    Ok(())
}

/// Removes what a `create` has left that didn't get as far as writing the state.
fn delete_remains(directory: StateDirectory) -> Result<()> {
    if let Some((mark, path)) = directory.noted_cgroup()
        && let Some(cgroup) = open_cgroup(&path)?
    {
        match cgroup.mark()? {
            Some(found) if found == mark => cgroup.remove()?,
            // The path was noted, and the cgroup is another container's.
            Some(_) => {}
            // Made and not marked yet, by us or by another runtime: with nothing in it, it is nobody's
            // loss.
            None => drop(cgroup.remove_if_unused()?),
        }
    }
    if let Some((mark, unit)) = directory.noted_unit()
        && unit.is_marked(&mark)?
    {
        unit.remove()?;
    }
    directory.remove()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_with_and_without_sig_and_numbers() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse_signal(text), Ok(15), "{text}");
        }
        for text in ["", "SIG", "TERMX", "-1", "65", "15x"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
