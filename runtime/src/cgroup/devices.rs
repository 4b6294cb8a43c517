//! Which devices a cgroup's processes may open or create: an eBPF program that the kernel asks.
//!
//! The rules become a program of ours. Others may attach programs too (systemd for a unit's
//! `DeviceAllow`, an engine's hook for its GPU): the kernel asks all of them and any can refuse, so
//! theirs are left alone.

mod program;
mod rules;

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxDeviceCgroup;

use super::{Cgroup, Error};
use crate::sys::bpf;

/// How programs of ours are told from others'.
const NAME: &str = "berth_devices";

/// Allows what the rules allow, and what every container may do, in place of what a program of ours
/// allowed before.
pub(super) fn allow(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    let failed = |call| {
        move |errno| Error::Devices {
            call,
            path: cgroup.path.clone(),
            errno,
        }
    };
    let directory = cgroup.directory();
    // Nobody has attached anything to a cgroup that is new.
    let old = match cgroup.is_new {
        true => None,
        false => own_program(cgroup).map_err(failed("query"))?,
    };
    let rules = rules::of(rules);
    if rules::allow_everything(&rules) {
        return match old {
            None => Ok(()),
            Some(old) => {
                bpf::detach_device_program(directory, old.as_fd()).map_err(failed("detach"))
            }
        };
    }
    let new = bpf::load_device_program(NAME, &program::compile(&rules)).map_err(failed("load"))?;
    // One call replaces the old one, so there is no moment without a program, nor one with both.
    bpf::attach_device_program(directory, new.as_fd(), old.as_ref().map(AsFd::as_fd))
        .map_err(failed("attach"))
}

/// The program of these rules.
#[cfg(any(test, fuzzing))]
pub(super) fn compile(rules: &[LinuxDeviceCgroup]) -> Vec<bpf::Instruction> {
    program::compile(&rules::of(rules))
}

/// The program that this runtime attached to a cgroup.
fn own_program(cgroup: &Cgroup) -> nix::Result<Option<OwnedFd>> {
    for id in bpf::device_programs(cgroup.directory())? {
        let program = bpf::open_program(id)?;
        if bpf::program_name(program.as_fd())? == NAME {
            return Ok(Some(program));
        }
    }
    Ok(None)
}
