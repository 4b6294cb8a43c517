//! The number of processes and threads.

use oci_spec::runtime::LinuxPids;

use super::Write;

/// Zero means no wish, as crun has it: the type of the configuration's field can't tell it from an
/// absent one.
pub(super) fn writes(pids: LinuxPids, writes: &mut Vec<Write>) {
    match pids.limit() {
        0 => {}
        ..=-1 => writes.push(Write::lift("pids.max")),
        limit => writes.push(Write::limit("pids", "pids.max", limit.to_string())),
    }
}
