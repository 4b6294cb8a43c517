//! What is Linux's own: cgroup, devices, filter, and the rarer sections.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxIntelRdt};

use super::{Error, no_null_bytes, value};
use crate::cgroup::{Driver, Unit};
use crate::plan::inside;
use crate::{cgroup, scheduling};

/// The kernel's numbers: `MAJOR` and `MINOR` of include/linux/kdev_t.h have 12 and 20 bits.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

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
        match driver {
            Driver::Cgroupfs => validate_cgroups_path(path)?,
            // Of a container with a path, the id has no part in the name.
            Driver::Systemd => drop(Unit::of(Some(path), "")?),
        }
    }
    if let Some(resources) = linux.resources() {
        cgroup::check_limits(resources)?;
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        validate_device(index, device)?;
    }
    no_null_bytes("linux.maskedPaths", linux.masked_paths().iter().flatten())?;
    no_null_bytes(
        "linux.readonlyPaths",
        linux.readonly_paths().iter().flatten(),
    )?;
    validate_label(linux)?;
    validate_memory_policy(linux)?;
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

fn validate_device(index: usize, device: &LinuxDevice) -> Result<(), Error> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let path = device.path();
    if !path.is_absolute() || inside(path).as_os_str().is_empty() {
        return Err(value(
            field("path"),
            path,
            "must be an absolute path below the root",
        ));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(value(field("path"), path, "must have no null bytes"));
    }
    for (name, number, max) in [
        ("major", device.major(), MAX_MAJOR),
        ("minor", device.minor(), MAX_MINOR),
    ] {
        if !(0..=max).contains(&number) {
            return Err(value(field(name), number, format!("must be 0 to {max}")));
        }
    }
    Ok(())
}

/// The label becomes part of a mount option, in quotes.
fn validate_label(linux: &Linux) -> Result<(), Error> {
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

fn validate_memory_policy(linux: &Linux) -> Result<(), Error> {
    use oci_spec::runtime::MemoryPolicyModeType::{MpolDefault, MpolLocal};
    let Some(policy) = linux.memory_policy() else {
        return Ok(());
    };
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    let takes_nodes = !matches!(policy.mode(), MpolDefault | MpolLocal);
    if !nodes.is_empty() && scheduling::parse_list(nodes).is_none() {
        return Err(value(
            "linux.memoryPolicy.nodes",
            nodes,
            "must be a list of NUMA nodes such as \"0-1,3\"",
        ));
    }
    if !takes_nodes && !nodes.is_empty() {
        return Err(value(
            "linux.memoryPolicy.nodes",
            nodes,
            format!("must be empty for mode {}", policy.mode()),
        ));
    }
    Ok(())
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
    for line in lines.chain(old.into_iter().flatten()) {
        if line.is_empty() || line.contains(['\n', '\0']) {
            return Err(value(
                "linux.intelRdt",
                line,
                "must be a line of a schemata file",
            ));
        }
    }
    Ok(())
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
