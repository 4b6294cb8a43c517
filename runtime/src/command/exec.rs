//! `exec`: another process in a container.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::Cgroup;
use berth_runtime::{Child, ContainerId, ExecOptions, failpoint, rootless};
use clap::Args;
use nix::unistd::Pid;
use oci_spec::runtime::{Capabilities, Process, Spec};

use super::create::write_pid;
use super::run::{attend, forwarded_signals};
use super::state::{State, StateDirectory};
use super::{Global, console};

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The container's id
    pub(super) id: ContainerId,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
    /// The process, in the form of the configuration's, instead of a command
    #[arg(short, long, value_name = "FILE")]
    pub(super) process: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// The user and group, by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(super) user: Option<String>,
    /// A further group, by number
    #[arg(short = 'g', long = "additional-gids", value_name = "GID")]
    pub(super) additional_gids: Vec<u32>,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Send the terminal's master to this socket
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Return once it runs
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Pass so many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// It can't gain rights by executing programs
    #[arg(long)]
    pub(super) no_new_privs: bool,
    /// The AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,
    /// The SELinux context
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,
    /// Run it in a cgroup below the container's, which must exist
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Option<PathBuf>,
    /// Send a pidfd of the process to this socket
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Enter a paused container: the process waits until it is resumed
    #[arg(long)]
    pub(super) ignore_paused: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP_NAME")]
    pub(super) cap: Vec<String>,
}

/// Runs a process in a container, and waits for it unless detached.
pub(crate) fn exec(global: &Global, options: &Exec) -> Result<u8> {
    let directory = StateDirectory::of(global, &options.id);
    let state = directory.load()?;
    if !state.is_alive() {
        bail!("cannot exec in container {}: it is stopped", options.id);
    }
    if rootless::is_needed() {
        rootless::enter_beside(Pid::from_raw(state.pid))?;
    }
    let process = process(options, &state.config)?;
    // The filter is the container's: exec must not be the way around it.
    let linux = state.config.linux().as_ref();
    let mut settings = ExecOptions::new(&process);
    settings.seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    settings.preserve_fds = options.preserve_fds;
    settings.container = Some(state.subject());
    settings.ignore_paused = options.ignore_paused;
    settings.no_new_keyring = state.no_new_keyring;
    settings.cgroup = options
        .cgroup
        .as_deref()
        .map(|below| sub_cgroup(&state, below))
        .transpose()?;
    let signals = if options.detach {
        None
    } else {
        Some(forwarded_signals()?)
    };
    failpoint::pass("exec-prepared");
    let mut child = berth_runtime::exec(Pid::from_raw(state.pid), settings)?;
    if let Some(socket) = &options.pidfd_socket {
        console::send_descriptor("--pidfd-socket", socket, "pidfd", child.pidfd())?;
    }
    if let Some(file) = &options.pid_file {
        write_pid(file, child.pid().as_raw())?;
    }
    let relayed = hand_over_console(&mut child, options)?;
    failpoint::pass("exec-published");
    match signals {
        None => Ok(0),
        Some(signals) => Ok(attend(&child, &signals, relayed, None)? as u8),
    }
}

/// `--cgroup` is relative to the container's, in which ".." has no place.
fn sub_cgroup(state: &State, below: &Path) -> Result<Cgroup> {
    let below = below.strip_prefix("/").unwrap_or(below);
    let name = || format!("--cgroup {}", below.display());
    let own = state.cgroup.as_ref();
    let own = own
        .context("the container has no cgroup of its own")
        .with_context(name)?;
    Cgroup::open(own.join(below)).with_context(name)
}

/// Gives the terminal to the engine, or returns it to be relayed.
fn hand_over_console(child: &mut Child, options: &Exec) -> Result<Option<std::os::fd::OwnedFd>> {
    use std::os::fd::AsFd;
    match (child.take_console(), &options.console_socket) {
        (Some(master), Some(socket)) => console::send(socket, master.as_fd()).map(|()| None),
        (Some(_), None) if options.detach => bail!("--tty --detach needs --console-socket"),
        (console, _) => Ok(console),
    }
}

fn process(options: &Exec, config: &Spec) -> Result<Process> {
    if let Some(file) = &options.process {
        let bytes = fs::read(file).with_context(|| format!("--process {}", file.display()))?;
        return serde_json::from_slice(&bytes)
            .with_context(|| format!("--process {}", file.display()));
    }
    if options.command.is_empty() {
        bail!("exec needs a command, or --process");
    }
    let mut process = config
        .process()
        .clone()
        .context("the container has no process")?;
    process
        .set_args(Some(options.command.clone()))
        .set_terminal(Some(options.tty));
    let env = process.env_mut().get_or_insert_with(Vec::new);
    env.extend(options.env.iter().cloned());
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    set_user(&mut process, options)?;
    add_capabilities(&mut process, &options.cap)?;
    Ok(process)
}

fn set_user(process: &mut Process, options: &Exec) -> Result<()> {
    let user = process.user_mut();
    if let Some(text) = &options.user {
        let (uid, gid) = parse_user(text)?;
        user.set_uid(uid).set_gid(gid).set_additional_gids(None);
    }
    if !options.additional_gids.is_empty() {
        user.set_additional_gids(Some(options.additional_gids.clone()));
    }
    Ok(())
}

/// `UID` or `UID:GID`, each a number to its last digit: a sloppy parse is another user's identity
/// (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, u32)> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let number = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => part.parse::<u32>().ok().filter(|id| *id != u32::MAX),
        false => None,
    };
    match (number(uid), number(gid)) {
        (Some(uid), Some(gid)) => Ok((uid, gid)),
        _ => bail!("--user {text:?} must be UID or UID:GID, in numbers"),
    }
}

/// Not to the inheritable set, nor the ambient one (CVE-2022-29162).
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let added = names
        .iter()
        .map(|name| {
            let bare = name.strip_prefix("CAP_").unwrap_or(name);
            bare.parse()
                .ok()
                .with_context(|| format!("--cap {name:?}: no capability has this name"))
        })
        .collect::<Result<Capabilities>>()?;
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<Capabilities>| {
        Some(
            set.iter()
                .flatten()
                .chain(&added)
                .copied()
                .collect::<Capabilities>(),
        )
    };
    let (bounding, effective, permitted) = (
        with(sets.bounding()),
        with(sets.effective()),
        with(sets.permitted()),
    );
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_to_their_last_digit() {
        assert_eq!(parse_user("1000").unwrap(), (1000, 0));
        assert_eq!(parse_user("1000:50").unwrap(), (1000, 50));
        for bad in [
            "",
            ":",
            "1000:",
            ":0",
            "root",
            "1000x",
            "+1",
            "-1",
            "0x0",
            "1:2:3",
            " 1",
            "4294967296",
            "4294967295",
        ] {
            assert!(parse_user(bad).is_err(), "{bad:?}");
        }
    }
}
