//! Putting another process into a running container.

use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxSeccomp, Process};

use crate::cgroup::Cgroup;
use crate::child::Child;
use crate::config;
use crate::error::Error;
use crate::hooks::Subject;
use crate::launch::{Answers, Assistance, Launched, await_exec, launch};
use crate::plan::{
    Gate, Groups, Join, NEWTIME, Namespaces, Plan, ProcessPlan, Settings, Stdio, process_plan,
};
use crate::sys::process;
use crate::{seccomp, user_namespace};

/// How to run a process in a container.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExecOptions<'a> {
    /// The process, in the words of the configuration. Rights that it doesn't name it doesn't get.
    pub process: &'a Process,
    /// The system call filter: usually the container's.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The standard streams.
    pub stdio: Stdio,
    /// The signal that it gets when the calling thread dies.
    pub parent_death_signal: Option<Signal>,
    /// How many of the caller's descriptors from 3 on it gets.
    pub preserve_fds: u32,
    /// The container, so that its memory policy, personality and session keyring are the process's
    /// too, and so that it can be told to a listener of its filter.
    pub container: Option<Subject<'a>>,
    /// Whether it stays in the session keyring of the caller.
    pub no_new_keyring: bool,
    /// The cgroup that it runs in; if absent the container's own, or the caller's where
    /// [`container`](Self::container) has none.
    pub cgroup: Option<Cgroup>,
    /// Whether to enter a container that is paused: the process starts when that is resumed, and the
    /// call returns only then.
    pub ignore_paused: bool,
}

impl<'a> ExecOptions<'a> {
    /// The defaults: streams inherited, no filter.
    pub fn new(process: &'a Process) -> Self {
        Self {
            process,
            seccomp: None,
            stdio: Stdio::default(),
            parent_death_signal: None,
            preserve_fds: 0,
            container: None,
            no_new_keyring: false,
            cgroup: None,
            ignore_paused: false,
        }
    }
}

/// Runs a process in all the namespaces and in the cgroup of the process `target`.
pub fn exec(target: Pid, options: ExecOptions) -> Result<Child, Error> {
    config::validate_process(options.process)?;
    let linux = options
        .container
        .and_then(|container| container.spec.linux().as_ref());
    let settings = Settings {
        stdio: options.stdio,
        preserve_fds: options.preserve_fds,
        parent_death_signal: options.parent_death_signal,
        seccomp: options.seccomp.map(seccomp::install_flags).transpose()?,
        keyring: options
            .container
            .filter(|_| !options.no_new_keyring)
            .map(|container| keyring_name(container.id)),
    };
    let mut process = process_plan(options.process, settings)?;
    process.scheduling = std::mem::take(&mut process.scheduling)
        .with_affinity(options.process)
        .in_container(
            linux.and_then(|linux| linux.memory_policy().as_ref()),
            linux.and_then(|linux| linux.personality().as_ref()),
        );
    let has_cgroup = options
        .container
        .is_none_or(|container| container.has_cgroup);
    let mut entry = Entry::new(process, has_cgroup);
    entry.seccomp = options.seccomp;
    entry.oom_score_adj = options.process.oom_score_adj();
    entry.subject = options.container;
    entry.cgroup = options.cgroup;
    entry.ignore_paused = options.ignore_paused;
    enter(target, entry)
}

/// The name of a container's session keyring: runc's, which tools look for.
pub(crate) fn keyring_name(id: &str) -> String {
    format!("_ses.{id}")
}

/// A process that enters a container.
pub(crate) struct Entry<'a> {
    process: ProcessPlan,
    pub(crate) seccomp: Option<&'a LinuxSeccomp>,
    oom_score_adj: Option<i32>,
    subject: Option<Subject<'a>>,
    cgroup: Option<Cgroup>,
    /// Whether the container has a cgroup of its own to run in.
    has_cgroup: bool,
    ignore_paused: bool,
}

impl Entry<'_> {
    pub(crate) fn new(process: ProcessPlan, has_cgroup: bool) -> Self {
        Self {
            process,
            has_cgroup,
            seccomp: None,
            oom_score_adj: None,
            subject: None,
            cgroup: None,
            ignore_paused: false,
        }
    }
}

/// Runs a planned process in the namespaces of the process `target`, and in its cgroup if that is the
/// container's own.
pub(crate) fn enter(target: Pid, entry: Entry) -> Result<Child, Error> {
    let pidfd =
        process::open_pidfd(target).map_err(|errno| not_there(target, "pidfd_open", errno))?;
    let flags = foreign_namespaces(target)?;
    let late = late_join(target, flags)?;
    let cgroup = match (entry.cgroup, entry.has_cgroup) {
        (None, true) => Some(Cgroup::of(target)?),
        (given, _) => given,
    };
    // A process cloned into a frozen cgroup is born frozen: we would wait for it.
    if let Some(cgroup) = cgroup.as_ref().filter(|_| !entry.ignore_paused)
        && cgroup.is_frozen()?
    {
        return Err(Error::Paused);
    }
    // What was read belongs to the process that the pidfd holds: its number wasn't reused meanwhile.
    process::send_signal(pidfd.as_fd(), None)
        .map_err(|errno| not_there(target, "pidfd_send_signal", errno))?;
    let assistance = Assistance {
        cgroup: cgroup.as_ref().map(Cgroup::directory),
        seccomp: entry.seccomp,
        oom_score_adj: entry.oom_score_adj,
        ..Default::default()
    };
    let answers = Answers {
        seccomp: entry.seccomp,
        subject: entry.subject,
        ..Default::default()
    };
    let namespaces = joined(target, pidfd, flags, late)?;
    run(namespaces, entry.process, &assistance, &answers)
}

/// Runs a planned process where we are.
pub(crate) fn run_here(process: ProcessPlan) -> Result<Child, Error> {
    let (assistance, answers) = (Assistance::default(), Answers::default());
    run(Namespaces::ours(), process, &assistance, &answers)
}

fn run(
    namespaces: Namespaces,
    process: ProcessPlan,
    assistance: &Assistance,
    answers: &Answers,
) -> Result<Child, Error> {
    namespaces.groups.check(&process)?;
    let name = process.name.clone();
    let mut plan = Plan {
        namespaces,
        filesystem: None,
        process,
        gate: Gate::Open,
        ignored_signals: crate::sys::process::ignored_signals(),
    };
    let Launched { mut child, channel } = launch(&mut plan, assistance, answers)?;
    await_exec(channel.as_fd(), &name)?;
    child.release();
    Ok(child)
}

fn not_there(target: Pid, call: &'static str, errno: Errno) -> Error {
    Error::system(
        call,
        errno,
        format!("enter the container of process {target}"),
    )
}

const NAMESPACES: [(&str, CloneFlags); 8] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", NEWTIME),
];

/// The kinds of which the process has another namespace than we: joining one's own user namespace is
/// an error, and joining others of one's own for nothing.
fn foreign_namespaces(target: Pid) -> Result<CloneFlags, Error> {
    let mut flags = CloneFlags::empty();
    for (name, flag) in NAMESPACES {
        let identity = |owner: &str| {
            let path = format!("/proc/{owner}/ns/{name}");
            std::fs::metadata(&path).map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                not_there(target, "stat", errno)
            })
        };
        let same = |a: Metadata, b: Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if !same(identity(&target.to_string())?, identity("self")?) {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// A cgroup namespace is joined after the clone, which it would bound. By its file: by the process one may
/// join only what one may trace, and before it executes its program it can't be by anybody in the
/// container.
fn late_join(target: Pid, flags: CloneFlags) -> Result<Vec<Join>, Error> {
    let late = flags & CloneFlags::CLONE_NEWCGROUP;
    if late.is_empty() {
        return Ok(Vec::new());
    }
    let path = PathBuf::from(format!("/proc/{target}/ns/cgroup"));
    let fd = open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| not_there(target, "open", errno))?;
    let flags = late;
    Ok(vec![Join { fd, flags, path }])
}

fn joined(
    target: Pid,
    pidfd: OwnedFd,
    flags: CloneFlags,
    late: Vec<Join>,
) -> Result<Namespaces, Error> {
    let path = PathBuf::from(format!("process {target}"));
    let becomes_root = flags.contains(CloneFlags::CLONE_NEWUSER);
    let groups = match becomes_root {
        true => Groups::of_joined(&target.to_string()),
        false => Groups::of_ours(!user_namespace::is_initial()),
    };
    let early = flags - CloneFlags::CLONE_NEWCGROUP;
    let helper_joins = match early.is_empty() {
        true => Vec::new(),
        // All at once, so that the kernel checks the rights to each before any is given up.
        false => vec![Join {
            fd: pidfd,
            flags: early,
            path,
        }],
    };
    Ok(Namespaces {
        helper_joins,
        joins: late,
        become_root: becomes_root,
        groups,
        ..Namespaces::ours()
    })
}
