//! Who the process is and what it may do: limits, user, capabilities, filter, and the program.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, stat, umask};
use nix::unistd::fchdir;

use super::step::{Failure, Step};
use crate::channel::{self, Report};
use crate::plan::{Groups, ProcessPlan, SeccompPlan, User};
use crate::sys::credentials::{self, CapabilityMasks};
use crate::sys::{process, seccomp};

/// Raises the hard limits that the process is to have: only who has CAP_SYS_RESOURCE on the host may, and in a user
/// namespace nobody has. What doesn't succeed is told by [`limit_resources`].
pub(crate) fn raise_hard_limits(plan: &ProcessPlan, pid: i32) {
    for (resource, _, hard) in &plan.rlimits {
        process::raise_hard_limit(pid, *resource, *hard).ok();
    }
}

pub(super) fn limit_resources(plan: &ProcessPlan) -> Result<(), Failure> {
    for (index, (resource, soft, hard)) in plan.rlimits.iter().enumerate() {
        process::set_rlimit(*resource, *soft, *hard)
            .map_err(Failure::of_item(Step::ResourceLimit, index))?;
    }
    Ok(())
}

/// From root with all rights to the process's user with its own.
pub(super) fn give_up_rights(
    plan: &ProcessPlan,
    groups: Groups,
    channel: BorrowedFd,
) -> Result<(), Failure> {
    // As root first, who can pass directories that the user can't; but a directory that only the user
    // may enter (on a network file system) needs the user.
    let entered_as_root = match enter_working_directory(plan) {
        Err(Errno::EACCES) => false,
        other => other
            .map(|()| true)
            .map_err(Failure::of(Step::WorkingDirectory))?,
    };
    if plan.no_new_privileges {
        credentials::set_no_new_privileges().map_err(Failure::of(Step::NoNewPrivileges))?;
    }
    if !filter_comes_last(plan) {
        install_and_hand_over_filter(plan, channel).map_err(Failure::of(Step::Seccomp))?;
    }
    if let Some(user) = &plan.user {
        become_user(user, groups)?;
    }
    if !entered_as_root {
        enter_working_directory(plan).map_err(Failure::of(Step::WorkingDirectory))?;
    }
    verify_working_directory().map_err(Failure::of(Step::WorkingDirectory))
}

/// As late as can be, so that the filter needn't allow what we do. Without no_new_privs only
/// CAP_SYS_ADMIN may install it, so it is installed while we have that; and one that notifies needs its
/// listener handed over while the process that made us is there.
pub(super) fn filter_comes_last(plan: &ProcessPlan) -> bool {
    let notifies = |filter: &SeccompPlan| filter.flags.has_listener();
    plan.no_new_privileges && !plan.seccomp.as_ref().is_some_and(notifies)
}

/// A path such as /proc/self/fd/7 would lead to whatever a descriptor is open on, be it the host's
/// (CVE-2024-21626): such links aren't followed.
fn enter_working_directory(plan: &ProcessPlan) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    fchdir(openat2(AT_FDCWD, plan.cwd.as_c_str(), how)?)
}

/// And if one were followed all the same, it would show here.
fn verify_working_directory() -> nix::Result<()> {
    match process::current_directory_is_reachable() {
        Ok(true) => Ok(()),
        // The errno that the caller explains: the directory is outside the container.
        Ok(false) | Err(Errno::ENOENT) => Err(Errno::EXDEV),
        Err(errno) => Err(errno),
    }
}

fn become_user(user: &User, groups: Groups) -> Result<(), Failure> {
    let capabilities = &user.capabilities;
    let drop_bounding = || {
        credentials::limit_bounding_set(capabilities.bounding)?;
        credentials::keep_capabilities(true)
    };
    drop_bounding().map_err(Failure::of(Step::Capabilities))?;
    let set_groups = || {
        credentials::set_group(user.gid)?;
        match groups {
            Groups::Inside => credentials::set_supplementary_groups(&user.groups),
            Groups::Outside | Groups::Kept => Ok(()),
        }
    };
    set_groups().map_err(Failure::of(Step::Groups))?;
    credentials::set_user(user.uid).map_err(Failure::of(Step::User))?;
    umask(Mode::from_bits_truncate(user.umask));
    set_capabilities(capabilities).map_err(Failure::of(Step::Capabilities))
}

fn set_capabilities(capabilities: &CapabilityMasks) -> nix::Result<()> {
    credentials::keep_capabilities(false)?;
    credentials::set_capabilities(capabilities)?;
    credentials::set_ambient(capabilities.ambient)?;
    // The change of user let the kernel reset this to the host's default.
    credentials::set_undumpable()
}

pub(super) fn install_filter(plan: &ProcessPlan) -> nix::Result<()> {
    match &plan.seccomp {
        Some(filter) => seccomp::install(&filter.buffer, filter.flags.bits()),
        None => Ok(()),
    }
}

fn install_and_hand_over_filter(plan: &ProcessPlan, channel: BorrowedFd) -> nix::Result<()> {
    match &plan.seccomp {
        Some(filter) if filter.flags.has_listener() => {
            let listener = seccomp::install_with_listener(&filter.buffer, filter.flags.bits())?;
            channel::report(channel, &Report::SeccompListener(listener))
        }
        _ => install_filter(plan),
    }
}

/// Finds the program as the user would, before anyone is told that the container is ready.
pub(super) fn find_executable(plan: &ProcessPlan) -> nix::Result<usize> {
    let mut answer = Errno::ENOENT;
    for (index, candidate) in plan.candidates.iter().enumerate() {
        match is_executable(candidate) {
            Ok(()) => return Ok(index),
            // Rather "permission denied" than "not found" when there is one that we may not run.
            Err(Errno::EACCES) => answer = Errno::EACCES,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(answer)
}

fn is_executable(candidate: &CStr) -> nix::Result<()> {
    if stat(candidate)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EACCES);
    }
    process::may_execute(candidate)
}
