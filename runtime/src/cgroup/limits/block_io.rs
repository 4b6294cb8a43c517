//! Input and output of block devices.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{IfAbsent, Write, wrong};
use crate::cgroup::Error;

pub(super) fn writes(io: &LinuxBlockIo, writes: &mut Vec<Write>) -> Result<(), Error> {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        check_weight("blockIO.weight", weight)?;
        writes.push(weight_write("", weight));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            check_weight(format!("blockIO.weightDevice[{index}].weight"), weight)?;
            let device = format!("{}:{} ", device.major(), device.minor());
            writes.push(weight_write(&device, weight));
        }
    }
    for (device, limits) in throttles(io) {
        writes.push(Write::limit("io", "io.max", format!("{device}{limits}")));
    }
    Ok(())
}

fn check_weight(field: impl Into<String>, weight: u16) -> Result<(), Error> {
    match weight {
        10..=1000 => Ok(()),
        _ => Err(wrong(field, weight, "must be 10 to 1000, or 0 for none")),
    }
}

/// The cost model's weight, which has a wider range: 10 to 1000 becomes 1 to 10000.
pub(in crate::cgroup) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

/// BFQ takes v1's numbers as they are. Where that scheduler isn't loaded, it is the cost model's.
fn weight_write(device: &str, weight: u16) -> Write {
    let converted = io_weight(weight);
    let cost_model = Write::limit("io", "io.weight", format!("{device}{converted}"));
    Write {
        file: Cow::Borrowed("io.bfq.weight"),
        value: format!("{device}{weight}"),
        if_absent: IfAbsent::Write(Box::new(cost_model.clone())),
        ..cost_model
    }
}

/// The limits of each device on one line: the kernel changes what a line names and keeps the rest.
fn throttles(io: &LinuxBlockIo) -> BTreeMap<String, String> {
    let lists = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for (key, list) in lists {
        for device in list.iter().flatten() {
            let line = lines.entry(device_number(device)).or_default();
            // Writing to a string doesn't fail.
            let _written = match device.rate() {
                0 => write!(line, " {key}=max"),
                rate => write!(line, " {key}={rate}"),
            };
        }
    }
    lines
}

fn device_number(device: &LinuxThrottleDevice) -> String {
    format!("{}:{}", device.major(), device.minor())
}

pub(super) fn passed_over(io: &LinuxBlockIo) -> Vec<(&'static str, bool)> {
    let has_leaf = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    let mut devices = io.weight_device().iter().flatten();
    vec![
        ("blockIO.leafWeight", has_leaf(io.leaf_weight())),
        (
            "blockIO.weightDevice.leafWeight",
            devices.any(|device| has_leaf(device.leaf_weight())),
        ),
    ]
}
