//! Making the process of a plan: the parent's side of the conversation with the child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxIdMapping, LinuxSeccomp};

use crate::channel::{self, Report};
use crate::child::Child;
use crate::error::{Error, InitError};
use crate::init::{self, Channel};
use crate::plan::Plan;
use crate::seccomp;
use crate::sys::clone::{CloneArgs, Cloned, adopt_descriptor, clone3};
use crate::sys::{process, socket};

/// What the parent does for the child while that is on its way.
pub(crate) struct Assistance<'a> {
    pub(crate) cgroup: BorrowedFd<'a>,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    pub(crate) uid_mappings: &'a [LinuxIdMapping],
    pub(crate) gid_mappings: &'a [LinuxIdMapping],
    pub(crate) oom_score_adj: Option<i32>,
}

/// A process that is set up, and waits at its gate or is about to execute its program. Dropping it
/// kills it.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) channel: OwnedFd,
}

/// Clones the child of the plan and helps it until it is ready.
pub(crate) fn launch(plan: &mut Plan, assistance: &Assistance) -> Result<Launched, Error> {
    let (ours, childs) = socket::packet_pair()
        .map_err(|errno| Error::system("socketpair", errno, "make a channel to the container"))?;
    let child = match plan.namespaces.helper_joins.is_empty() {
        true => clone_child(plan, &ours, childs, assistance.cgroup)?,
        false => clone_by_helper(plan, &ours, childs, assistance.cgroup)?,
    };
    let mut launched = Launched {
        child,
        channel: ours,
    };
    // A child that has failed has closed the channel, so helping it fails too; what counts then is
    // what it reported.
    let helped = assist(plan, &launched, assistance);
    match await_ready(plan, &mut launched) {
        Err(Error::Died { pid, how }) => Err(helped.err().unwrap_or(Error::Died { pid, how })),
        Err(error) => Err(error),
        Ok(()) => helped.map(|()| launched),
    }
}

fn clone_child(
    plan: &mut Plan,
    ours: &OwnedFd,
    childs: OwnedFd,
    cgroup: BorrowedFd,
) -> Result<Child, Error> {
    let args = CloneArgs {
        flags: plan.namespaces.create,
        cgroup: Some(cgroup),
    };
    let channel = Channel {
        own: childs.as_fd(),
        parents: ours.as_raw_fd(),
    };
    let Cloned { pid, pidfd } = clone3(&args, || init::run(plan, &channel))
        .map_err(|errno| Error::system("clone3", errno, "make the container's process"))?;
    Ok(Child::in_the_making(pid, pidfd))
}

/// The helper shares our descriptors, so the pidfd that its clone gives is ours. It leaves at once.
///
/// It has a channel of its own: on the child's, the child could be heard before it.
fn clone_by_helper(
    plan: &mut Plan,
    ours: &OwnedFd,
    childs: OwnedFd,
    cgroup: BorrowedFd,
) -> Result<Child, Error> {
    let failed = |call| move |errno| Error::system(call, errno, "join the container's namespaces");
    let (from_helper, helpers) = socket::packet_pair().map_err(failed("socketpair"))?;
    let args = CloneArgs {
        flags: CloneFlags::CLONE_FILES,
        cgroup: None,
    };
    let channel = Channel {
        own: childs.as_fd(),
        parents: ours.as_raw_fd(),
    };
    let helper = clone3(&args, || {
        init::run_helper(plan, &channel, helpers.as_fd(), cgroup)
    })
    .map_err(failed("clone3"))?;
    process::wait_child(helper.pidfd.as_fd(), true).map_err(failed("waitid"))?;
    // Only now: to the helper they were the same descriptors.
    drop((childs, helpers));
    match channel::next_report(from_helper.as_fd()).map_err(failed("recvmsg"))? {
        Some(Report::Cloned { pid, pidfd }) => {
            let pidfd = adopt_descriptor(pidfd).map_err(failed("fcntl"))?;
            Ok(Child::in_the_making(Pid::from_raw(pid), pidfd))
        }
        Some(Report::Failed(failure)) => Err(InitError::new(failure, plan).into()),
        _ => Err(Error::Died {
            pid: helper.pid,
            how: "as a helper".to_owned(),
        }),
    }
}

fn assist(plan: &Plan, launched: &Launched, assistance: &Assistance) -> Result<(), Error> {
    let child = &launched.child;
    let channel = launched.channel.as_fd();
    if plan.namespaces.new_user {
        write_proc(child.pid(), "uid_map", &id_map(assistance.uid_mappings))?;
        write_proc(child.pid(), "gid_map", &id_map(assistance.gid_mappings))?;
        channel::go_on(channel)
            .map_err(|errno| Error::system("sendmsg", errno, "tell of the id maps"))?;
    }
    if let Some(score) = assistance.oom_score_adj {
        adjust_oom_score(child.pid(), score)?;
    }
    if let Some(profile) = assistance.seccomp {
        // The child mounts meanwhile.
        let program = seccomp::compile(profile)?;
        socket::send(channel, crate::sys::seccomp::as_bytes(&program), None)
            .map_err(|errno| Error::system("sendmsg", errno, "send the seccomp filter"))?;
    }
    Ok(())
}

/// Written only if it changes something: lowering it needs CAP_SYS_RESOURCE, keeping it doesn't.
fn adjust_oom_score(pid: Pid, score: i32) -> Result<(), Error> {
    let current = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    match current.ok().and_then(|text| text.trim().parse().ok()) == Some(score) {
        true => Ok(()),
        false => write_proc(pid, "oom_score_adj", &score.to_string()),
    }
}

fn id_map(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

fn write_proc(pid: Pid, file: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, value).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Error::system(
            "write",
            errno,
            format!("write {:?} to {path}", value.trim_end()),
        )
    })
}

fn await_ready(plan: &Plan, launched: &mut Launched) -> Result<(), Error> {
    loop {
        let report = channel::next_report(launched.channel.as_fd()).map_err(|errno| {
            Error::system("recvmsg", errno, "hear from the container's process")
        })?;
        let child = &mut launched.child;
        match report {
            Some(Report::Console(master)) => child.set_console(master),
            Some(Report::Ready) => return Ok(()),
            Some(Report::Failed(failure)) => return Err(InitError::new(failure, plan).into()),
            Some(Report::Cloned { .. }) | None => {
                let how = format!("{:?}", child.wait()?);
                return Err(Error::Died {
                    pid: child.pid(),
                    how,
                });
            }
        }
    }
}

/// Waits until the process executes its program; the channel's end tells that it does.
pub(crate) fn await_exec(channel: BorrowedFd, name: &str) -> Result<(), Error> {
    match channel::next_report(channel) {
        Ok(Some(Report::Failed(failure))) => Err(InitError::of_exec(failure, name).into()),
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::system(
            "recvmsg",
            errno,
            "hear from the container's process",
        )),
    }
}
