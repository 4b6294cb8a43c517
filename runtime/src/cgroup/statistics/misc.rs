//! The kernel's misc controller: what is scarce and counted, such as encryption keys of virtual machines.

use std::collections::BTreeMap;

use super::{flat, optional};
use crate::cgroup::{Cgroup, Error, files};

/// One resource of the misc controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MiscStatistics {
    /// In use.
    pub current: u64,
    /// Times that the limit was about to be exceeded.
    pub failures: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<BTreeMap<String, MiscStatistics>, Error> {
    let current = optional(cgroup, "misc.current")?.unwrap_or_default();
    let events = optional(cgroup, "misc.events")?.unwrap_or_default();
    let resources = flat(&current).map(|(name, current)| {
        let failures = files::field(&events, &format!("{name}.max"));
        (name.to_owned(), MiscStatistics { current, failures })
    });
    Ok(resources.collect())
}
