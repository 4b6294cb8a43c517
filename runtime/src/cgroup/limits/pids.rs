//! The number of processes and threads.

use oci_spec::runtime::LinuxPids;

use super::{Write, wrong};
use crate::cgroup::Error;

/// `PID_MAX_LIMIT`: the kernel takes no larger number for a limit.
const MOST: i64 = 4 << 20;

/// Zero means no wish, as crun has it: the type of the configuration's field can't tell it from an
/// absent one.
pub(super) fn writes(pids: LinuxPids, writes: &mut Vec<Write>) -> Result<(), Error> {
    match pids.limit() {
        limit if !(-1..=MOST).contains(&limit) => {
            let expected = "must be at most 4194304, or -1 for no limit";
            return Err(wrong("pids.limit", limit, expected));
        }
        0 => {}
        ..=-1 => writes.push(Write::lift("pids.max")),
        limit => writes.push(Write::limit("pids", "pids.max", limit.to_string())),
    }
    Ok(())
}
