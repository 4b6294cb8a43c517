//! What is Linux's own: cgroup, devices, filter, and the rarer sections.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxIntelRdt};

use super::{Error, bounds, memory_policy, resources, value};
use crate::cgroup;
use crate::cgroup::{Driver, Unit};
use crate::plan::inside;

/// The kernel's numbers: `MAJOR` and `MINOR` of include/linux/kdev_t.h have 12 and 20 bits.
pub(super) const MAX_MAJOR: i64 = (1 << 12) - 1;
pub(super) const MAX_MINOR: i64 = (1 << 20) - 1;

const PROPAGATIONS: [&str; 8] = [
    "shared",
    "slave",
    "private",
    "unbindable",
    "rshared",
    "rslave",
    "rprivate",
    "runbindable",
];

pub(super) fn validate(linux: &Linux, driver: Driver) -> Result<(), Error> {
    if let Some(name) = linux
        .rootfs_propagation()
        .as_deref()
        .filter(|name| !name.is_empty())
        && !PROPAGATIONS.contains(&name)
    {
        return Err(value(
            "linux.rootfsPropagation",
            name,
            format!("must be one of {PROPAGATIONS:?}"),
        ));
    }
    if let Some(path) = linux.cgroups_path() {
        // It is noted beside the container's mark, in the text of a link.
        bounds::text("linux.cgroupsPath", &path.to_string_lossy(), 3500)?;
        bounds::path("linux.cgroupsPath", path)?;
        match driver {
            Driver::Cgroupfs => validate_cgroups_path(path)?,
            // Of a container with a path, the id has no part in the name.
            Driver::Systemd => drop(Unit::of(Some(path), "")?),
            Driver::Disabled => {}
        }
    }
    if let Some(resources) = linux.resources() {
        resources::validate(resources)?;
        cgroup::check_limits(resources)?;
    }
    validate_devices(linux.devices().as_deref().unwrap_or_default())?;
    validate_paths("linux.maskedPaths", linux.masked_paths())?;
    validate_paths("linux.readonlyPaths", linux.readonly_paths())?;
    if let Some(filter) = linux.seccomp() {
        let rules = filter.syscalls().as_deref().unwrap_or_default();
        bounds::list("linux.seccomp.syscalls", rules)?;
    }
    validate_label(linux)?;
    let policy = linux.memory_policy().as_ref();
    policy.map_or(Ok(()), memory_policy::validate)?;
    linux.intel_rdt().as_ref().map_or(Ok(()), validate_rdt)?;
    validate_personality(linux)
}

fn validate_cgroups_path(path: &Path) -> Result<(), Error> {
    let text = path.to_string_lossy();
    let is_systemd = text.matches(':').count() == 2 && !text.starts_with('/');
    if is_systemd {
        let expected = "is in systemd's form, and the cgroupfs driver takes a path: give one, or use \
                        the systemd driver (--systemd-cgroup)";
        return Err(value("linux.cgroupsPath", path, expected));
    }
    let goes_up = path
        .components()
        .any(|c| c == std::path::Component::ParentDir);
    if goes_up || inside(path).as_os_str().is_empty() {
        return Err(value(
            "linux.cgroupsPath",
            path,
            "must be a path below the root, without \"..\"",
        ));
    }
    Ok(())
}

/// An empty one would be the root itself.
fn validate_paths(field: &str, paths: &Option<Vec<String>>) -> Result<(), Error> {
    let paths = paths.as_deref().unwrap_or_default();
    bounds::list(field, paths)?;
    for (index, path) in paths.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let path = Path::new(path);
        bounds::path(&field, path)?;
        if !path.is_absolute() || inside(path).as_os_str().is_empty() {
            return Err(value(
                field,
                path,
                "must be an absolute path below the root",
            ));
        }
    }
    Ok(())
}

fn validate_devices(devices: &[LinuxDevice]) -> Result<(), Error> {
    bounds::list("linux.devices", devices)?;
    let mut seen = HashSet::new();
    for (index, device) in devices.iter().enumerate() {
        validate_device(index, device)?;
        if !seen.insert(inside(device.path())) {
            let field = format!("linux.devices[{index}].path");
            return Err(value(field, device.path(), "must not be listed twice"));
        }
    }
    Ok(())
}

fn validate_device(index: usize, device: &LinuxDevice) -> Result<(), Error> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let path = device.path();
    bounds::path(&field("path"), path)?;
    if !path.is_absolute() || inside(path).as_os_str().is_empty() {
        return Err(value(
            field("path"),
            path,
            "must be an absolute path below the root",
        ));
    }
    if device.typ() == LinuxDeviceType::A {
        return Err(value(field("type"), "a", "must be b, c, u or p"));
    }
    for (name, number, max) in [
        ("major", device.major(), MAX_MAJOR),
        ("minor", device.minor(), MAX_MINOR),
    ] {
        if !(0..=max).contains(&number) {
            return Err(value(field(name), number, format!("must be 0 to {max}")));
        }
    }
    // Engines leave the type in it.
    const MODE: u32 = libc::S_IFMT | 0o7777;
    if device.file_mode().is_some_and(|mode| mode & !MODE != 0) {
        let expected = "must be a file's mode, at most 61439 (0167777)";
        return Err(value(field("fileMode"), device.file_mode(), expected));
    }
    for (name, id) in [("uid", device.uid()), ("gid", device.gid())] {
        if id == Some(u32::MAX) {
            return Err(value(field(name), id, "is no id: they end at 4294967294"));
        }
    }
    Ok(())
}

/// The label becomes part of a mount option, in quotes.
fn validate_label(linux: &Linux) -> Result<(), Error> {
    let label = linux.mount_label().as_deref().unwrap_or_default();
    // With the option's name and its quotes it is one of fsconfig's strings.
    bounds::text("linux.mountLabel", label, 253)?;
    match linux
        .mount_label()
        .as_deref()
        .filter(|label| label.contains(['"', '\0', '\n']))
    {
        Some(label) => Err(value(
            "linux.mountLabel",
            label,
            "must be an SELinux context, without quotes or control characters",
        )),
        None => Ok(()),
    }
}

/// Names a directory of resctrl.
fn validate_rdt(rdt: &LinuxIntelRdt) -> Result<(), Error> {
    let id = rdt.clos_id().as_deref().unwrap_or_default();
    if id == "." || id == ".." || id.contains(['/', '\0', '\n']) {
        return Err(value(
            "linux.intelRdt.closID",
            id,
            "must be a name without slashes",
        ));
    }
    let lines = rdt.schemata().iter().flatten();
    let old = [rdt.l3_cache_schema(), rdt.mem_bw_schema()];
    validate_schemata(lines.chain(old.into_iter().flatten()).map(String::as_str))
}

/// Lines that are written to a file of resctrl, each as it is.
pub(crate) fn validate_schemata<'a>(mut lines: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    lines.try_for_each(|line| {
        if line.is_empty() || line.contains(['\n', '\0']) {
            return Err(value(
                "linux.intelRdt",
                line,
                "must be a line of a schemata file",
            ));
        }
        Ok(())
    })
}

fn validate_personality(linux: &Linux) -> Result<(), Error> {
    let flags = linux
        .personality()
        .as_ref()
        .and_then(|personality| personality.flags().as_deref())
        .unwrap_or_default();
    match flags.is_empty() {
        true => Ok(()),
        false => Err(value(
            "linux.personality.flags",
            flags,
            "must be empty: the specification has none yet",
        )),
    }
}
