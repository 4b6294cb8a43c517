//! Remote direct memory access, by device.

use std::collections::HashMap;

use oci_spec::runtime::LinuxRdma;

use super::{Write, wrong};
use crate::cgroup::Error;

pub(super) fn writes(
    devices: &HashMap<String, LinuxRdma>,
    writes: &mut Vec<Write>,
) -> Result<(), Error> {
    let mut names: Vec<_> = devices.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    for (name, limits) in names {
        if name.is_empty() || name.contains(char::is_whitespace) {
            let expected = "must be the name of a device";
            return Err(wrong("rdma", format!("{name:?}"), expected));
        }
        let mut value = name.clone();
        let limits = [
            ("hca_handle", limits.hca_handles()),
            ("hca_object", limits.hca_objects()),
        ];
        for (key, limit) in limits {
            if let Some(limit) = limit {
                value.push_str(&format!(" {key}={limit}"));
            }
        }
        if value != *name {
            writes.push(Write::limit("rdma", "rdma.max", value));
        }
    }
    Ok(())
}
