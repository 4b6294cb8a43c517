//! Which namespaces are made by the clone, and which are joined by whom.

use std::ffi::CString;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use super::{Error, Groups, IdMaps, Join, Namespaces, c_string};
use crate::sys::mount::filesystem_type;

/// The library has no name for this flag, which only clone3(2), unshare(2) and setns(2) take.
pub(crate) const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Plans them; `is_nested` tells that we aren't in the host's user namespace.
pub(super) fn namespaces(spec: &Spec, is_nested: bool) -> Result<Namespaces, Error> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_deref());
    let listed = listed.unwrap_or_default();
    let new = listed.iter().filter(|ns| path_of(ns).is_none());
    let new = new.fold(CloneFlags::empty(), |all, ns| all | flag(ns.typ()));
    let joins = joins(listed)?;
    let joined = joins
        .iter()
        .fold(CloneFlags::empty(), |all, join| all | join.flags);
    let time_offsets = match new.contains(NEWTIME) {
        true => time_offsets(spec)?,
        false => None,
    };
    // One with offsets is made by the helper.
    let create = match time_offsets {
        Some(_) => new - NEWTIME,
        None => new,
    };
    let new_user = new.contains(CloneFlags::CLONE_NEWUSER);
    // In a new user namespace the child would have no right to join the host's namespaces.
    let helper_is_needed =
        new_user || joined.intersects(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID);
    // A cgroup namespace bounds where a process can be cloned to, so it is joined after the clone.
    let (helper_joins, joins) = joins
        .into_iter()
        .partition(|join| helper_is_needed && join.flags != CloneFlags::CLONE_NEWCGROUP);
    Ok(Namespaces {
        create: create - CloneFlags::CLONE_NEWCGROUP,
        new_cgroup: new.contains(CloneFlags::CLONE_NEWCGROUP),
        helper_joins,
        joins,
        new_user: new_user.then_some(match is_nested {
            true => IdMaps::WrittenByAnOrdinaryUser,
            false => IdMaps::WrittenByRoot,
        }),
        time_offsets,
        become_root: new_user || joined.contains(CloneFlags::CLONE_NEWUSER),
        groups: Groups::of_ours(is_nested),
        new_network: new.contains(CloneFlags::CLONE_NEWNET),
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
    })
}

/// Those that are there already, in the order in which they are joined.
fn joins(listed: &[LinuxNamespace]) -> Result<Vec<Join>, Error> {
    let joined = listed
        .iter()
        .filter_map(|namespace| Some((namespace.typ(), path_of(namespace)?)));
    let mut joins = joined
        .map(|(kind, path)| join(kind, path))
        .collect::<Result<Vec<_>, _>>()?;
    // The user namespace first: it is what gives the right to join those it owns. The mount namespace
    // last: in it the others' files may not be there.
    joins.sort_by_key(|join| match join.flags {
        CloneFlags::CLONE_NEWUSER => 0,
        CloneFlags::CLONE_NEWNS => 2,
        _ => 1,
    });
    Ok(joins)
}

/// The offsets in the form that the kernel takes (time_namespaces(7)).
pub(super) fn time_offsets(spec: &Spec) -> Result<Option<CString>, Error> {
    let linux = spec.linux().as_ref();
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let lines = offsets.into_iter().flatten().map(|(clock, offset)| {
        let (seconds, nanoseconds) = (offset.secs(), offset.nanosecs());
        let (seconds, nanoseconds) = (seconds.unwrap_or(0), nanoseconds.unwrap_or(0));
        format!("{clock} {seconds} {nanoseconds}\n")
    });
    let text: String = lines.collect();
    match text.is_empty() {
        true => Ok(None),
        false => c_string(text).map(Some),
    }
}

/// Does something within the mount namespace at `path`, where the container's root and the sources of
/// its mounts are to be found; without one, right here.
pub(crate) fn within_mount_namespace<T: Send>(
    path: Option<&Path>,
    act: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let Some(path) = path else {
        return act();
    };
    let namespace = join(LinuxNamespaceType::Mount, path)?;
    refuse_own(&namespace)?;
    let doing = || format!("enter the mount namespace at {}", path.display());
    let enter_and_act = || {
        // A thread that shares its root and working directory with others can't leave them behind.
        unshare(CloneFlags::CLONE_FS).map_err(|errno| Error::new("unshare", errno, doing()))?;
        setns(&namespace.fd, CloneFlags::CLONE_NEWNS)
            .map_err(|errno| Error::new("setns", errno, doing()))?;
        act()
    };
    std::thread::scope(|scope| match scope.spawn(enter_and_act).join() {
        Ok(result) => result,
        Err(_) => Err(Error::new("thread", Errno::EINTR, doing())),
    })
}

/// The container's root takes the place of the root of its mount namespace: that must not be ours.
fn refuse_own(namespace: &Join) -> Result<(), Error> {
    let doing = || {
        format!(
            "join the mount namespace at {}: it is the runtime's own, whose root would be replaced",
            namespace.path.display()
        )
    };
    let identity = |stat: FileStat| (stat.st_dev, stat.st_ino);
    let theirs = fstat(&namespace.fd).map_err(|errno| Error::new("fstat", errno, doing()))?;
    let ours = stat("/proc/self/ns/mnt").map_err(|errno| Error::new("stat", errno, doing()))?;
    match identity(theirs) == identity(ours) {
        true => Err(Error::new("setns", Errno::EINVAL, doing())),
        false => Ok(()),
    }
}

/// The path of a namespace to join; a new one has none.
pub(crate) fn path_of(namespace: &LinuxNamespace) -> Option<&Path> {
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
        LinuxNamespaceType::Time => NEWTIME,
    }
}
