//! Remote direct memory access, by device.

use std::collections::BTreeMap;

use super::{nested, optional};
use crate::cgroup::{Cgroup, Error};

/// RDMA resources of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RdmaStatistics {
    /// Handles in use.
    pub handles: u64,
    /// Objects in use.
    pub objects: u64,
    /// The most handles; the largest number is no limit.
    pub max_handles: u64,
    /// The most objects; the largest number is no limit.
    pub max_objects: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<BTreeMap<String, RdmaStatistics>, Error> {
    let current = optional(cgroup, "rdma.current")?.unwrap_or_default();
    let max = optional(cgroup, "rdma.max")?.unwrap_or_default();
    Ok(parse(&current, &max))
}

pub(super) fn parse(current: &str, max: &str) -> BTreeMap<String, RdmaStatistics> {
    let mut devices: BTreeMap<String, RdmaStatistics> = BTreeMap::new();
    let count = |counts: &BTreeMap<&str, u64>, key| counts.get(key).copied().unwrap_or_default();
    for (name, counts) in nested(current) {
        let device = devices.entry(name.to_owned()).or_default();
        device.handles = count(&counts, "hca_handle");
        device.objects = count(&counts, "hca_object");
    }
    for (name, counts) in nested(max) {
        let device = devices.entry(name.to_owned()).or_default();
        device.max_handles = count(&counts, "hca_handle");
        device.max_objects = count(&counts, "hca_object");
    }
    devices
}
