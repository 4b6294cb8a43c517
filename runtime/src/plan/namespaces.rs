//! Which namespaces are made by the clone, and which are joined by whom.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use super::{Error, Join, Namespaces};
use crate::sys::mount::filesystem_type;

const NSFS_MAGIC: i64 = 0x6e73_6673;

pub(super) fn namespaces(spec: &Spec) -> Result<Namespaces, Error> {
    let listed = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref());
    let listed = listed.unwrap_or_default();
    let is_new = |kind| {
        listed
            .iter()
            .any(|ns| ns.typ() == kind && path_of(ns).is_none())
    };
    let mut create = CloneFlags::empty();
    let mut joins = Vec::new();
    for namespace in listed {
        match path_of(namespace) {
            Some(path) => joins.push(join(namespace.typ(), path)?),
            None => create |= flag(namespace.typ()),
        }
    }
    // The user namespace first: it is what gives the right to join those it owns.
    joins.sort_by_key(|join| join.flags != CloneFlags::CLONE_NEWUSER);
    let joined = joins
        .iter()
        .fold(CloneFlags::empty(), |all, join| all | join.flags);
    let new_user = is_new(LinuxNamespaceType::User);
    // In a new user namespace the child would have no right to join the host's namespaces.
    let helper_is_needed =
        new_user || joined.intersects(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID);
    // A cgroup namespace bounds where a process can be cloned to, so it is joined after the clone.
    let (helper_joins, joins) = joins
        .into_iter()
        .partition(|join| helper_is_needed && join.flags != CloneFlags::CLONE_NEWCGROUP);
    Ok(Namespaces {
        create: create - CloneFlags::CLONE_NEWCGROUP,
        new_cgroup: is_new(LinuxNamespaceType::Cgroup),
        helper_joins,
        joins,
        new_user,
        become_root: new_user || joined.contains(CloneFlags::CLONE_NEWUSER),
        new_network: is_new(LinuxNamespaceType::Network),
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
    })
}

pub(super) fn path_of(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace
        .path()
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
}

fn join(kind: LinuxNamespaceType, path: &Path) -> Result<Join, Error> {
    let doing = || format!("open the {kind} namespace at {}", path.display());
    let fd = open(
        path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    )
    .map_err(|errno| Error::new("open", errno, doing()))?;
    match filesystem_type(&fd) {
        Ok(NSFS_MAGIC) => Ok(Join {
            fd,
            flags: flag(kind),
            path: path.to_owned(),
        }),
        Ok(_) => Err(Error::new(
            "fstatfs (not a namespace file)",
            Errno::EINVAL,
            doing(),
        )),
        Err(errno) => Err(Error::new("fstatfs", errno, doing())),
    }
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        // Refused by validation.
        LinuxNamespaceType::Time => CloneFlags::empty(),
    }
}
