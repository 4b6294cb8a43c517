//! Putting another process into a running container.

use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxSeccomp, Process};

use crate::cgroup::Cgroup;
use crate::child::Child;
use crate::config;
use crate::error::Error;
use crate::launch::{Assistance, Launched, await_exec, launch};
use crate::plan::{Gate, Join, Namespaces, Plan, Stdio, process_plan};
use crate::seccomp;
use crate::sys::process;

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
        }
    }
}

/// Runs a process in all the namespaces and in the cgroup of the process `target`.
pub fn exec(target: Pid, options: ExecOptions) -> Result<Child, Error> {
    config::validate_process(options.process)?;
    let seccomp_flags = options.seccomp.map(seccomp::flags).transpose()?;
    let pidfd =
        process::open_pidfd(target).map_err(|errno| not_there(target, "pidfd_open", errno))?;
    let flags = foreign_namespaces(target)?;
    let cgroup = Cgroup::of(target)?;
    // What was read belongs to the process that the pidfd holds: its number wasn't reused meanwhile.
    process::send_signal(pidfd.as_fd(), None)
        .map_err(|errno| not_there(target, "pidfd_send_signal", errno))?;
    let process = process_plan(
        options.process,
        seccomp_flags,
        options.stdio,
        options.preserve_fds,
        options.parent_death_signal,
    )?;
    let name = process.name.clone();
    let namespaces = joined(target, pidfd, flags)?;
    let mut plan = Plan {
        namespaces,
        filesystem: None,
        process,
        gate: Gate::Open,
    };
    let assistance = Assistance {
        cgroup: cgroup.directory(),
        seccomp: options.seccomp,
        uid_mappings: &[],
        gid_mappings: &[],
        oom_score_adj: options.process.oom_score_adj(),
    };
    let Launched { mut child, channel } = launch(&mut plan, &assistance)?;
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

const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
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

fn joined(target: Pid, pidfd: OwnedFd, flags: CloneFlags) -> Result<Namespaces, Error> {
    let path = PathBuf::from(format!("process {target}"));
    let mut joins = Vec::new();
    let late = flags & CloneFlags::CLONE_NEWCGROUP;
    if !late.is_empty() {
        let fd = pidfd
            .try_clone()
            .map_err(|_| not_there(target, "fcntl", Errno::EMFILE))?;
        joins.push(Join {
            fd,
            flags: late,
            path: path.clone(),
        });
    }
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
        create: CloneFlags::empty(),
        new_cgroup: false,
        helper_joins,
        joins,
        new_user: false,
        become_root: flags.contains(CloneFlags::CLONE_NEWUSER),
        new_network: false,
        hostname: None,
        domainname: None,
    })
}
