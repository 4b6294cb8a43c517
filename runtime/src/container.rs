//! A container's life: created, started, running, deleted.

mod create;
mod own_cgroup;
mod restore;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, Unit, Warning};
use crate::child::{Child, ExitStatus};
use crate::error::{Error, StartError};
use crate::hooks::{Later, Stage};
use crate::launch::await_exec;
use crate::net_devices::Moved;
use crate::sys::process;
use crate::{channel, rdt};
use own_cgroup::OwnCgroup;

pub use create::{CreateOptions, Creating, Root, begin, create};
pub use own_cgroup::cgroup_path;
pub use restore::{Restoring, restore};

/// A container that is set up but doesn't run its program yet.
///
/// Dropping it undoes everything: the process is killed, the cgroup removed.
#[derive(Debug)]
pub struct Created {
    container: Container,
    channel: OwnedFd,
    /// Whether it has been told to run its program.
    is_started: bool,
    /// The program's, for messages.
    name: String,
    warnings: Vec<Warning>,
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

    /// The container's cgroup, if it has one of its own.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.container.cgroup()
    }

    /// The scope whose cgroup it is, if systemd made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.container.unit()
    }

    /// The limits that aren't in force, with
    /// [`Limits::BestEffort`](crate::cgroup::Limits::BestEffort).
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
        if !self.is_started {
            run(Stage::StartContainer)?;
            channel::go_on(self.channel.as_fd())
                .map_err(|errno| Error::system("sendmsg", errno, "start the container"))?;
        }
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
    devices: Option<Moved>,
    class: Option<rdt::Place>,
    cgroup: Option<OwnCgroup>,
    hooks: Option<Box<Later>>,
}

impl Container {
    /// Takes up a container by its first process, and its cgroup if it has one of its own, from whichever
    /// process; of hooks, and of the scope that systemd may have made, it knows nothing. It can be waited
    /// for only by its parent ([`Child::wait_gone`] serves the others).
    pub fn attach(pid: Pid, cgroup: Option<Cgroup>) -> Result<Self, Error> {
        let pidfd = process::open_pidfd(pid).map_err(|errno| {
            Error::system(
                "pidfd_open",
                errno,
                format!("take up the container of process {pid}"),
            )
        })?;
        Ok(Self {
            child: Child::new(pid, pidfd),
            devices: None,
            class: None,
            cgroup: cgroup.map(OwnCgroup::of),
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

    /// Its cgroup, if it has one of its own.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref().map(|own| &own.cgroup)
    }

    /// The same for what can't be done without.
    fn needed_cgroup(&self, wanted: &'static str) -> Result<&Cgroup, Error> {
        self.cgroup().ok_or(Error::NoCgroup { wanted })
    }

    /// The scope whose cgroup it is, if systemd made it.
    pub fn unit(&self) -> Option<&Unit> {
        self.cgroup.as_ref()?.unit.as_ref()
    }

    /// The master of its terminal, if it has one and nobody has taken it yet.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.child.take_console()
    }

    /// Sends a signal to its first process.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.child.kill(signal)
    }

    /// Kills every process of it. Without a cgroup that is the first one, with which those of its pid
    /// namespace end.
    pub fn kill_all(&self) -> Result<(), Error> {
        match self.cgroup() {
            Some(cgroup) => Ok(cgroup.kill()?),
            None => self.kill(Signal::SIGKILL),
        }
    }

    /// Stops all its processes where they are. If they don't stop within so long, they go on.
    pub fn pause(&self, patience: Duration) -> Result<(), Error> {
        Ok(self.needed_cgroup("be paused")?.freeze(patience)?)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), Error> {
        Ok(self.needed_cgroup("be resumed")?.thaw()?)
    }

    /// Whether they have been stopped.
    pub fn is_paused(&self) -> Result<bool, Error> {
        let frozen = self.cgroup().map_or(Ok(false), Cgroup::is_frozen);
        Ok(frozen?)
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
        match &self.cgroup {
            Some(cgroup) => cgroup.remove()?,
            None => self.end()?,
        }
        if let Some(class) = &self.class {
            class.remove()?;
        }
        let hooks = self.hooks.as_ref();
        let mut failed = hooks
            .map(|hooks| hooks.subject(None).run_poststop())
            .unwrap_or_default();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.remove(0).and_then(failed)),
        }
    }

    /// Kills the first process, if it lives, and waits until it is gone.
    fn end(&self) -> Result<(), Error> {
        match self.child.kill(Signal::SIGKILL) {
            Err(error) if error.errno() == Some(Errno::ESRCH) => Ok(()),
            killed => killed.and_then(|()| self.child.wait_gone()),
        }
    }

    fn release(&mut self) {
        self.child.release();
        if let Some(devices) = &mut self.devices {
            devices.keep();
        }
        if let Some(class) = &mut self.class {
            class.keep();
        }
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.keep();
        }
    }
}
