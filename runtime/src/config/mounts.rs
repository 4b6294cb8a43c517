//! Mounts: where they may stand, and whether their options mean something.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};

use super::{Error, bounds, value};
use crate::plan::{self, check_mount, inside};

pub(super) fn validate(spec: &Spec) -> Result<(), Error> {
    bounds::list("mounts", spec.mounts().as_deref().unwrap_or_default())?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        validate_mount(index, mount)?;
        validate_id_maps(index, mount, spec)?;
    }
    Ok(())
}

fn validate_mount(index: usize, mount: &Mount) -> Result<(), Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    bounds::path(&field("destination"), mount.destination())?;
    let destination = inside(mount.destination());
    if destination.as_os_str().is_empty() {
        return Err(value(
            field("destination"),
            mount.destination(),
            "must be below the root",
        ));
    }
    let is_proc = mount.typ().as_deref() == Some("proc");
    let covers_proc = destination.starts_with("proc");
    let is_whole = destination == Path::new("proc");
    if covers_proc && !(is_whole && is_proc) && !plan::may_stand_on_proc(&destination) {
        return Err(value(
            field("destination"),
            mount.destination(),
            "must not cover /proc or part of it, except /proc by a mount of type proc, and files such \
             as /proc/cpuinfo",
        ));
    }
    validate_texts(index, mount)?;
    check_mount(mount).map_err(|reason| {
        value(
            field("options"),
            mount.options().as_deref().unwrap_or_default(),
            format!("are wrong: {reason}"),
        )
    })
}

/// What fsconfig(2) takes of an option's name, its value, or a source that isn't a path, without the null
/// byte.
const LONGEST_OPTION: usize = 255;

fn validate_texts(index: usize, mount: &Mount) -> Result<(), Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let is_bind = plan::is_bind(mount);
    if let Some(source) = mount.source() {
        match is_bind {
            true => bounds::path(&field("source"), source)?,
            false => bounds::text(&field("source"), &source.to_string_lossy(), LONGEST_OPTION)?,
        }
    }
    match mount.typ().as_deref().unwrap_or_default() {
        "" if !is_bind => {
            let expected = "must be a file system's, but for a bind mount";
            return Err(value(field("type"), mount.typ(), expected));
        }
        given => bounds::text(&field("type"), given, LONGEST_OPTION)?,
    }
    let options = mount.options().as_deref().unwrap_or_default();
    bounds::list(&field("options"), options)?;
    for option in options {
        let (name, given) = option.split_once('=').unwrap_or((option, ""));
        bounds::text(&field("options"), name, LONGEST_OPTION)?;
        bounds::text(&field("options"), given, LONGEST_OPTION)?;
    }
    Ok(())
}

/// An id-mapped mount has a map of its own or, by the option alone, the container's.
fn validate_id_maps(index: usize, mount: &Mount, spec: &Spec) -> Result<(), Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let given = |map: &Option<Vec<LinuxIdMapping>>| map.as_ref().is_some_and(|map| !map.is_empty());
    let (uids, gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
    if uids != gids {
        return Err(value(
            field("uidMappings"),
            mount.uid_mappings(),
            "and gidMappings must both be given, or neither",
        ));
    }
    for (name, map) in [
        ("uidMappings", mount.uid_mappings()),
        ("gidMappings", mount.gid_mappings()),
    ] {
        super::namespaces::check_map(&field(name), map.as_deref().unwrap_or_default())?;
    }
    let has_user_namespace = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref())
        .is_some_and(|all| all.iter().any(|ns| ns.typ() == LinuxNamespaceType::User));
    if plan::id_map_option(mount).is_some() && !uids && !has_user_namespace {
        return Err(value(
            field("options"),
            mount.options(),
            "have idmap, which without uidMappings and gidMappings takes the map of the container's \
             user namespace: it has none",
        ));
    }
    Ok(())
}
