//! What the kernel counts for a cgroup.
//!
//! Each controller's part is there if the controller is enabled for the cgroup; time and pressure
//! always are. Numbers are in the units of the kernel's files: bytes and microseconds.

mod cpu;
mod huge_pages;
mod io;
mod memory;
mod misc;
mod pids;
mod pressure;
mod rdma;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{Cgroup, Error, files};

pub use cpu::CpuStatistics;
pub use huge_pages::HugePageStatistics;
pub use io::{DeviceIo, IoStatistics};
pub use memory::{MemoryEvents, MemoryStatistics, SwapStatistics};
pub(super) use memory::{events as memory_events, parse_events as parse_memory_events};
pub use misc::MiscStatistics;
pub use pids::PidsStatistics;
pub use pressure::{Pressure, Stall};
pub use rdma::RdmaStatistics;

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// Processor time.
    pub cpu: CpuStatistics,
    /// Memory.
    pub memory: Option<MemoryStatistics>,
    /// Processes and threads.
    pub pids: Option<PidsStatistics>,
    /// Input and output of block devices.
    pub io: Option<IoStatistics>,
    /// Huge pages, by size (`2MB`).
    pub huge_pages: BTreeMap<String, HugePageStatistics>,
    /// RDMA resources, by device.
    pub rdma: BTreeMap<String, RdmaStatistics>,
    /// What the misc controller counts, by resource.
    pub misc: BTreeMap<String, MiscStatistics>,
    /// Time lost for want of processors.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost for want of memory.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for input and output.
    pub io_pressure: Option<Pressure>,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Statistics, Error> {
    let controllers = files::read(cgroup, "cgroup.controllers")?;
    let has = |name: &str| controllers.split_whitespace().any(|other| other == name);
    let mut statistics = Statistics {
        cpu: cpu::parse(&optional(cgroup, "cpu.stat")?.unwrap_or_default()),
        cpu_pressure: pressure::read(cgroup, "cpu.pressure")?,
        memory_pressure: pressure::read(cgroup, "memory.pressure")?,
        io_pressure: pressure::read(cgroup, "io.pressure")?,
        ..Statistics::default()
    };
    if has("memory") {
        statistics.memory = Some(memory::read(cgroup)?);
    }
    if has("pids") {
        statistics.pids = Some(pids::read(cgroup)?);
    }
    if has("io") {
        statistics.io = Some(io::parse(&files::read(cgroup, "io.stat")?));
    }
    if has("hugetlb") {
        statistics.huge_pages = huge_pages::read(cgroup)?;
    }
    if has("rdma") {
        statistics.rdma = rdma::read(cgroup)?;
    }
    if has("misc") {
        statistics.misc = misc::read(cgroup)?;
    }
    Ok(statistics)
}

/// A file that not every kernel has.
fn optional(cgroup: &Cgroup, file: &str) -> Result<Option<String>, Error> {
    match files::read(cgroup, file) {
        Ok(text) => Ok(Some(text)),
        // Pressure can be switched off when booting, and then can't be opened, or not be read.
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file with one number, or "max" for none.
fn number(cgroup: &Cgroup, file: &str) -> Result<Option<u64>, Error> {
    let text = files::read(cgroup, file)?;
    match text.trim() {
        "max" => Ok(None),
        number => match number.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Form {
                path: cgroup.path.clone(),
                file: file.to_owned(),
                text,
            }),
        },
    }
}

/// The same for a file that not every kernel has, and that is never "max".
fn optional_number(cgroup: &Cgroup, file: &str) -> Result<Option<u64>, Error> {
    let text = optional(cgroup, file)?;
    Ok(text.and_then(|text| text.trim().parse().ok()))
}

/// Lines of a name and a number.
fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

/// Lines of a name and `key=value` pairs. A value "max" is the largest number.
fn nested(text: &str) -> impl Iterator<Item = (&str, BTreeMap<&str, u64>)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let pairs = words.filter_map(|word| {
            let (key, value) = word.split_once('=')?;
            let value = match value {
                "max" => u64::MAX,
                value => value.parse().ok()?,
            };
            Some((key, value))
        });
        Some((name, pairs.collect()))
    })
}
