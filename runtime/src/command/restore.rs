//! `restore`: `run` of a container that begins in the middle.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::Mark;
use berth_runtime::criu::RestoreOptions;
use berth_runtime::{Container, ContainerId, CreateOptions, Restoring, config, failpoint};
use clap::Args;
use oci_spec::runtime::Spec;

use super::checkpoint::{Common, Scratch, refuse_ordinary_users};
use super::create::{note_what_will_be, rootfs_of, undo_on_error, write_pid};
use super::run::{attend, forwarded_signals};
use super::state::{Stat, State, StateDirectory};
use super::{Global, console, log, time};

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The container's id
    id: ContainerId,
    #[command(flatten)]
    common: Common,
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Return once the container runs
    #[arg(short, long)]
    detach: bool,
    /// Send the terminal's master to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Give the processes this profile or label instead of the one they had
    #[arg(long, value_name = "apparmor:PROFILE|selinux:LABEL", value_parser = parse_lsm_profile)]
    lsm_profile: Option<String>,
    /// Give mounts that have an SELinux context this one
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// Accepted: this command is no subreaper
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted: it is CRIU who changes the root
    #[arg(long)]
    no_pivot: bool,
}

fn parse_lsm_profile(text: &str) -> Result<String, &'static str> {
    match text.split_once(':') {
        Some(("apparmor" | "selinux", label)) if !label.is_empty() => Ok(text.to_owned()),
        _ => Err("must be apparmor:PROFILE or selinux:LABEL"),
    }
}

/// Restores a container, and waits for it unless detached.
pub(crate) fn restore(global: &Global, options: &Restore) -> Result<u8> {
    refuse_ordinary_users("restore")?;
    // As with `run`: blocked before there is anything to forward them to.
    let signals = match options.detach {
        true => None,
        false => Some(forwarded_signals()?),
    };
    let directory = StateDirectory::make(global, &options.id)?;
    let restored = begin(global, options, &directory);
    let (container, console) = match restored {
        Ok(restored) => restored,
        Err(error) => return undo_on_error(Err(error), directory),
    };
    let Some(signals) = signals else {
        return Ok(0);
    };
    let status = attend(container.init(), &signals, console, None);
    container.delete()?;
    directory.remove()?;
    Ok(status? as u8)
}

/// Everything up to the container's going on, with its terminal if that is ours to relay.
fn begin(
    global: &Global,
    options: &Restore,
    directory: &StateDirectory,
) -> Result<(Container, Option<OwnedFd>)> {
    let bundle = fs::canonicalize(&options.bundle)
        .with_context(|| format!("--bundle {}", options.bundle.display()))?;
    let spec = config::load(&bundle.join("config.json"))?;
    let mut create = CreateOptions::new(&options.id, &spec, &bundle);
    create.cgroup_driver = global.cgroup_driver();
    create.limits = global.limits.into();
    let mark = Mark::new(&options.id)?;
    create.mark = Some(&mark);
    note_what_will_be(directory, &create, &mark)?;
    failpoint::pass("cgroup-noted");
    let scratch = Scratch::make(directory)?;
    let mut how = RestoreOptions::new(options.common.options(&scratch));
    how.lsm_profile = options.lsm_profile.as_deref();
    how.lsm_mount_context = options.lsm_mount_context.as_deref();
    let mut restoring = berth_runtime::restore(create, &how)?;
    for warning in restoring.warnings() {
        log::warn(global, &warning.to_string());
    }
    let console = place_console(restoring.take_console(), options)?;
    let state = state_of(&restoring, options, &bundle, &spec, mark.clone())?;
    directory.save(&state)?;
    let written = options.pid_file.as_deref();
    written.map_or(Ok(()), |path| write_pid(path, state.pid))?;
    Ok((restoring.finish()?, console))
}

/// Sends the terminal to its socket; gives it back where it is ours to relay.
fn place_console(console: Option<OwnedFd>, options: &Restore) -> Result<Option<OwnedFd>> {
    match (console, &options.console_socket) {
        (Some(master), Some(socket)) => {
            console::send(socket, master.as_fd())?;
            Ok(None)
        }
        (Some(_), None) if options.detach => {
            bail!("the container has a terminal: --console-socket must say where it goes")
        }
        (console, _) => Ok(console),
    }
}

fn state_of<'a>(
    restoring: &Restoring,
    options: &Restore,
    bundle: &Path,
    config: &'a Spec,
    mark: Mark,
) -> Result<State<&'a Spec>> {
    let pid = restoring.pid().map_or(0, |pid| pid.as_raw());
    let stat = Stat::of(pid).context("the container ended while it was restored")?;
    Ok(State {
        id: options.id.to_string(),
        pid,
        start_time: stat.start_time,
        rootfs: rootfs_of(bundle, config),
        bundle: bundle.to_owned(),
        created: time::now(),
        cgroup: Some(restoring.cgroup().path().to_owned()),
        mark: Some(mark),
        unit: restoring.unit().cloned(),
        no_new_keyring: false,
        restored: true,
        config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_have_the_kind_of_security_module() {
        for text in ["apparmor:x", "selinux:system_u:system_r:container_t:s0"] {
            assert_eq!(parse_lsm_profile(text).as_deref(), Ok(text));
        }
        for text in ["", "x", "apparmor", "apparmor:", "smack:x"] {
            assert!(parse_lsm_profile(text).is_err(), "{text}");
        }
    }
}
