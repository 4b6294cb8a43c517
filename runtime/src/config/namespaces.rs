//! Namespaces, and what belongs to one of them: id maps, time offsets, kernel parameters, names,
//! network devices.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Spec};

use super::{Error, bounds, value};
use crate::plan;

pub(super) fn validate(spec: &Spec, linux: &Linux) -> Result<(), Error> {
    let listed = Listed(linux.namespaces().as_deref().unwrap_or_default());
    validate_list(listed)?;
    validate_id_maps(linux, listed)?;
    validate_time_offsets(linux, listed)?;
    validate_sysctls(linux, listed)?;
    validate_names(spec, listed)?;
    validate_network_devices(linux, listed)
}

/// Whether a container gets a new namespace of this kind, rather than none or one by path.
pub fn makes_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    Listed(linux.namespaces().as_deref().unwrap_or_default()).has_new(kind)
}

/// The configuration's list of namespaces.
#[derive(Clone, Copy)]
struct Listed<'a>(&'a [LinuxNamespace]);

impl Listed<'_> {
    fn has(self, kind: LinuxNamespaceType) -> bool {
        self.0.iter().any(|namespace| namespace.typ() == kind)
    }

    fn has_new(self, kind: LinuxNamespaceType) -> bool {
        let mut all = self.0.iter();
        all.any(|namespace| namespace.typ() == kind && plan::path_of(namespace).is_none())
    }
}

fn validate_list(listed: Listed) -> Result<(), Error> {
    for (index, namespace) in listed.0.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let mut earlier = listed.0.iter().take(index);
        if earlier.any(|other| other.typ() == namespace.typ()) {
            return Err(value(field, namespace.typ(), "must not be listed twice"));
        }
        if let Some(path) = plan::path_of(namespace) {
            let field = format!("{field}.path");
            bounds::path(&field, path)?;
            if !path.is_absolute() {
                return Err(value(field, path, "must be an absolute path"));
            }
        }
    }
    match listed.has(LinuxNamespaceType::Mount) {
        true => Ok(()),
        false => Err(value(
            "linux.namespaces",
            "",
            "must have one of type mount: in the host's, the container's mounts would be the host's",
        )),
    }
}

fn validate_id_maps(linux: &Linux, listed: Listed) -> Result<(), Error> {
    let new_user = listed.has_new(LinuxNamespaceType::User);
    for (field, maps) in [
        ("linux.uidMappings", linux.uid_mappings()),
        ("linux.gidMappings", linux.gid_mappings()),
    ] {
        let maps = maps.as_deref().unwrap_or_default();
        check_map(field, maps)?;
        let maps_root = maps
            .iter()
            .any(|map| map.container_id() == 0 && map.size() > 0);
        if new_user && !maps_root {
            return Err(value(
                field,
                maps.len(),
                "mappings: a new user namespace needs one of id 0",
            ));
        }
        if !maps.is_empty() && !listed.has(LinuxNamespaceType::User) {
            return Err(value(
                field,
                maps.len(),
                "mappings: need a namespace of type user",
            ));
        }
    }
    Ok(())
}

/// The kernel's rules for a map (user_namespaces(7)), which it would answer with a bare EINVAL.
pub(super) fn check_map(field: &str, maps: &[LinuxIdMapping]) -> Result<(), Error> {
    const MAX_LINES: usize = 340;
    if maps.len() > MAX_LINES {
        return Err(value(
            field,
            maps.len(),
            format!("mappings: the kernel takes {MAX_LINES}"),
        ));
    }
    for (index, map) in maps.iter().enumerate() {
        let ends = [map.container_id(), map.host_id()].map(|id| id.checked_add(map.size()));
        if map.size() == 0 || ends.contains(&None) {
            return Err(value(
                format!("{field}[{index}].size"),
                map.size(),
                "must be at least 1, and must not lead past the last id",
            ));
        }
        let earlier = maps.get(..index).unwrap_or_default();
        check_overlap(&format!("{field}[{index}]"), map, earlier)?;
    }
    Ok(())
}

/// No id may have two meanings, on either side.
fn check_overlap(
    field: &str,
    map: &LinuxIdMapping,
    earlier: &[LinuxIdMapping],
) -> Result<(), Error> {
    type Side = fn(&LinuxIdMapping) -> u32;
    let sides: [(&str, Side); 2] = [
        ("containerID", |map| map.container_id()),
        ("hostID", |map| map.host_id()),
    ];
    for (name, first) in sides {
        // The ends have been found to be ids.
        let end = |map: &LinuxIdMapping| first(map).saturating_add(map.size());
        let overlaps = |other: &LinuxIdMapping| first(map) < end(other) && first(other) < end(map);
        if earlier.iter().any(overlaps) {
            let ids = first(map)..end(map);
            let field = format!("{field}.{name}");
            return Err(value(field, ids, "must not overlap with another mapping"));
        }
    }
    Ok(())
}

fn validate_time_offsets(linux: &Linux, listed: Listed) -> Result<(), Error> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("linux.timeOffsets.{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(value(
                "linux.timeOffsets",
                clock,
                "must be \"monotonic\" or \"boottime\"",
            ));
        }
        // Half of what the kernel's clocks hold (`KTIME_SEC_MAX`): time goes on.
        const MOST: i64 = 9_223_372_036 / 2;
        if offset
            .secs()
            .is_some_and(|secs| !(-MOST..=MOST).contains(&secs))
        {
            let expected = format!("must be -{MOST} to {MOST}");
            return Err(value(format!("{field}.secs"), offset.secs(), expected));
        }
        if offset
            .nanosecs()
            .is_some_and(|nanosecs| nanosecs > 999_999_999)
        {
            return Err(value(
                format!("{field}.nanosecs"),
                offset.nanosecs(),
                "must be less than a second",
            ));
        }
        if !listed.has_new(LinuxNamespaceType::Time) {
            return Err(value(
                field,
                offset.secs(),
                "needs a new namespace of type time",
            ));
        }
    }
    Ok(())
}

/// A sysctl that isn't of a namespace of the container would change the host's.
fn validate_sysctls(linux: &Linux, listed: Listed) -> Result<(), Error> {
    for (name, text) in linux.sysctl().iter().flatten() {
        bounds::path("linux.sysctl", name.as_ref())?;
        bounds::short_text(&format!("linux.sysctl[{name:?}]"), text)?;
        let path = plan::sysctl_path(name);
        let needs = match path.as_str() {
            path if path.split('/').any(|part| part.is_empty() || part == "..") => None,
            path if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
            "kernel/domainname" | "kernel/hostname" => Some(LinuxNamespaceType::Uts),
            path if path.starts_with("fs/mqueue/") || is_ipc_sysctl(path) => {
                Some(LinuxNamespaceType::Ipc)
            }
            path if path.starts_with("user/") => Some(LinuxNamespaceType::User),
            _ => None,
        };
        match needs {
            Some(kind) if listed.has(kind) => {}
            Some(kind) => {
                return Err(value(
                    "linux.sysctl",
                    bounds::shortened(name),
                    format!("needs a namespace of type {kind}"),
                ));
            }
            None => {
                return Err(value(
                    "linux.sysctl",
                    name,
                    "is not a parameter of any namespace",
                ));
            }
        }
    }
    Ok(())
}

fn is_ipc_sysctl(path: &str) -> bool {
    let names = [
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    ];
    path.strip_prefix("kernel/")
        .is_some_and(|name| names.contains(&name))
}

fn validate_names(spec: &Spec, listed: Listed) -> Result<(), Error> {
    for (field, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        match name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) if !listed.has(LinuxNamespaceType::Uts) => {
                return Err(value(
                    field,
                    name,
                    "needs a namespace of type uts, or it would be the host's",
                ));
            }
            Some(name) if name.len() > 64 || name.contains('\0') => {
                let name = bounds::shortened(name);
                return Err(value(
                    field,
                    name,
                    "must be at most 64 bytes, none of them null",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Network devices move into the container's network namespace, under a name that the kernel takes
/// (`dev_valid_name` of net/core/dev.c).
fn validate_network_devices(linux: &Linux, listed: Listed) -> Result<(), Error> {
    let is_name = |name: &str| {
        let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
        (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.contains(bad)
    };
    let mut inside: Vec<&str> = Vec::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let new_name = device.name().as_deref().filter(|name| !name.is_empty());
        for name in [Some(name.as_str()), new_name].into_iter().flatten() {
            if !is_name(name) {
                return Err(value(
                    "linux.netDevices",
                    name,
                    "must be an interface's name of 1 to 15 bytes",
                ));
            }
        }
        let name_inside = new_name.unwrap_or(name);
        if inside.contains(&name_inside) {
            return Err(value(
                "linux.netDevices",
                name_inside,
                "must not be the name of two devices",
            ));
        }
        inside.push(name_inside);
    }
    if !inside.is_empty() && !listed.has(LinuxNamespaceType::Network) {
        return Err(value(
            "linux.netDevices",
            inside,
            "need a namespace of type network to move to",
        ));
    }
    Ok(())
}
