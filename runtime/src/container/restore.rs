//! Restoring a container: what is around its processes is made as for a new one, and they come from
//! images.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::Container;
use super::create::{CreateOptions, move_devices, network_namespace, root_path};
use super::own_cgroup::{self, OwnCgroup};
use crate::cgroup::{Cgroup, Limits, Unit, Warning};
use crate::child::Child;
use crate::child_files::has_no_new_privileges;
use crate::criu::{Event, Images, Restoration, RestoreOptions};
use crate::error::Error;
use crate::hooks::{Later, Stage, Subject};
use crate::net_devices::{self, Moved};
use crate::plan::{self, Context, root_mount};
use crate::rdt::{self, Resctrl};
use crate::sys::mount::{MountAttr, attr, set_attributes};
use crate::sys::process::open_pidfd;
use crate::{config, criu, failpoint};

/// Restores a container from images up to the point where its processes are there as they were, and
/// don't run yet.
///
/// Of `options`, what concerns a process that is yet to be made has no meaning here. The processes get
/// this process's standard streams in the places of those that they had. prestart and createRuntime hooks
/// are run, as by runc, once the namespaces are there; when something fails after them, poststop hooks
/// are.
pub fn restore<'a>(
    options: CreateOptions<'a>,
    how: &RestoreOptions,
) -> Result<Restoring<'a>, Error> {
    config::validate_all_but_filter(options.spec, options.cgroup_driver)?;
    let subject = options.subject();
    let linux = options.spec.linux().as_ref();
    let linux = linux.ok_or_else(config::Error::no_linux)?;
    let images = Images::open(options.spec, how)?;
    let resctrl = Resctrl::wanted_by(options.spec, options.id)?;
    let (cgroup, warnings) = own_cgroup::make(&options)?;
    let wanted = "be restored";
    let cgroup = cgroup.ok_or(Error::NoCgroup { wanted })?;
    let root = prepare_root(&options, &images, &cgroup.cgroup)?;
    failpoint::pass("plan-made");
    let restoration = images.restore(&subject, &root, &cgroup.cgroup)?;
    let mut restoring = Restoring {
        restoration,
        child: None,
        console: None,
        devices: None,
        class: None,
        cgroup,
        subject,
        warnings,
    };
    match restoring.go_so_far(linux, resctrl, options.limits) {
        Ok(()) => Ok(restoring),
        Err(error) => Err(restoring.give_up(error)),
    }
}

/// A container whose processes are restored and don't run yet.
///
/// Dropping it undoes everything: the processes are killed, the cgroup removed.
#[derive(Debug)]
pub struct Restoring<'a> {
    // The order is that of dropping: CRIU takes back what it has made, and the cgroup goes last.
    restoration: Restoration,
    child: Option<Child>,
    console: Option<OwnedFd>,
    devices: Option<Moved>,
    class: Option<rdt::Place>,
    cgroup: OwnCgroup,
    subject: Subject<'a>,
    warnings: Vec<Warning>,
}

impl<'a> Restoring<'a> {
    /// The process id of the container's first process.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Child::pid)
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup.cgroup
    }

    /// The scope whose cgroup it is, if systemd made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.cgroup.unit.as_ref()
    }

    /// The limits that aren't in force, with
    /// [`Limits::BestEffort`].
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The master of the container's terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Lets the processes run. On failure the container is gone, as if this had been dropped, and its
    /// poststop hooks have been run.
    pub fn finish(self) -> Result<Container, Error> {
        let subject = self.subject;
        self.try_finish()
            .map_err(|error| error.and_then(subject.run_poststop()))
    }

    fn try_finish(self) -> Result<Container, Error> {
        let mut restoration = self.restoration;
        let mut container = Container {
            child: self.child.ok_or_else(no_process)?,
            devices: self.devices,
            class: self.class,
            cgroup: Some(self.cgroup),
            hooks: Later::of(&self.subject),
        };
        if let Err(error) = let_run(&mut restoration, &self.subject, container.pid()) {
            // Before CRIU lets go of them, and CRIU ends before they can be reaped: it traces them.
            let _killed = container.kill_all().is_ok();
            drop(restoration);
            return Err(error);
        }
        restoration.end()?;
        if let Some(cgroup) = &mut container.cgroup {
            cgroup.taken();
        }
        container.release();
        Ok(container)
    }

    fn give_up(self, error: Error) -> Error {
        let subject = self.subject;
        drop(self);
        error.and_then(subject.run_poststop())
    }

    /// Does what there is to be done until the processes are there.
    fn go_so_far(
        &mut self,
        linux: &Linux,
        resctrl: Option<Resctrl>,
        limits: Limits,
    ) -> Result<(), Error> {
        loop {
            match self.restoration.next()? {
                Event::NamespacesMade(pid) => {
                    self.child = Some(take_up(pid)?);
                    self.set_up_network(linux, pid)?;
                    self.run_hooks(pid)?;
                }
                Event::Console(master) => self.console = Some(master),
                Event::Restored(pid) => {
                    let child = self.child.take().filter(|child| child.pid() == pid);
                    self.child = Some(child.map_or_else(|| take_up(pid), Ok)?);
                    // Not before: CRIU opens our standard streams again, as the container's process.
                    self.warnings
                        .extend(self.cgroup.allow_devices(linux, limits)?);
                    self.class = resctrl.map(|resctrl| resctrl.assign(pid)).transpose()?;
                    return Ok(());
                }
                Event::Ready => {}
                Event::Done => return Err(no_process()),
            }
            self.restoration.go_on()?;
        }
    }

    /// CRIU makes a network namespace with nothing in it.
    fn set_up_network(&mut self, linux: &Linux, pid: Pid) -> Result<(), Error> {
        if config::makes_namespace(linux, LinuxNamespaceType::Network) {
            let namespace = network_namespace(linux, pid)?;
            net_devices::bring_loopback_up(namespace.as_fd())?;
            net_devices::write_sysctls(&network_sysctls(linux), namespace.as_fd())?;
        }
        self.devices = move_devices(linux, pid)?;
        Ok(())
    }

    /// Those of the runtime's namespaces: the container's own is past the others' turns.
    fn run_hooks(&self, pid: Pid) -> Result<(), Error> {
        let subject = Subject {
            pid: Some(pid),
            ..self.subject
        };
        subject.run(Stage::Prestart)?;
        subject.run(Stage::CreateRuntime)
    }
}

/// The container's first process: our child, whoever has cloned it.
fn take_up(pid: Pid) -> Result<Child, Error> {
    let pidfd = open_pidfd(pid).map_err(|errno| {
        let doing = format!("take up process {pid}, which criu has restored");
        Error::system("pidfd_open", errno, doing)
    })?;
    Ok(Child::in_the_making(pid, pidfd))
}

fn let_run(restoration: &mut Restoration, subject: &Subject, pid: Pid) -> Result<(), Error> {
    loop {
        restoration.go_on()?;
        match restoration.next()? {
            Event::Ready => must_have_no_new_privileges(subject, pid)?,
            Event::Done => return Ok(()),
            _ => {}
        }
    }
}

/// Older CRIUs know nothing of it. They have it themselves, so that the processes do; this is to be sure.
fn must_have_no_new_privileges(subject: &Subject, pid: Pid) -> Result<(), Error> {
    match config::no_new_privileges(subject.spec) && !has_no_new_privileges(pid) {
        false => Ok(()),
        true => Err(criu::Error::Config {
            field: "process.noNewPrivileges".to_owned(),
            reason: "criu has restored the process without it",
        }
        .into()),
    }
}

fn no_process() -> Error {
    criu::Error::Answer("a container without a process".to_owned()).into()
}

fn network_sysctls(linux: &Linux) -> Vec<(String, &str)> {
    let all = linux.sysctl().iter().flatten();
    let paths = all.map(|(name, value)| (plan::sysctl_path(name), value.as_str()));
    paths.filter(|(path, _)| path.starts_with("net/")).collect()
}

/// Makes the mount points that the root filesystem lacks, and gives a mount of it for CRIU.
fn prepare_root(
    options: &CreateOptions,
    images: &Images,
    cgroup: &Cgroup,
) -> Result<OwnedFd, Error> {
    let path = options.bundle.join(root_path(options.spec)?);
    let context = Context {
        bundle: options.bundle,
        cgroup: Some(cgroup.directory()),
        attach_at: None,
        parents_turn: false,
        no_pivot: false,
    };
    let (_, filesystem) = plan::surroundings(options.spec, root_mount(&path)?, &context)?;
    images.make_mount_points(&filesystem.root, filesystem.mounts)?;
    // The first is gone with the namespace that it was attached in.
    let root = root_mount(&path)?;
    let set = |attributes, recursive| {
        set_attributes(root.as_fd(), &attributes, recursive)
            .map_err(|errno| Error::system("mount_setattr", errno, "make a root for criu"))
    };
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    set(private, true)?;
    if filesystem.readonly {
        // CRIU restores the flags of all mounts but this one's.
        let readonly = MountAttr {
            set: attr::RDONLY,
            ..Default::default()
        };
        set(readonly, false)?;
    }
    Ok(root)
}
