//! Entering the namespaces that the clone has not made already, and setting up the new ones.

use std::ffi::CStr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::sethostname;

use super::step::{Failure, Step};
use crate::plan::{Groups, Join, NEWTIME, Namespaces};
use crate::sys::{credentials, process};

/// Joins namespaces in their order; for messages they are numbered from `first` on.
pub(super) fn join(joins: &[Join], first: usize) -> Result<(), Failure> {
    for (index, join) in (first..).zip(joins) {
        setns(&join.fd, join.flags).map_err(Failure::of_item(Step::JoinNamespace, index))?;
    }
    Ok(())
}

/// In a helper that is still as readable as its parent, or its own files of /proc wouldn't be its own:
/// makes a time namespace for its children and sets its clocks.
pub(super) fn make_time_namespace(offsets: &CStr) -> nix::Result<()> {
    unshare(NEWTIME)?;
    let file = open(
        c"/proc/self/timens_offsets",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let bytes = offsets.to_bytes();
    match nix::unistd::write(&file, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// Enters everything that is left to enter.
pub(super) fn enter(plan: &Namespaces) -> Result<(), Failure> {
    if plan.become_root {
        become_root(plan.groups).map_err(Failure::of(Step::BecomeNamespaceRoot))?;
    }
    join(&plan.joins, plan.helper_joins.len())?;
    if plan.new_cgroup {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(Failure::of(Step::NewCgroupNamespace))?;
    }
    if plan.new_network {
        process::bring_loopback_up().map_err(Failure::of(Step::BringLoopbackUp))?;
    }
    if let Some(name) = &plan.hostname {
        sethostname(name.as_str()).map_err(Failure::of(Step::SetHostname))?;
    }
    if let Some(name) = &plan.domainname {
        process::set_domainname(name).map_err(Failure::of(Step::SetDomainname))?;
    }
    Ok(())
}

/// The host's root has no id in the namespace, so whatever it made there would belong to nobody.
fn become_root(groups: Groups) -> nix::Result<()> {
    credentials::set_group(0)?;
    if groups == Groups::Inside {
        credentials::set_supplementary_groups(&[])?;
    }
    credentials::set_user(0)?;
    // The change of user made us dumpable as the host is set to.
    credentials::set_undumpable()
}
