//! Creating a container: everything up to running its program.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxSeccomp, Process, Spec};

use super::own_cgroup::{self, OwnCgroup};
use super::{Container, Created};
use crate::cgroup::{Cgroup, Driver, Limits, Mark, Unit, Warning};
use crate::error::Error;
use crate::exec::keyring_name;
use crate::hooks::{Later, Stage, Subject};
use crate::launch::{self, Answers, Assistance, Launched, Launching};
use crate::net_devices::Moved;
use crate::plan::{Context, Gate, Plan, ProcessPlan, Settings, Stdio, process_plan, root_mount};
use crate::rdt::{self, Resctrl};
use crate::seccomp::Filter;
use crate::{ContainerId, config, failpoint, net_devices, plan, seccomp};

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

    pub(super) fn subject(&self) -> Subject<'a> {
        Subject {
            id: self.id.as_str(),
            spec: self.spec,
            bundle: self.bundle,
            pid: None,
            has_cgroup: self.cgroup_driver != Driver::Disabled,
        }
    }
}
/// Creates a container: cgroup, namespaces, mounts, everything but running the program.
///
/// Hooks up to createContainer are run. When something fails once they may have done their work, the
/// poststop hooks are run too.
pub fn create(options: CreateOptions) -> Result<Created, Error> {
    begin(options)?.finish()
}

/// Begins to create a container: its process is there, and sets itself up. Whoever has something to
/// do that needs no more than the process's number does it now, in time that costs nothing.
pub fn begin(options: CreateOptions<'_>) -> Result<Creating<'_>, Error> {
    config::validate_all_but_filter(options.spec, options.cgroup_driver)?;
    refuse_hooks_without_a_place(&options)?;
    let mut subject = options.subject();
    let linux = options.spec.linux().as_ref();
    let linux = linux.ok_or_else(config::Error::no_linux)?;
    let process = options.spec.process().as_ref();
    let process = process.ok_or_else(config::Error::no_process)?;
    let filter = linux.seccomp().as_ref().map(Filter::resolve).transpose()?;
    let resctrl = Resctrl::wanted_by(options.spec, options.id)?;
    let process_plan = plan_process(&options, process, linux)?;
    let name = process_plan.name.clone();

    let limits = options.limits;
    let (cgroup, mut warnings) = own_cgroup::make(&options)?;
    subject.has_cgroup = cgroup.is_some();
    let mut plan = plan_container(options, process_plan, cgroup.as_ref())?;
    failpoint::pass("plan-made");
    let assistance = Assistance {
        cgroup: cgroup.as_ref().map(OwnCgroup::directory),
        seccomp: linux.seccomp().as_ref(),
        filter: filter.as_ref(),
        uid_mappings: linux.uid_mappings().as_deref().unwrap_or_default(),
        gid_mappings: linux.gid_mappings().as_deref().unwrap_or_default(),
        oom_score_adj: process.oom_score_adj(),
    };
    let launching = launch::begin(&mut plan, &assistance)?;
    let equip = || {
        if let Some(cgroup) = &cgroup {
            // The kernel takes its time to check and translate the program that decides.
            warnings.extend(cgroup.allow_devices(linux, limits)?);
        }
        let pid = launching.child().pid();
        let class = resctrl.map(|resctrl| resctrl.assign(pid)).transpose()?;
        Ok((class, move_devices(linux, pid)?))
    };
    let (class, devices) = match equip() {
        Ok(equipped) => equipped,
        Err(error) => return Err(launching.or_its_own(&plan, error)),
    };
    Ok(Creating {
        launching,
        devices,
        class,
        cgroup,
        plan,
        subject,
        seccomp: linux.seccomp().as_ref(),
        name,
        warnings,
    })
}

/// A container whose process is setting itself up.
///
/// Dropping it undoes everything: the process is killed, the cgroup removed.
#[derive(Debug)]
pub struct Creating<'a> {
    // The order is that of dropping: the process goes before its cgroup.
    launching: Launching,
    devices: Option<Moved>,
    class: Option<rdt::Place>,
    cgroup: Option<OwnCgroup>,
    plan: Plan,
    subject: Subject<'a>,
    seccomp: Option<&'a LinuxSeccomp>,
    name: String,
    warnings: Vec<Warning>,
}

impl Creating<'_> {
    /// The process id of the container's first process.
    pub fn pid(&self) -> Pid {
        self.launching.child().pid()
    }

    /// The container's cgroup, if it has one of its own.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref().map(|own| &own.cgroup)
    }

    /// The scope whose cgroup it is, if systemd made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.cgroup.as_ref()?.unit.as_ref()
    }

    /// Has the process run its program as soon as it is ready, so that [`Created::start`] finds it running:
    /// it saves the way to us and back, in which two processes wake each other up. What is to be on record
    /// of the container is so by now. Nothing changes for one with hooks that come first, a terminal, or a
    /// listener of its filter.
    pub fn start_when_ready(&mut self) {
        let hooks = Stage::StartContainer.hooks(self.subject.spec);
        if hooks.is_empty() {
            self.launching.open_gate(&self.plan);
        }
    }

    /// Waits until only the program is missing. What is to be on record of the container is so by now: one
    /// without a cgroup is let go to its start socket only here. On failure the container is gone, as if this had been
    /// dropped, and its poststop hooks have been run.
    pub fn finish(mut self) -> Result<Created, Error> {
        let subject = self.subject;
        let before_pivot = |pid| before_pivot(&subject, pid);
        let answers = Answers {
            seccomp: self.seccomp,
            before_pivot: Some(&before_pivot),
            subject: Some(subject),
        };
        let is_started = self.launching.passes_its_gate();
        let launched = self.launching.finish(&self.plan, &answers);
        let let_go = |launched: Launched| match self.plan.gate {
            Gate::SocketOnceOnRecord(_) => launch::go_on(&launched.channel).map(|()| launched),
            _ => Ok(launched),
        };
        let Launched { child, channel } = launched
            .and_then(let_go)
            .map_err(|error| error.and_then(subject.run_poststop()))?;
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.taken();
        }
        Ok(Created {
            container: Container {
                child,
                devices: self.devices,
                class: self.class,
                cgroup: self.cgroup,
                hooks: Later::of(&subject),
            },
            channel,
            is_started,
            name: self.name,
            warnings: self.warnings,
        })
    }
}

/// Moves the configuration's interfaces into the container's network namespace.
pub(super) fn move_devices(linux: &Linux, pid: Pid) -> Result<Option<Moved>, Error> {
    let devices = linux.net_devices().as_ref().filter(|d| !d.is_empty());
    let moved = devices
        .map(|devices| net_devices::move_all(devices, network_namespace(linux, pid)?.into()));
    moved.transpose()
}

/// The one that the container's configuration names, or that its process was made in.
pub(super) fn network_namespace(linux: &Linux, pid: Pid) -> Result<File, Error> {
    let listed = linux.namespaces().iter().flatten();
    let joined = listed
        .filter(|namespace| namespace.typ() == LinuxNamespaceType::Network)
        .find_map(plan::path_of);
    let path = joined.map_or_else(|| format!("/proc/{pid}/ns/net").into(), Path::to_owned);
    File::open(&path).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let doing = format!("open {}, for linux.netDevices", path.display());
        Error::system("open", errno, doing)
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
    cgroup: Option<&OwnCgroup>,
) -> Result<Plan, Error> {
    process.stdio = options.stdio;
    let gate = match (options.start_socket, cgroup) {
        (None, _) => Gate::Channel,
        (Some(socket), Some(_)) => Gate::Socket(socket),
        (Some(socket), None) => Gate::SocketOnceOnRecord(socket),
    };
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
            cgroup: cgroup.map(OwnCgroup::directory),
            attach_at: attach_at.as_deref(),
            parents_turn: has_hooks,
            no_pivot,
        };
        plan::surroundings(spec, root, &context)
    };
    let (namespaces, filesystem) = plan::within_mount_namespace(mount_namespace, make)?;
    namespaces.groups.check(&process)?;
    Ok(Plan {
        namespaces,
        filesystem: Some(filesystem),
        process,
        gate,
        ignored_signals: crate::sys::process::ignored_signals(),
    })
}

pub(super) fn root_path(spec: &Spec) -> Result<PathBuf, Error> {
    match spec.root() {
        Some(root) => Ok(root.path().clone()),
        None => Err(config::Error::no_root().into()),
    }
}
