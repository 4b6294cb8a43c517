//! Huge pages, by size.

use std::collections::BTreeMap;

use super::{optional, optional_number};
use crate::cgroup::{Cgroup, Error, files};

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePageStatistics {
    /// In use, or reserved where the kernel counts that.
    pub current: u64,
    /// Times that the limit kept one from being used.
    pub failures: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<BTreeMap<String, HugePageStatistics>, Error> {
    let mut sizes = BTreeMap::new();
    for size in huge_page_sizes() {
        // Reservations count against what others can have, so they are what is in use.
        let reserved = optional_number(cgroup, &format!("hugetlb.{size}.rsvd.current"))?;
        let current = match reserved {
            Some(reserved) => Some(reserved),
            None => optional_number(cgroup, &format!("hugetlb.{size}.current"))?,
        };
        let events = optional(cgroup, &format!("hugetlb.{size}.events"))?.unwrap_or_default();
        if let Some(current) = current {
            let failures = files::field(&events, "max");
            sizes.insert(size, HugePageStatistics { current, failures });
        }
    }
    Ok(sizes)
}

/// The kernel's sizes, in the form that the names of cgroup files have.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| size_of_directory(&name)).collect()
}

/// `hugepages-2048kB` → `2MB`.
pub(super) fn size_of_directory(name: &str) -> Option<String> {
    let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    Some(match kilobytes.parse::<u64>().ok()? {
        size if size % (1 << 20) == 0 => format!("{}GB", size >> 20),
        size if size % (1 << 10) == 0 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    })
}
