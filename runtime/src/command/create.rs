//! `create`.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::{Driver, Mark, Unit};
use berth_runtime::{
    ContainerId, CreateOptions, Created, Creating, cgroup_path, config, failpoint, rootless,
    start_socket,
};
use clap::Args;
use oci_spec::runtime::Spec;

use super::activation::Activation;
use super::state::{Stat, State, StateDirectory};
use super::{Global, console, log, notify_socket, time};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The container's id
    pub(crate) id: ContainerId,
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// The configuration, instead of the bundle's config.json
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Send the terminal's master to this socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Send a pidfd of the container's process to this socket
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Pass so many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// Change the root without pivot_root: for a host whose root is a RAM disk. Less safe
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
}

impl Create {
    /// Whether someone is to be told of the container before it is started.
    pub(crate) fn tells_someone(&self) -> bool {
        let told = [&self.console_socket, &self.pid_file, &self.pidfd_socket];
        told.into_iter().any(Option::is_some)
    }
}

/// What starts a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartedBy {
    /// Another command, through the socket of its state.
    Start,
    /// This command, which has something to do between creating and starting it.
    This,
    /// Itself, as soon as it is ready.
    Itself,
}

/// Creates a container and leaves it waiting for `start`.
pub(crate) fn create(global: &Global, options: &Create) -> Result<()> {
    gain_rights(global, options)?;
    let directory = StateDirectory::make(global, &options.id)?;
    let made = Bundle::load(options, &directory).and_then(|bundle| {
        let mut created = prepare(global, options, &directory, &bundle, StartedBy::Start)?;
        hand_over_console(&mut created, options)?;
        publish(&created, options)?;
        created.detach();
        Ok(())
    });
    undo_on_error(made, directory)
}

/// Gives an ordinary user what it takes to make the container. This program then begins again, so nothing
/// has been done yet.
pub(crate) fn gain_rights(global: &Global, options: &Create) -> Result<()> {
    if !rootless::is_needed() {
        return Ok(());
    }
    let spec = config::load(&configuration(options, &directory_of(options)?))?;
    config::validate(&spec, global.cgroup_driver())?;
    Ok(rootless::enter(&spec)?)
}

/// The bundle's directory.
fn directory_of(options: &Create) -> Result<PathBuf> {
    fs::canonicalize(&options.bundle)
        .with_context(|| format!("--bundle {}", options.bundle.display()))
}

/// The configuration's file.
fn configuration(options: &Create, bundle: &Path) -> PathBuf {
    let given = options.config.clone();
    given.unwrap_or_else(|| bundle.join("config.json"))
}

/// Whatever failed, the id is free again.
pub(crate) fn undo_on_error<T>(result: Result<T>, directory: StateDirectory) -> Result<T> {
    if let Err(error) = result {
        return match directory.remove() {
            Ok(()) => Err(error),
            Err(left) => Err(error.context(format!("and then: {left:#}"))),
        };
    }
    result
}

/// A bundle as it was read. Freeing it takes its time, so it is kept until the container runs.
pub(crate) struct Bundle {
    path: PathBuf,
    spec: Spec,
    activation: Activation,
}

impl Bundle {
    pub(crate) fn load(options: &Create, directory: &StateDirectory) -> Result<Self> {
        let path = directory_of(options)?;
        let mut spec = config::load(&configuration(options, &path))?;
        let activation = Activation::of_this_process();
        activation.announce(&mut spec);
        notify_socket::announce(directory, &mut spec)?;
        Ok(Self {
            path,
            spec,
            activation,
        })
    }
}

pub(crate) fn prepare(
    global: &Global,
    options: &Create,
    directory: &StateDirectory,
    bundle: &Bundle,
    started_by: StartedBy,
) -> Result<Created> {
    let Bundle {
        path,
        spec,
        activation,
    } = bundle;
    let mut create = CreateOptions::new(&options.id, spec, path);
    create.cgroup_driver = global.cgroup_driver();
    let mark = Mark::new(&options.id)?;
    create.mark = Some(&mark);
    note_what_will_be(directory, &create, &mark)?;
    failpoint::pass("cgroup-noted");
    create.limits = global.limits.into();
    create.preserve_fds = activation.with(options.preserve_fds);
    create.no_pivot = options.no_pivot;
    create.no_new_keyring = options.no_new_keyring;
    if started_by == StartedBy::Start {
        create.start_socket = Some(start_socket::listen(directory.path())?);
        failpoint::pass("socket-listening");
    }
    let mut creating = berth_runtime::begin(create)?;
    // While the process sets itself up. If it fails, what it has to say counts first.
    let noted = state_of(&creating, options, path, spec, mark.clone())
        .and_then(|state| directory.save(&state));
    if started_by == StartedBy::Itself && noted.is_ok() {
        creating.start_when_ready();
    }
    let created = creating.finish()?;
    noted?;
    for warning in created.warnings() {
        log::warn(global, &warning.to_string());
    }
    Ok(created)
}

/// What is to be cleaned up is on record before it is made.
pub(crate) fn note_what_will_be(
    directory: &StateDirectory,
    create: &CreateOptions,
    mark: &Mark,
) -> Result<()> {
    let (spec, id) = (create.spec, create.id);
    match create.cgroup_driver {
        Driver::Cgroupfs => directory.note_cgroup(&cgroup_path(spec, id), mark),
        Driver::Systemd => {
            let linux = spec.linux().as_ref();
            let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
            directory.note_unit(&Unit::of(path, id.as_str())?, mark)
        }
        Driver::Disabled => Ok(()),
    }
}

fn state_of<'a>(
    creating: &Creating,
    options: &Create,
    bundle: &Path,
    config: &'a Spec,
    mark: Mark,
) -> Result<State<&'a Spec>> {
    let pid = creating.pid().as_raw();
    let stat = Stat::of(pid).context("the container ended while it was created")?;
    Ok(State {
        id: options.id.to_string(),
        pid,
        start_time: stat.start_time,
        rootfs: rootfs_of(bundle, config),
        bundle: bundle.to_owned(),
        created: time::now(),
        cgroup: creating.cgroup().map(|cgroup| cgroup.path().to_owned()),
        mark: Some(mark),
        unit: creating.unit().cloned(),
        no_new_keyring: options.no_new_keyring,
        restored: false,
        config,
    })
}

pub(crate) fn rootfs_of(bundle: &Path, config: &Spec) -> PathBuf {
    let root = config.root().as_ref();
    bundle.join(root.map(|root| root.path().clone()).unwrap_or_default())
}

pub(crate) fn hand_over_console(created: &mut Created, options: &Create) -> Result<()> {
    match (created.take_console(), &options.console_socket) {
        (Some(master), Some(socket)) => console::send(socket, master.as_fd()),
        (Some(_), None) => {
            bail!("process.terminal is true: --console-socket must say where it goes")
        }
        (None, Some(_)) => bail!("--console-socket needs process.terminal to be true"),
        (None, None) => Ok(()),
    }
}

/// Tells the engine of the process, in the ways that it has asked for.
pub(crate) fn publish(created: &Created, options: &Create) -> Result<()> {
    if let Some(socket) = &options.pidfd_socket {
        console::send_descriptor("--pidfd-socket", socket, "pidfd", created.pidfd())?;
    }
    options
        .pid_file
        .as_deref()
        .map_or(Ok(()), |path| write_pid(path, created.pid().as_raw()))
}

/// Written whole or not at all: engines watch for the file.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path
        .file_name()
        .with_context(|| format!("--pid-file {}: no file", path.display()))?;
    let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("--pid-file {}", path.display()))
}
