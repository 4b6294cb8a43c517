//! A container's life: created, started, running, deleted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, Spec};

use crate::cgroup::{Cgroup, Limits, Warning};
use crate::child::{Child, ExitStatus};
use crate::error::{Error, StartError};
use crate::launch::{Assistance, Launched, await_exec, launch};
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
    container: Container,
    channel: OwnedFd,
    /// The program's, for messages.
    name: String,
    warnings: Vec<Warning>,
}

/// Creates a container: cgroup, namespaces, mounts, everything but running the program.
pub fn create(options: CreateOptions) -> Result<Created, Error> {
    config::validate(options.spec)?;
    let linux = options.spec.linux().clone().unwrap_or_default();
    let seccomp_flags = linux.seccomp().as_ref().map(seccomp::flags).transpose()?;
    let process = options
        .spec
        .process()
        .as_ref()
        .ok_or_else(config::Error::no_process)?;
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
    let context = Context {
        bundle: options.bundle,
        cgroup: &cgroup.cgroup,
    };
    let mut plan = Plan::for_container(options.spec, root, process_plan, gate, &context)?;
    let assistance = Assistance {
        cgroup: cgroup.cgroup.directory(),
        seccomp: linux.seccomp().as_ref(),
        uid_mappings: linux.uid_mappings().as_deref().unwrap_or_default(),
        gid_mappings: linux.gid_mappings().as_deref().unwrap_or_default(),
        oom_score_adj: process.oom_score_adj(),
    };
    let Launched { child, channel } = launch(&mut plan, &assistance)?;
    Ok(Created {
        container: Container { child, cgroup },
        channel,
        name,
        warnings,
    })
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
    let path = linux
        .cgroups_path()
        .clone()
        .unwrap_or_else(|| default_cgroup(id));
    let cgroup = Cgroup::create(&path)?;
    if cgroup.is_populated()? {
        return Err(Error::CgroupInUse { path });
    }
    let guard = CgroupGuard {
        cgroup,
        remove_on_drop: true,
    };
    let resources = linux.resources().clone().unwrap_or_default();
    let mut warnings = guard.cgroup.apply(&resources, limits)?;
    let devices = resources.devices().as_deref().unwrap_or_default();
    warnings.extend(guard.cgroup.allow_devices(devices, limits)?);
    Ok((guard, warnings))
}

/// A cgroup that is removed again, unless the container gets as far as being started.
#[derive(Debug)]
struct CgroupGuard {
    cgroup: Cgroup,
    remove_on_drop: bool,
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        if self.remove_on_drop {
            // The error that brought us here is the one to be reported.
            let _removed = self.cgroup.remove().is_ok();
        }
    }
}

impl Created {
    /// The process id of the container's first process.
    pub fn pid(&self) -> Pid {
        self.container.pid()
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.container.pidfd()
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        self.container.cgroup()
    }

    /// The limits that aren't in force, with [`Limits::BestEffort`].
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The master of the container's terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.container.take_console()
    }

    /// Runs the program. On failure the container is gone, as if it had been dropped.
    pub fn start(mut self) -> Result<Container, StartError> {
        channel::go_on(self.channel.as_fd())
            .map_err(|errno| Error::system("sendmsg", errno, "start the container"))?;
        await_exec(self.channel.as_fd(), &self.name)?;
        self.container.release();
        Ok(self.container)
    }

    /// Lets go of it: it stays, waiting to be started through the socket of
    /// [`CreateOptions::start_socket`].
    pub fn detach(mut self) -> Container {
        self.container.release();
        self.container
    }
}

/// A container that runs, or has run. Dropping it leaves it as it is.
#[derive(Debug)]
pub struct Container {
    // The order is that of dropping: the process goes before its cgroup.
    child: Child,
    cgroup: CgroupGuard,
}

impl Container {
    /// Takes up a container by its first process, from whichever process. It can be waited for only by
    /// its parent ([`Child::wait_gone`] serves the others).
    pub fn attach(pid: Pid) -> Result<Self, Error> {
        let pidfd = process::open_pidfd(pid).map_err(|errno| {
            Error::system(
                "pidfd_open",
                errno,
                format!("take up the container of process {pid}"),
            )
        })?;
        let cgroup = CgroupGuard {
            cgroup: Cgroup::of(pid)?,
            remove_on_drop: false,
        };
        Ok(Self {
            child: Child::new(pid, pidfd),
            cgroup,
        })
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
        &self.cgroup.cgroup
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
        Ok(self.cgroup().kill()?)
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
        Ok(self.cgroup().remove()?)
    }

    fn release(&mut self) {
        self.child.release();
        self.cgroup.remove_on_drop = false;
    }
}
