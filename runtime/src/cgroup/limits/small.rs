//! The controllers of one file each: processes, huge pages, RDMA; and the network's, which v2 lacks.

use std::borrow::Cow;
use std::collections::HashMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma};

use super::{IfAbsent, Write, wrong};
use crate::cgroup::Error;

/// Zero means no wish, as crun has it: the type of the configuration's field can't tell it from an
/// absent one.
pub(super) fn pids_write(pids: LinuxPids, writes: &mut Vec<Write>) {
    match pids.limit() {
        0 => {}
        ..=-1 => writes.push(Write::lift("pids.max")),
        limit => writes.push(Write::limit("pids", "pids.max", limit.to_string())),
    }
}

/// Zero is a limit here: engines send it for the sizes that a container must not use.
pub(super) fn huge_page_writes(
    index: usize,
    limit: &LinuxHugepageLimit,
    writes: &mut Vec<Write>,
) -> Result<(), Error> {
    let size = limit.page_size();
    if !is_page_size(size) {
        let field = format!("hugepageLimits[{index}].pageSize");
        let expected = "must be a number and KB, MB or GB, such as 2MB";
        return Err(wrong(field, format!("{size:?}"), expected));
    }
    // Used pages, and reserved ones: what is reserved and never touched is lost to others all the same.
    for (suffix, if_absent) in [("max", IfAbsent::Fail), ("rsvd.max", IfAbsent::Fine)] {
        let file = format!("hugetlb.{size}.{suffix}");
        writes.push(match limit.limit() {
            ..=-1 => Write::lift(file),
            bytes => Write {
                controller: Some(Cow::Borrowed("hugetlb")),
                file: Cow::Owned(file),
                value: bytes.to_string(),
                if_absent,
            },
        });
    }
    Ok(())
}

fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|number| {
        !number.is_empty()
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

pub(super) fn rdma_writes(
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

pub(super) fn passed_over(network: &LinuxNetwork) -> Vec<(&'static str, bool)> {
    let priorities = network.priorities().as_ref();
    vec![
        (
            "network.classID",
            network.class_id().is_some_and(|class| class != 0),
        ),
        (
            "network.priorities",
            priorities.is_some_and(|priorities| !priorities.is_empty()),
        ),
    ]
}
