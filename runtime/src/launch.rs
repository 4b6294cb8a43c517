//! Making the process of a plan: the parent's side of the conversation with the child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxIdMapping, LinuxSeccomp};

use crate::channel::{self, Report};
use crate::child::Child;
use crate::error::{Error, InitError};
use crate::hooks::Subject;
use crate::init::{self, Channel};
use crate::plan::{Gate, Plan};
use crate::seccomp::Filter;
use crate::sys::clone::{CloneArgs, Cloned, adopt_descriptor, clone3};
use crate::sys::seccomp::Instruction;
use crate::sys::{process, socket};
use crate::{child_files, failpoint, seccomp};

/// What the parent does for the child while that is on its way.
#[derive(Default)]
pub(crate) struct Assistance<'a> {
    /// The cgroup that the child begins in; ours if absent.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    /// The same, if it has been resolved already.
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) uid_mappings: &'a [LinuxIdMapping],
    pub(crate) gid_mappings: &'a [LinuxIdMapping],
    pub(crate) oom_score_adj: Option<i32>,
}

/// What the parent does when the child says that it is its turn.
#[derive(Default)]
pub(crate) struct Answers<'a> {
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    /// What is to be done when the mounts are made and the root isn't changed yet.
    pub(crate) before_pivot: Option<&'a dyn Fn(Pid) -> Result<(), Error>>,
    /// The container, for those who are told of it.
    pub(crate) subject: Option<Subject<'a>>,
}

/// A process that is set up, and waits at its gate or is about to execute its program. Dropping it
/// kills it.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) channel: OwnedFd,
}

/// A process that sets itself up. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Launching {
    launched: Launched,
    /// The program of its filter, unless helping it failed.
    helped: Result<Vec<Instruction>, Error>,
    /// Whether it executes its program once it is ready, without a word of ours.
    passes_its_gate: bool,
}

/// Clones the child of the plan and helps it until it is ready.
pub(crate) fn launch(
    plan: &mut Plan,
    assistance: &Assistance,
    answers: &Answers,
) -> Result<Launched, Error> {
    begin(plan, assistance)?.finish(plan, answers)
}

/// Clones the child of the plan and gives it what it needs from outside.
pub(crate) fn begin(plan: &mut Plan, assistance: &Assistance) -> Result<Launching, Error> {
    let (ours, childs) = socket::packet_pair()
        .map_err(|errno| Error::system("socketpair", errno, "make a channel to the container"))?;
    // The filter is compiled while somebody else is at work: the helper, or the child, which mounts.
    let mut program = None;
    let mut compile = || program = Some(filter_program(assistance));
    let child = match plan.namespaces.need_helper() {
        true => clone_by_helper(plan, &ours, childs, assistance.cgroup, &mut compile)?,
        false => clone_child(plan, &ours, childs, assistance.cgroup)?,
    };
    let launched = Launched {
        child,
        channel: ours,
    };
    failpoint::pass("process-cloned");
    let helped = assist(plan, &launched, assistance, program);
    failpoint::pass("process-helped");
    Ok(Launching {
        launched,
        helped,
        passes_its_gate: matches!(plan.gate, Gate::Open),
    })
}

impl Launching {
    pub(crate) fn child(&self) -> &Child {
        &self.launched.child
    }

    /// What to say of an error of ours in what was to be done beside the child: that may have failed first,
    /// and then ours is the consequence.
    pub(crate) fn or_its_own(self, plan: &Plan, error: Error) -> Error {
        let unhelped = Self {
            helped: Err(error),
            ..self
        };
        match unhelped.finish(plan, &Answers::default()) {
            Err(error) => error,
            // Can't be: without help nothing is launched.
            Ok(Launched { child, .. }) => died(&child),
        }
    }

    /// Has the child pass its gate as soon as it gets there, if it can do all before by itself.
    pub(crate) fn open_gate(&mut self, plan: &Plan) {
        let can = matches!(plan.gate, Gate::Channel) && plan.is_set_up_unanswered();
        // A child that is gone can't be told, nor need it be.
        self.passes_its_gate = can && self.helped.is_ok() && go_on(&self.launched.channel).is_ok();
    }

    /// Whether the child was told to pass its gate.
    pub(crate) fn passes_its_gate(&self) -> bool {
        self.passes_its_gate
    }

    /// Answers the child until it is ready.
    pub(crate) fn finish(self, plan: &Plan, answers: &Answers) -> Result<Launched, Error> {
        let Self {
            mut launched,
            helped,
            passes_its_gate,
        } = self;
        if helped.is_ok() && passes_its_gate && plan.is_set_up_unanswered() {
            // Until then it has nothing to say that we would act upon, and to be woken costs it time.
            channel::await_end(launched.channel.as_fd())
                .map_err(|errno| Error::system("poll", errno, HEAR))?;
        }
        if helped.is_err() {
            // A child that is gone can't be told, nor need it be.
            let _told = channel::give_up(launched.channel.as_fd()).is_ok();
        }
        // A child that has failed has closed the channel, so helping it fails too; what counts then is
        // what it reported. If helping it failed first, it reports that it waited in vain.
        match attend(plan, &mut launched, answers, helped.as_deref().ok()) {
            Err(error) if is_for_want_of_help(&error) => Err(helped.err().unwrap_or(error)),
            Err(error) => Err(error),
            Ok(()) => {
                failpoint::pass("process-ready");
                helped.map(|_| launched)
            }
        }
    }
}

/// Whether the child ended without having failed at anything itself.
fn is_for_want_of_help(error: &Error) -> bool {
    match error {
        Error::Died { .. } => true,
        Error::Init(failure) => failure.errno == Errno::EPIPE,
        _ => false,
    }
}

/// What EACCES means where a process is cloned into a cgroup (cgroups(7), "Delegation containment").
pub(crate) const NOT_DELEGATED: &str = ": from our cgroup into the container's only who owns the nearest \
     cgroup above both may go; begin in one that is delegated to this user, as by systemd-run --user --scope";

fn clone_child(
    plan: &mut Plan,
    ours: &OwnedFd,
    childs: OwnedFd,
    cgroup: Option<BorrowedFd>,
) -> Result<Child, Error> {
    let args = CloneArgs {
        flags: plan.namespaces.create,
        cgroup,
    };
    let channel = Channel {
        own: childs.as_fd(),
        parents: ours.as_raw_fd(),
    };
    let Cloned { pid, pidfd } = clone3(&args, || init::run(plan, &channel)).map_err(|errno| {
        let hint = if errno == Errno::EACCES {
            NOT_DELEGATED
        } else {
            ""
        };
        Error::system(
            "clone3",
            errno,
            format!("make the container's process{hint}"),
        )
    })?;
    Ok(Child::in_the_making(pid, pidfd))
}

/// The helper shares our descriptors, so the pidfd that its clone gives is ours. It leaves at once.
///
/// It has a channel of its own: on the child's, the child could be heard before it.
fn clone_by_helper(
    plan: &mut Plan,
    ours: &OwnedFd,
    childs: OwnedFd,
    cgroup: Option<BorrowedFd>,
    meanwhile: &mut dyn FnMut(),
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
    meanwhile();
    process::wait_child(helper.pidfd.as_fd(), true).map_err(failed("waitid"))?;
    failpoint::pass("helper-gone");
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

/// Everything that the child needs from outside before it can go far; returns its filter's program.
fn assist(
    plan: &Plan,
    launched: &Launched,
    assistance: &Assistance,
    program: Option<Result<Vec<Instruction>, Error>>,
) -> Result<Vec<Instruction>, Error> {
    let pid = launched.child.pid();
    if plan.namespaces.new_user.is_some() {
        child_files::write_id_maps(pid, assistance.uid_mappings, assistance.gid_mappings)?;
        init::raise_hard_limits(&plan.process, pid.as_raw());
    }
    if let Some(score) = assistance.oom_score_adj {
        child_files::adjust_oom_score(pid, score)?;
    }
    if plan.namespaces.new_user.is_some() {
        go_on(&launched.channel)?;
    }
    let program = program.unwrap_or_else(|| filter_program(assistance))?;
    let has_a_turn_before = plan.filesystem.as_ref().is_some_and(|fs| fs.parents_turn);
    if !has_a_turn_before {
        send_filter(launched, &program)?;
    }
    Ok(program)
}

/// Empty, if there is no filter.
fn filter_program(assistance: &Assistance) -> Result<Vec<Instruction>, Error> {
    let program = match assistance.filter {
        Some(filter) => Some(filter.program()?),
        None => assistance.seccomp.map(seccomp::compile).transpose()?,
    };
    Ok(program.unwrap_or_default())
}

/// Lets the child go on.
pub(crate) fn go_on(channel: &OwnedFd) -> Result<(), Error> {
    channel::go_on(channel.as_fd())
        .map_err(|errno| Error::system("sendmsg", errno, "let the container's process go on"))
}

fn send_filter(launched: &Launched, program: &[Instruction]) -> Result<(), Error> {
    if program.is_empty() {
        return Ok(());
    }
    let bytes = crate::sys::seccomp::as_bytes(program);
    socket::send(launched.channel.as_fd(), bytes, None)
        .map_err(|errno| Error::system("sendmsg", errno, "send the seccomp filter"))
}

fn next_report(launched: &Launched) -> Result<Option<Report>, Error> {
    channel::next_report(launched.channel.as_fd())
        .map_err(|errno| Error::system("recvmsg", errno, HEAR))
}

/// What is tried with the channel.
const HEAR: &str = "hear from the container's process";

fn died(child: &Child) -> Error {
    let pid = child.pid();
    match child.wait() {
        Ok(status) => Error::Died {
            pid,
            how: format!("{status:?}"),
        },
        Err(error) => error,
    }
}

/// Without a filter, helping the child has failed already.
fn attend(
    plan: &Plan,
    launched: &mut Launched,
    answers: &Answers,
    filter: Option<&[Instruction]>,
) -> Result<(), Error> {
    loop {
        match next_report(launched)? {
            Some(Report::Console(master)) => launched.child.set_console(master),
            // Nobody is told of a container that comes to nothing.
            Some(Report::SeccompListener(_)) if filter.is_none() => {}
            Some(Report::SeccompListener(listener)) => {
                let pid = launched.child.pid();
                seccomp::notify(answers.seccomp, answers.subject, pid, &listener)?;
            }
            Some(Report::ParentsTurn) => {
                let Some(filter) = filter else {
                    return Err(died(&launched.child));
                };
                if let Some(act) = answers.before_pivot {
                    act(launched.child.pid())?;
                }
                go_on(&launched.channel)?;
                send_filter(launched, filter)?;
            }
            Some(Report::Ready) => return Ok(()),
            Some(Report::Failed(failure)) => return Err(InitError::new(failure, plan).into()),
            Some(Report::Cloned { .. } | Report::Socket(_)) | None => {
                return Err(died(&launched.child));
            }
        }
    }
}

/// Waits until the process executes its program; the channel's end tells that it does.
pub(crate) fn await_exec(channel: BorrowedFd, name: &str) -> Result<(), Error> {
    match channel::next_report(channel) {
        Ok(Some(Report::Failed(failure))) => Err(InitError::of_exec(failure, name).into()),
        Ok(_) => {
            failpoint::pass("program-executed");
            Ok(())
        }
        Err(errno) => Err(Error::system("recvmsg", errno, HEAR)),
    }
}
