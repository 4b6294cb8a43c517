//! Device rules and numbers of devices, which the cgroup's own checks don't see.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::linux::{MAX_MAJOR, MAX_MINOR};
use super::{Error, bounds, value};

pub(super) fn validate(resources: &LinuxResources) -> Result<(), Error> {
    let rules = resources.devices().as_deref().unwrap_or_default();
    bounds::list("linux.resources.devices", rules)?;
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(index, rule)?;
    }
    validate_block_devices(resources)?;
    let pages = resources.hugepage_limits().as_deref().unwrap_or_default();
    bounds::list("linux.resources.hugepageLimits", pages)?;
    for (index, limit) in pages.iter().enumerate() {
        let field = format!("linux.resources.hugepageLimits[{index}].pageSize");
        bounds::text(&field, limit.page_size(), 32)?;
    }
    for (name, _) in resources.rdma().iter().flatten() {
        bounds::text("linux.resources.rdma", name, 255)?;
    }
    for (file, text) in resources.unified().iter().flatten() {
        let field = format!("linux.resources.unified[{:?}]", bounds::shortened(file));
        bounds::text(&field, file, 255)?;
        bounds::short_text(&field, text)?;
    }
    Ok(())
}

/// A rule that isn't understood must not become one for all devices.
fn validate_rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<(), Error> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    if rule.typ() == Some(LinuxDeviceType::P) {
        let expected = "must be \"a\", \"b\" or \"c\": there are no rules for fifos";
        return Err(value(field("type"), "p", expected));
    }
    for (name, number, max) in [
        ("major", rule.major(), MAX_MAJOR),
        ("minor", rule.minor(), MAX_MINOR),
    ] {
        if number.is_some_and(|number| !(-1..=max).contains(&number)) {
            let expected = format!("must be 0 to {max}, or -1 for all");
            return Err(value(field(name), number, expected));
        }
    }
    let access = rule.access().as_deref().unwrap_or_default();
    match access.chars().all(|letter| "rwm".contains(letter)) && access.len() <= 3 {
        true => Ok(()),
        false => Err(value(
            field("access"),
            bounds::shortened(access),
            "must be of the letters r, w and m",
        )),
    }
}

fn validate_block_devices(resources: &LinuxResources) -> Result<(), Error> {
    let Some(io) = resources.block_io() else {
        return Ok(());
    };
    let weights = io.weight_device().as_deref().unwrap_or_default();
    bounds::list("linux.resources.blockIO.weightDevice", weights)?;
    let mut listed: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(index, device)| ("weightDevice", index, device.major(), device.minor()))
        .collect();
    for (name, throttled) in [
        ("throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ] {
        let throttled = throttled.as_deref().unwrap_or_default();
        bounds::list(&format!("linux.resources.blockIO.{name}"), throttled)?;
        let throttled = throttled.iter().enumerate();
        listed.extend(throttled.map(|(index, d)| (name, index, d.major(), d.minor())));
    }
    for (list, index, major, minor) in listed {
        for (name, number, max) in [("major", major, MAX_MAJOR), ("minor", minor, MAX_MINOR)] {
            if !(0..=max).contains(&number) {
                let field = format!("linux.resources.blockIO.{list}[{index}].{name}");
                return Err(value(field, number, format!("must be 0 to {max}")));
            }
        }
    }
    Ok(())
}
