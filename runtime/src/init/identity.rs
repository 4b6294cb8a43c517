//! Who the process is and what it may do: limits, user, capabilities, filter, and the program.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, stat, umask};
use nix::unistd::fchdir;

use super::step::{Failure, Step};
use crate::plan::ProcessPlan;
use crate::sys::credentials::{self, CapabilityMasks};
use crate::sys::{process, seccomp};

pub(super) fn limit_resources(plan: &ProcessPlan) -> Result<(), Failure> {
    for (index, (resource, soft, hard)) in plan.rlimits.iter().enumerate() {
        process::set_rlimit(*resource, *soft, *hard)
            .map_err(Failure::of_item(Step::ResourceLimit, index))?;
    }
    Ok(())
}

/// From root with all rights to the process's user with its own.
pub(super) fn give_up_rights(plan: &ProcessPlan) -> Result<(), Failure> {
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
    } else {
        // Without that flag a filter can only be installed with CAP_SYS_ADMIN, so while we have it.
        install_filter(plan).map_err(Failure::of(Step::Seccomp))?;
    }
    become_user(plan)?;
    if !entered_as_root {
        enter_working_directory(plan).map_err(Failure::of(Step::WorkingDirectory))?;
    }
    verify_working_directory().map_err(Failure::of(Step::WorkingDirectory))
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

fn become_user(plan: &ProcessPlan) -> Result<(), Failure> {
    let capabilities = &plan.capabilities;
    let drop_bounding = || {
        credentials::limit_bounding_set(capabilities.bounding)?;
        credentials::keep_capabilities(true)
    };
    drop_bounding().map_err(Failure::of(Step::Capabilities))?;
    let set_groups = || {
        credentials::set_group(plan.gid)?;
        credentials::set_supplementary_groups(&plan.groups)
    };
    set_groups().map_err(Failure::of(Step::Groups))?;
    credentials::set_user(plan.uid).map_err(Failure::of(Step::User))?;
    umask(Mode::from_bits_truncate(plan.umask));
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
        Some(filter) => seccomp::install(&filter.buffer, filter.flags),
        None => Ok(()),
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
