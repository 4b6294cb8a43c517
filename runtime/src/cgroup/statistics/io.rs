//! Input and output of block devices: `io.stat`.

use super::nested;

/// What each device did for the cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStatistics {
    /// The devices that did anything.
    pub devices: Vec<DeviceIo>,
}

/// What one device did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's major number.
    pub major: u64,
    /// Its minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
    /// Discards.
    pub discards: u64,
}

pub(super) fn parse(text: &str) -> IoStatistics {
    let devices = nested(text).filter_map(|(device, counts)| {
        let (major, minor) = device.split_once(':')?;
        let count = |key: &str| counts.get(key).copied().unwrap_or_default();
        Some(DeviceIo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            read_bytes: count("rbytes"),
            written_bytes: count("wbytes"),
            reads: count("rios"),
            writes: count("wios"),
            discarded_bytes: count("dbytes"),
            discards: count("dios"),
        })
    });
    IoStatistics {
        devices: devices.collect(),
    }
}
