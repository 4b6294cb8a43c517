//! A container's life: created, started, running, deleted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, Spec};

use crate::cgroup::{Cgroup, Limits, Warning};
use crate::child::{Child, ExitStatus};
use crate::error::{Error, StartError};
use crate::launch::{Assistance, await_exec, destroy, launch};
use crate::plan::{Context, Gate, Plan, Stdio, process_plan, root_mount};
use crate::sys::process;
use crate::{ContainerId, channel, config, seccomp};

/// Where the root filesystem comes from.
#[derive(Debug)]
pub enum Root {
    /// A directory.
    Path(PathBuf),
    /// A mount attached nowhere, as fsmount(2) or open_tree(2) with `OPEN_TREE_CLONE` give it.
    Mount(OwnedFd),
}

/// How to create a container.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreateOptions<'a> {
    /// Names the cgroup where the configuration doesn't.
    pub id: &'a ContainerId,
    /// The configuration.
    pub spec: &'a Spec,
    /// Where relative paths of the configuration start.
    pub bundle: &'a Path,
    /// The root filesystem; `root.path` of the configuration if absent.
    pub root: Option<Root>,
    /// The standard streams.
    pub stdio: Stdio,
    /// What to do about limits that this host can't enforce.
    pub limits: Limits,
    /// The signal that the container gets when the calling thread dies.
    pub parent_death_signal: Option<Signal>,
    /// How many of the caller's descriptors from 3 on the container gets.
    pub preserve_fds: u32,
    /// A listening packet socket (`SOCK_SEQPACKET`). With it the container waits for a connection
    /// there, by whichever process starts it, instead of for [`Created::start`].
    pub start_socket: Option<OwnedFd>,
}

impl<'a> CreateOptions<'a> {
    /// The defaults: root and everything else as the configuration says, streams inherited, limits
    /// required.
    pub fn new(id: &'a ContainerId, spec: &'a Spec, bundle: &'a Path) -> Self {
        Self {
            id,
            spec,
            bundle,
            root: None,
            stdio: Stdio::default(),
            limits: Limits::default(),
            parent_death_signal: None,
            preserve_fds: 0,
            start_socket: None,
        }
    }
}

/// A container that is set up but doesn't run its program yet.
///
/// Dropping it undoes everything: the process is killed, the cgroup removed.
#[derive(Debug)]
pub struct Created {
    /// Always there, until it is handed on.
    parts: Option<(Container, OwnedFd)>,
    name: String,
    warnings: Vec<Warning>,
}

/// Creates a container: cgroup, namespaces, mounts, everything but running the program.
pub fn create(options: CreateOptions) -> Result<Created, Error> {
    config::validate(options.spec)?;
    let linux = options.spec.linux().clone().unwrap_or_default();
    let seccomp_flags = linux.seccomp().as_ref().map(seccomp::flags).transpose()?;
    let process = options.spec.process().as_ref().ok_or_else(config::Error::no_process)?;
    let root = match options.root {
        Some(Root::Mount(mount)) => mount,
        Some(Root::Path(path)) => root_mount(&options.bundle.join(path))?,
        None => root_mount(&options.bundle.join(root_path(options.spec)?))?,
    };
    let process_plan = process_plan(
        process,
        seccomp_flags,
        options.stdio,
        options.preserve_fds,
        options.parent_death_signal,
    )?;
    let name = process_plan.name.clone();
    let gate = options.start_socket.map_or(Gate::Channel, Gate::Socket);

    let (cgroup, warnings) = make_cgroup(&linux, options.id, options.limits)?;
    let context = Context { bundle: options.bundle, cgroup: cgroup.get()? };
    let mut plan = Plan::for_container(options.spec, root, process_plan, gate, &context)?;
    let assistance = Assistance {
        cgroup: cgroup.get()?.directory(),
        seccomp: linux.seccomp().as_ref(),
        uid_mappings: linux.uid_mappings().as_deref().unwrap_or_default(),
        gid_mappings: linux.gid_mappings().as_deref().unwrap_or_default(),
        oom_score_adj: process.oom_score_adj(),
    };
    let launched = launch(&mut plan, &assistance)?;
    let (child, channel) = launched.into_parts().ok_or_else(unclonable_channel)?;
    let container = Container { child, cgroup: cgroup.keep()? };
    Ok(Created { parts: Some((container, channel)), name, warnings })
}

fn unclonable_channel() -> Error {
    Error::system("fcntl", Errno::EMFILE, "keep the channel to the container")
}

fn root_path(spec: &Spec) -> Result<PathBuf, Error> {
    match spec.root() {
        Some(root) => Ok(root.path().clone()),
        None => Err(config::Error::no_root().into()),
    }
}

/// The cgroup's path for a configuration that names none.
fn default_cgroup(id: &ContainerId) -> PathBuf {
    // Flat, so that nothing stays behind when it is removed.
    PathBuf::from(format!("berth-runtime-{id}"))
}

fn make_cgroup(
    linux: &Linux,
    id: &ContainerId,
    limits: Limits,
) -> Result<(CgroupGuard, Vec<Warning>), Error> {
    let path = linux.cgroups_path().clone().unwrap_or_else(|| default_cgroup(id));
    let cgroup = Cgroup::create(&path)?;
    if cgroup.is_populated()? {
        return Err(Error::CgroupInUse { path });
    }
    let guard = CgroupGuard(Some(cgroup));
    let mut warnings = Vec::new();
    let resources = linux.resources().clone().unwrap_or_default();
    warnings.extend(guard.get()?.apply(&resources, limits)?);
    let devices = resources.devices().as_deref().unwrap_or_default();
    warnings.extend(guard.get()?.allow_devices(devices, limits)?);
    Ok((guard, warnings))
}

/// Removes the cgroup again unless it is kept.
struct CgroupGuard(Option<Cgroup>);

impl CgroupGuard {
    fn get(&self) -> Result<&Cgroup, Error> {
        self.0.as_ref().ok_or_else(Self::gone)
    }

    fn keep(mut self) -> Result<Cgroup, Error> {
        self.0.take().ok_or_else(Self::gone)
    }

    fn gone() -> Error {
        Error::system("open", Errno::ENOENT, "use the container's cgroup")
    }
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        // The error that brought us here is the one to be reported.
        let _removed = self.0.take().map(Cgroup::remove).transpose().is_ok();
    }
}

impl Created {
    fn container(&self) -> Option<&Container> {
        self.parts.as_ref().map(|(container, _)| container)
    }

    /// The process id of the container's first process.
    pub fn pid(&self) -> Pid {
        self.container().map_or(Pid::from_raw(0), Container::pid)
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.container().map(Container::pidfd)
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.container().map(Container::cgroup)
    }

    /// The limits that aren't in force, with [`Limits::BestEffort`].
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The master of the container's terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.parts.as_mut().and_then(|(container, _)| container.take_console())
    }

    /// Runs the program. On failure the container is gone, as if it had been dropped.
    pub fn start(mut self) -> Result<Container, StartError> {
        let taken = self.parts.take();
        let (container, channel) = taken.ok_or_else(unclonable_channel)?;
        let name = std::mem::take(&mut self.name);
        let started = channel::go_on(channel.as_fd())
            .map_err(|errno| Error::system("sendmsg", errno, "start the container"))
            .and_then(|()| await_exec(channel.as_fd(), &name));
        match started {
            Ok(()) => Ok(container),
            Err(error) => {
                container.destroy();
                Err(error)
            }
        }
    }

    /// Lets go of it: it stays, waiting to be started through the socket of
    /// [`CreateOptions::start_socket`].
    pub fn detach(mut self) -> Option<Container> {
        self.parts.take().map(|(container, _)| container)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some((container, _)) = self.parts.take() {
            container.destroy();
        }
    }
}

/// A container that runs, or has run. Dropping it leaves it as it is.
#[derive(Debug)]
pub struct Container {
    child: Child,
    cgroup: Cgroup,
}

impl Container {
    /// Takes up a container by its first process, from whichever process. It can be waited for only by
    /// its parent ([`Child::wait_gone`] serves the others).
    pub fn attach(pid: Pid) -> Result<Self, Error> {
        let pidfd = process::open_pidfd(pid).map_err(|errno| {
            Error::system("pidfd_open", errno, format!("take up the container of process {pid}"))
        })?;
        Ok(Self { child: Child::new(pid, pidfd), cgroup: Cgroup::of(pid)? })
    }

    /// The process id of its first process.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Readable once its first process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Its first process.
    pub fn init(&self) -> &Child {
        &self.child
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The master of its terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.child.take_console()
    }

    /// Sends a signal to its first process.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.child.kill(signal)
    }

    /// Kills every process of it.
    pub fn kill_all(&self) -> Result<(), Error> {
        Ok(self.cgroup.kill()?)
    }

    /// Waits for its first process to end.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        self.child.wait()
    }

    /// Tells how its first process ended, if it has.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait()
    }

    /// Kills what is left of it and removes its cgroup.
    pub fn delete(self) -> Result<(), Error> {
        Ok(self.cgroup.remove()?)
    }

    fn destroy(self) {
        destroy(&self.child);
        // Whoever let go of it can't be told; a cgroup left behind is found by the next `create`.
        let _removed = self.cgroup.remove().is_ok();
    }
}
