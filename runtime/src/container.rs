//! A container's life: created, started, running, deleted.

mod own_cgroup;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::cgroup::{Cgroup, Driver, Limits, Mark, Unit, Warning};
use crate::child::{Child, ExitStatus};
use crate::error::{Error, StartError};
use crate::exec::keyring_name;
use crate::hooks::{Later, Stage, Subject};
use crate::launch::{Assistance, Launched, await_exec, launch};
use crate::plan::{Context, Gate, Plan, ProcessPlan, Settings, Stdio, process_plan, root_mount};
use crate::seccomp::Filter;
use crate::sys::process;
use crate::{ContainerId, channel, config, failpoint, plan, seccomp};
use own_cgroup::OwnCgroup;

pub use own_cgroup::cgroup_path;

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
    /// Who makes the cgroup.
    pub cgroup_driver: Driver,
    /// What the cgroup is marked with, so that whoever removes it later can tell that it is this
    /// container's.
    pub mark: Option<&'a Mark>,
    /// What to do about limits that this host can't enforce.
    pub limits: Limits,
    /// The signal that the container gets when the calling thread dies.
    pub parent_death_signal: Option<Signal>,
    /// How many of the caller's descriptors from 3 on the container gets.
    pub preserve_fds: u32,
    /// A listening packet socket (`SOCK_SEQPACKET`). With it the container waits for a connection
    /// there, by whichever process starts it, instead of for [`Created::start`].
    pub start_socket: Option<OwnedFd>,
    /// Whether to change the root by chroot(2) alone: for a host whose root can't be moved.
    pub no_pivot: bool,
    /// Whether the container stays in the session keyring of the caller.
    pub no_new_keyring: bool,
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
            cgroup_driver: Driver::default(),
            mark: None,
            limits: Limits::default(),
            parent_death_signal: None,
            preserve_fds: 0,
            start_socket: None,
            no_pivot: false,
            no_new_keyring: false,
        }
    }

    fn subject(&self) -> Subject<'a> {
        Subject {
            id: self.id.as_str(),
            spec: self.spec,
            bundle: self.bundle,
            pid: None,
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
///
/// Hooks up to createContainer are run. When something fails once they may have done their work, the
/// poststop hooks are run too.
pub fn create(options: CreateOptions) -> Result<Created, Error> {
    config::validate_all_but_filter(options.spec, options.cgroup_driver)?;
    refuse_hooks_without_a_place(&options)?;
    let subject = options.subject();
    let linux = options.spec.linux().clone().unwrap_or_default();
    let process = options.spec.process().as_ref();
    let process = process.ok_or_else(config::Error::no_process)?;
    let filter = linux.seccomp().as_ref().map(Filter::resolve).transpose()?;
    let process_plan = plan_process(&options, process, &linux)?;
    let name = process_plan.name.clone();

    let (mut cgroup, warnings) = own_cgroup::make(&options)?;
    let mut plan = plan_container(options, process_plan, &cgroup.cgroup)?;
    failpoint::pass("plan-made");
    let before_pivot = |pid| before_pivot(&subject, pid);
    let assistance = Assistance {
        cgroup: Some(cgroup.cgroup.directory()),
        seccomp: linux.seccomp().as_ref(),
        filter: filter.as_ref(),
        uid_mappings: linux.uid_mappings().as_deref().unwrap_or_default(),
        gid_mappings: linux.gid_mappings().as_deref().unwrap_or_default(),
        oom_score_adj: process.oom_score_adj(),
        before_pivot: Some(&before_pivot),
        subject: Some(subject),
    };
    let Launched { child, channel } =
        launch(&mut plan, &assistance).map_err(|error| error.and_then(subject.run_poststop()))?;
    cgroup.taken();
    Ok(Created {
        container: Container {
            child,
            cgroup,
            hooks: Later::of(&subject),
        },
        channel,
        name,
        warnings,
    })
}

/// Hooks that run before the root changes look for the container's mounts below the root's own path, and
/// a mount that is attached nowhere has none. It would have to be attached over the host's root, where
/// createContainer hooks would be looked for in the container's files: with the host's rights.
fn refuse_hooks_without_a_place(options: &CreateOptions) -> Result<(), Error> {
    let has_hooks = |stage: &&Stage| !stage.hooks(options.spec).is_empty();
    let first = Stage::BEFORE_PIVOT.iter().find(has_hooks);
    match (&options.root, first) {
        (Some(Root::Mount(_)), Some(stage)) => Err(config::Error::Unsupported {
            field: format!("hooks.{}", stage.name()),
            hint: " with a root that is attached nowhere: it needs a root by path",
        }
        .into()),
        _ => Ok(()),
    }
}

/// What is done while the container has its mounts and not yet its root.
fn before_pivot(subject: &Subject, pid: Pid) -> Result<(), Error> {
    let subject = Subject {
        pid: Some(pid),
        ..*subject
    };
    for stage in Stage::BEFORE_PIVOT {
        subject.run(stage)?;
    }
    failpoint::pass("hooks-run");
    Ok(())
}

fn plan_process(
    options: &CreateOptions,
    process: &Process,
    linux: &Linux,
) -> Result<ProcessPlan, Error> {
    let mut settings = Settings::new(Stdio::default());
    settings.preserve_fds = options.preserve_fds;
    settings.parent_death_signal = options.parent_death_signal;
    settings.seccomp = linux
        .seccomp()
        .as_ref()
        .map(seccomp::install_flags)
        .transpose()?;
    if !options.no_new_keyring {
        settings.keyring = Some(keyring_name(options.id.as_str()));
    }
    let mut plan = process_plan(process, settings)?;
    plan.scheduling = plan
        .scheduling
        .in_container(linux.memory_policy().as_ref(), linux.personality().as_ref());
    Ok(plan)
}

/// Opens what comes from the host, where the container's mount namespace has it.
fn plan_container(
    options: CreateOptions,
    mut process: ProcessPlan,
    cgroup: &Cgroup,
) -> Result<Plan, Error> {
    process.stdio = options.stdio;
    let gate = options.start_socket.map_or(Gate::Channel, Gate::Socket);
    let (spec, bundle, no_pivot) = (options.spec, options.bundle, options.no_pivot);
    let has_hooks = Stage::BEFORE_PIVOT
        .iter()
        .any(|stage| !stage.hooks(spec).is_empty());
    let root = match options.root {
        Some(Root::Path(path)) => Root::Path(bundle.join(path)),
        Some(Root::Mount(mount)) => Root::Mount(mount),
        None => Root::Path(bundle.join(root_path(spec)?)),
    };
    // Hooks look for the container's mounts below its root's own path.
    let attach_at = match &root {
        Root::Path(path) if has_hooks => Some(path.clone()),
        _ => None,
    };
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let mount_namespace = namespaces.into_iter().flatten().find_map(|namespace| {
        let is_mount = namespace.typ() == LinuxNamespaceType::Mount;
        plan::path_of(namespace).filter(|_| is_mount)
    });
    let make = || {
        let root = match root {
            Root::Mount(mount) => mount,
            Root::Path(path) => root_mount(&path)?,
        };
        let context = Context {
            bundle,
            cgroup,
            attach_at: attach_at.as_deref(),
            parents_turn: has_hooks,
            no_pivot,
        };
        plan::surroundings(spec, root, &context)
    };
    let (namespaces, filesystem) = plan::within_mount_namespace(mount_namespace, make)?;
    Ok(Plan {
        namespaces,
        filesystem: Some(filesystem),
        process,
        gate,
        ignored_signals: crate::sys::process::ignored_signals(),
    })
}

fn root_path(spec: &Spec) -> Result<PathBuf, Error> {
    match spec.root() {
        Some(root) => Ok(root.path().clone()),
        None => Err(config::Error::no_root().into()),
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

    /// The scope whose cgroup it is, if systemd made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.container.unit()
    }

    /// The limits that aren't in force, with [`Limits::BestEffort`].
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The master of the container's terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.container.take_console()
    }

    /// Runs the program, with the hooks before and after. On failure the container is gone, as if it
    /// had been dropped, and its poststop hooks have been run.
    pub fn start(mut self) -> Result<Container, StartError> {
        match self.try_start() {
            Ok(()) => {
                self.container.release();
                Ok(self.container)
            }
            Err(error) => {
                let hooks = self.container.hooks.take();
                drop(self);
                let poststop = hooks.map(|hooks| hooks.subject(None).run_poststop());
                Err(error.and_then(poststop.unwrap_or_default()))
            }
        }
    }

    fn try_start(&self) -> Result<(), Error> {
        let hooks = self.container.hooks.as_ref();
        let run = |stage| {
            let subject = hooks.map(|hooks| hooks.subject(Some(self.pid())));
            subject.map_or(Ok(()), |subject| subject.run(stage))
        };
        run(Stage::StartContainer)?;
        channel::go_on(self.channel.as_fd())
            .map_err(|errno| Error::system("sendmsg", errno, "start the container"))?;
        await_exec(self.channel.as_fd(), &self.name)?;
        run(Stage::Poststart)
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
    cgroup: OwnCgroup,
    hooks: Option<Box<Later>>,
}

impl Container {
    /// Takes up a container by its first process, from whichever process; of hooks, and of the scope
    /// that systemd may have made, it knows nothing. It can be waited for only by its parent
    /// ([`Child::wait_gone`] serves the others).
    pub fn attach(pid: Pid) -> Result<Self, Error> {
        let pidfd = process::open_pidfd(pid).map_err(|errno| {
            Error::system(
                "pidfd_open",
                errno,
                format!("take up the container of process {pid}"),
            )
        })?;
        Ok(Self {
            child: Child::new(pid, pidfd),
            cgroup: OwnCgroup::of(pid)?,
            hooks: None,
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

    /// The scope whose cgroup it is, if systemd made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.cgroup.unit.as_ref()
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

    /// Stops all its processes where they are. If they don't stop within so long, they go on.
    pub fn pause(&self, patience: Duration) -> Result<(), Error> {
        Ok(self.cgroup().freeze(patience)?)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), Error> {
        Ok(self.cgroup().thaw()?)
    }

    /// Whether they have been stopped.
    pub fn is_paused(&self) -> Result<bool, Error> {
        Ok(self.cgroup().is_frozen()?)
    }

    /// Waits for its first process to end.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        self.child.wait()
    }

    /// Tells how its first process ended, if it has.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait()
    }

    /// Kills what is left of it and removes its cgroup, then runs its poststop hooks. One that failed
    /// is the error, though the container is deleted.
    pub fn delete(self) -> Result<(), Error> {
        self.cgroup.remove()?;
        let hooks = self.hooks.as_ref();
        let mut failed = hooks
            .map(|hooks| hooks.subject(None).run_poststop())
            .unwrap_or_default();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.remove(0).and_then(failed)),
        }
    }

    fn release(&mut self) {
        self.child.release();
        self.cgroup.keep();
    }
}
