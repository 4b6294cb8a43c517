//! An ordinary user's way to the rights that making a container takes.
//!
//! Mounts and most else of a container take rights over the namespaces in which they are made. An ordinary
//! user has none over the host's, and all over those below a user namespace of its own. So a program that
//! makes processes in containers enters one first, with a mount namespace that belongs to it, and from
//! there does as root does on the host. Every id that the container will have means itself there: the
//! container's own user namespace lies below, with the maps of its configuration as they stand.
//!
//! Whoever enters a container later finds that namespace as the parent of the container's.

use std::os::fd::OwnedFd;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getegid, geteuid};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Spec};

use crate::binary::protect_own_binary;
use crate::child_files::{deny_setgroups, ids, write_id_maps};
use crate::error::Error;
use crate::sys::credentials;
use crate::{config, plan, user_namespace};

/// Whether this process lacks the rights to make containers, and isn't root: then [`enter`] or
/// [`enter_beside`] gives them.
pub fn is_needed() -> bool {
    let administers = |permitted| permitted & credentials::CAP_SYS_ADMIN != 0;
    !geteuid().is_root() && !credentials::permitted().is_ok_and(administers)
}

/// Whether this process is root of the host, not of a user namespace that some user has made.
pub fn is_root_of_the_host() -> bool {
    geteuid().is_root() && user_namespace::is_initial()
}

/// Enters a user namespace in which the container of this configuration can be made.
///
/// Unless this program is on a read-only file system, it is executed again with the same arguments, so
/// whatever was done before is to be done again: this belongs at the beginning. Where the container has
/// other ids than the user's own two, newuidmap(1) and newgidmap(1) are asked for them.
pub fn enter(spec: &Spec) -> Result<(), Error> {
    let linux = spec.linux().as_ref().ok_or_else(config::Error::no_linux)?;
    let mut listed = linux.namespaces().iter().flatten();
    let user = listed.find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    match user.map(plan::path_of) {
        Some(None) => {}
        None => {
            return Err(refused(
                linux,
                "must have one of type user: an ordinary user makes containers only \
             there; `berth-runtime spec --rootless` writes such a configuration",
            ));
        }
        Some(Some(_)) => {
            return Err(refused(
                linux,
                "must have no path for the one of type user: an ordinary user \
             makes a container's user namespace together with the container",
            ));
        }
    }
    let uids = meaning_themselves(linux.uid_mappings(), geteuid().as_raw());
    let gids = meaning_themselves(linux.gid_mappings(), getegid().as_raw());
    take_rights(&user_namespace::make(|pid| write_maps(pid, &uids, &gids))?)
}

/// Enters the user namespace in which the container of this process was made. This program is executed
/// again, as by [`enter`].
pub fn enter_beside(pid: Pid) -> Result<(), Error> {
    let doing =
        || format!("enter the user namespace in which the container of process {pid} was made");
    let path = format!("/proc/{pid}/ns/user");
    let namespace = open(
        path.as_str(),
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| Error::system("open", errno, doing()))?;
    let parent = user_namespace::parent(&namespace)
        .map_err(|errno| Error::system("ioctl(NS_GET_PARENT)", errno, doing()))?;
    take_rights(&parent)
}

fn refused(linux: &Linux, expected: &str) -> Error {
    let listed = linux.namespaces().iter().flatten();
    let kinds: Vec<String> = listed
        .map(|namespace| namespace.typ().to_string())
        .collect();
    config::Error::Value {
        field: "linux.namespaces".to_owned(),
        value: format!("{kinds:?}"),
        expected: expected.to_owned(),
    }
    .into()
}

/// The maps' ids of the host, each meaning itself, and the user's own.
fn meaning_themselves(maps: &Option<Vec<LinuxIdMapping>>, own: u32) -> Vec<LinuxIdMapping> {
    let mut ids: Vec<(u32, u32)> = maps
        .iter()
        .flatten()
        .map(|map| (map.host_id(), map.size()))
        .collect();
    let has = |(first, size): &(u32, u32)| own.checked_sub(*first).is_some_and(|at| at < *size);
    if !ids.iter().any(has) {
        ids.push((own, 1));
    }
    let mapping = |(first, size): (u32, u32)| {
        let mapping = LinuxIdMappingBuilder::default();
        // Only a field that is missing could make this fail.
        mapping
            .container_id(first)
            .host_id(first)
            .size(size)
            .build()
            .ok()
    };
    ids.into_iter().filter_map(mapping).collect()
}

/// One's own two ids may be mapped by oneself, if groups can't be left by it; all others by programs that
/// ask /etc/subuid and /etc/subgid.
fn write_maps(pid: Pid, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), Error> {
    let is_own = |maps: &[LinuxIdMapping]| matches!(maps, [map] if map.size() == 1);
    if is_own(uids) && is_own(gids) {
        deny_setgroups(pid)?;
        return write_id_maps(pid, uids, gids);
    }
    map_by("newuidmap", "linux.uidMappings", "/etc/subuid", pid, uids)?;
    map_by("newgidmap", "linux.gidMappings", "/etc/subgid", pid, gids)
}

fn map_by(
    program: &'static str,
    field: &'static str,
    file: &'static str,
    pid: Pid,
    maps: &[LinuxIdMapping],
) -> Result<(), Error> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for map in maps {
        let numbers = [map.container_id(), map.host_id(), map.size()];
        command.args(numbers.map(|number| number.to_string()));
    }
    let failed = |reason: String| Error::IdMap {
        field,
        ids: ids(maps),
        reason,
    };
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let reason = format!("{program} isn't installed (Debian's package uidmap)");
            return Err(failed(reason));
        }
        output => output.map_err(|error| failed(format!("run {program}: {error}")))?,
    };
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!(
                "{} ({file} says which ids are this user's)",
                said.trim()
            )))
        }
    }
}

fn take_rights(namespace: &OwnedFd) -> Result<(), Error> {
    let failed = |call| {
        move |errno: Errno| Error::system(call, errno, "enter a user namespace as an ordinary user")
    };
    user_namespace::join(namespace).map_err(failed("setns"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("unshare"))?;
    // Executing takes rights from whoever isn't root, but for these.
    credentials::keep_through_exec().map_err(failed("capset"))?;
    protect_own_binary()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_host_mean_themselves_and_the_users_own_is_among_them() {
        let map = |json: &str| Some(serde_json::from_str::<Vec<LinuxIdMapping>>(json).unwrap());
        let numbers = |maps: Vec<LinuxIdMapping>| {
            let triple = |m: &LinuxIdMapping| (m.container_id(), m.host_id(), m.size());
            maps.iter().map(triple).collect::<Vec<_>>()
        };
        let one = map(r#"[{"containerID": 0, "hostID": 1000, "size": 1}]"#);
        assert_eq!(numbers(meaning_themselves(&one, 1000)), [(1000, 1000, 1)]);
        let many = map(r#"[{"containerID": 0, "hostID": 1000, "size": 1},
                {"containerID": 1, "hostID": 100000, "size": 65536}]"#);
        let want = [(1000, 1000, 1), (100_000, 100_000, 65536)];
        assert_eq!(numbers(meaning_themselves(&many, 1000)), want);
        let others = map(r#"[{"containerID": 0, "hostID": 100000, "size": 65536}]"#);
        let want = [(100_000, 100_000, 65536), (1000, 1000, 1)];
        assert_eq!(numbers(meaning_themselves(&others, 1000)), want);
    }
}
