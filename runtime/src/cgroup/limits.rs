//! From the limits of OCI, which speaks cgroup v1, to the files of cgroup v2.
//!
//! The conversions are runc's and crun's, so that an engine's numbers mean the same here. What v2 has
//! no file for at all is passed over with a warning, as runc does it: engines send such values, and no
//! v2 host could do better. What v2 has and this host lacks is an error.

mod block_io;
mod cpu;
mod huge_pages;
mod memory;
mod network;
mod pids;
mod rdma;
#[cfg(test)]
mod tests;
mod unified;
mod write;

use oci_spec::runtime::LinuxResources;

use super::{Error, Warning};

pub(super) use block_io::io_weight;
pub use cpu::weight_of_shares;
pub(super) use memory::{check_usage, swap_alone};
pub(super) use write::{IfAbsent, Write};

/// Checks limits without touching anything.
pub fn check(resources: &LinuxResources) -> Result<(), Error> {
    writes(resources).map(drop)
}

/// What to write for these limits, in order: `unified` last, since it has the last word.
pub(super) fn writes(resources: &LinuxResources) -> Result<Vec<Write>, Error> {
    let mut writes = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu::writes(cpu, &mut writes)?;
    }
    if let Some(memory) = resources.memory() {
        memory::writes(memory, &mut writes)?;
    }
    if let Some(pids) = resources.pids() {
        pids::writes(*pids, &mut writes)?;
    }
    if let Some(block_io) = resources.block_io() {
        block_io::writes(block_io, &mut writes)?;
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        huge_pages::writes(index, limit, &mut writes)?;
    }
    if let Some(devices) = resources.rdma() {
        rdma::writes(devices, &mut writes)?;
    }
    writes.extend(unified_writes(resources)?);
    Ok(writes)
}

/// The files of those limits that ask for more than what holds without any.
pub(super) fn asked(resources: &LinuxResources) -> Result<Vec<String>, Error> {
    let writes = writes(resources)?.into_iter();
    let asked = writes.filter(|write| write.if_absent != IfAbsent::Fine);
    Ok(asked.map(|write| write.file.into_owned()).collect())
}

/// What to write for the files that the configuration names itself.
pub(super) fn unified_writes(resources: &LinuxResources) -> Result<Vec<Write>, Error> {
    let mut writes = Vec::new();
    if let Some(files) = resources.unified() {
        unified::writes(files, &mut writes)?;
    }
    Ok(writes)
}

/// The settings that cgroup v2 has no counterpart for.
pub(super) fn passed_over(resources: &LinuxResources) -> Vec<Warning> {
    let mut fields = Vec::new();
    fields.extend(resources.cpu().as_ref().map(cpu::passed_over));
    fields.extend(resources.memory().as_ref().map(memory::passed_over));
    fields.extend(resources.block_io().as_ref().map(block_io::passed_over));
    fields.extend(resources.network().as_ref().map(network::passed_over));
    let given = fields.into_iter().flatten();
    given
        .filter(|(_, is_given)| *is_given)
        .map(|(field, _)| Warning::passed_over(field))
        .collect()
}

fn wrong(field: impl Into<String>, value: impl ToString, expected: &'static str) -> Error {
    Error::Value {
        field: field.into(),
        value: value.to_string(),
        expected,
    }
}
