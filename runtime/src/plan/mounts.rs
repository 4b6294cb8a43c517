//! A mount of the configuration as a step of the plan: its source is opened if it is the host's.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::Pid;
use oci_spec::runtime::Mount;

use super::id_maps::MountMaps;
use super::mount_options::{Options, is_bind, parse};
use super::{Context, Error, IdMap, MountSource, MountStep, c_string, inside, inside_c};
use crate::cgroup::Cgroup;
use crate::init::paths::{Kind, Links};
use crate::sys::mount::{MountAttr, attr, clone_mount, set_attributes};

/// What all mounts of a container have in common.
pub(super) struct Surroundings<'a> {
    pub(super) has_cgroup_namespace: bool,
    /// SELinux's, for the file systems that are made.
    pub(super) label: Option<&'a str>,
    pub(super) id_maps: MountMaps<'a>,
    pub(super) context: &'a Context<'a>,
}

/// Plans one mount.
pub(super) fn mount(mount: &Mount, around: &mut Surroundings) -> Result<MountStep, Error> {
    let context = around.context;
    let options = parse(mount);
    let fstype = mount.typ().as_deref().unwrap_or("none");
    let is_cgroup = matches!(fstype, "cgroup" | "cgroup2");
    let source = if is_bind(mount) {
        bind(mount, &options, context)?
    } else if is_cgroup && !around.has_cgroup_namespace {
        own_cgroup(&options, context)?
    } else {
        new(mount, fstype, &options, around.label)?
    };
    let destination = inside(mount.destination());
    let mut id_map = around.id_maps.of(mount, options.id_map)?;
    if let (MountSource::Bind { tree, .. }, Some(map)) = (&source, &id_map) {
        // Only root of the user namespace that the file system belongs to may do this: the host's.
        set_id_map(tree.as_fd(), map).map_err(|errno| {
            let doing = format!(
                "id-map the mount on {} (with EINVAL: its file system can't be id-mapped by this kernel)",
                mount.destination().display()
            );
            Error::new("mount_setattr", errno, doing)
        })?;
        id_map = None;
    }
    Ok(MountStep {
        target: inside_c(mount.destination())?,
        propagation: if options.recursive_propagation {
            0
        } else {
            options.propagation
        },
        recursive: MountAttr {
            propagation: if options.recursive_propagation {
                options.propagation
            } else {
                0
            },
            ..options.recursive
        },
        id_map,
        links: links(&destination, &options, &source),
        on_proc: may_stand_on_proc(&destination),
        source,
    })
}

/// Gives a detached mount its id map.
pub(crate) fn set_id_map(tree: BorrowedFd, map: &IdMap) -> nix::Result<()> {
    let attributes = MountAttr {
        set: attr::IDMAP,
        userns_fd: map.user_namespace.as_raw_fd() as u64,
        ..Default::default()
    };
    set_attributes(tree, &attributes, map.recursive)
}

fn links(destination: &Path, options: &Options, source: &MountSource) -> Links {
    let tops = ["proc", "sys", "dev"];
    // An image that has a link here would make us write, later, where the link points to.
    if tops.iter().any(|top| destination == Path::new(top)) {
        return Links::Refused;
    }
    let is_link = matches!(
        source,
        MountSource::Link { .. }
            | MountSource::Bind {
                kind: Kind::Link,
                ..
            }
    );
    match options.target_nofollow || is_link {
        true => Links::LastKept,
        false => Links::Inside,
    }
}

/// The files of procfs that programs such as lxcfs replace; nothing else may cover part of /proc,
/// because security decisions of processes rest on it (CVE-2019-16884, CVE-2019-19921).
pub(crate) fn may_stand_on_proc(destination: &Path) -> bool {
    const REPLACEABLE: [&str; 11] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    destination
        .strip_prefix("proc")
        .is_ok_and(|rest| REPLACEABLE.iter().any(|name| rest == Path::new(name)))
}

fn bind(mount: &Mount, options: &Options, context: &Context) -> Result<MountSource, Error> {
    let source = mount.source().clone().unwrap_or_default();
    let source = context.bundle.join(source);
    let doing = || {
        format!(
            "open {} to bind it on {}",
            source.display(),
            mount.destination().display()
        )
    };
    let failed = |call| move |errno| (call, errno);
    let open_source = || {
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        if options.source_nofollow || options.copy_symlink {
            flags |= OFlag::O_NOFOLLOW;
        }
        let file = open(&source, flags, Mode::empty()).map_err(failed("open"))?;
        let kind = kind_of(file.as_fd()).map_err(failed("fstatat"))?;
        if kind == Kind::Link && options.copy_symlink {
            let target = std::fs::read_link(&source)
                .ok()
                .and_then(|target| c_string(target.as_os_str().as_encoded_bytes()).ok());
            let target = target.ok_or(Errno::EINVAL).map_err(failed("readlink"))?;
            return Ok(MountSource::Link { target });
        }
        // "bind" without "rbind" leaves submounts behind; a type of bind alone means no more.
        let tree =
            clone_mount(file.as_fd(), c"", options.recursive_bind).map_err(failed("open_tree"))?;
        apply_to_bind(&tree, options).map_err(failed("mount_setattr"))?;
        Ok(MountSource::Bind { tree, kind })
    };
    open_source().map_err(|(call, errno)| Error::new(call, errno, doing()))
}

fn kind_of(file: BorrowedFd) -> nix::Result<Kind> {
    let stat = fstatat(file, c"", AtFlags::AT_EMPTY_PATH)?;
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Link,
        _ => Kind::File,
    })
}

/// The tree is detached yet, so nobody sees it without its flags.
fn apply_to_bind(tree: &OwnedFd, options: &Options) -> nix::Result<()> {
    // A clone is a peer of what it was cloned from. Unless sharing was asked for, it leaves the group:
    // else mounts would travel between host and container.
    let leave = match options.propagation {
        libc::MS_SHARED => 0,
        libc::MS_SLAVE => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    if leave != 0 {
        let attributes = MountAttr {
            propagation: leave,
            ..Default::default()
        };
        set_attributes(tree.as_fd(), &attributes, true)?;
    }
    if !options.own.is_empty() {
        set_attributes(tree.as_fd(), &options.own, false)?;
    }
    if options.recursive.set | options.recursive.clear != 0 {
        set_attributes(tree.as_fd(), &options.recursive, true)?;
    }
    Ok(())
}

/// Without a cgroup namespace a cgroup2 mount would show the host's whole tree (CVE-2023-25809): the
/// container gets the part that is its own. If it has none, it is in our cgroup, which it may look at.
fn own_cgroup(options: &Options, context: &Context) -> Result<MountSource, Error> {
    let failed = |call| move |errno| Error::new(call, errno, "bind the container's cgroup");
    let cloned = |cgroup| clone_mount(cgroup, c"", false).map_err(failed("open_tree"));
    let tree = match context.cgroup {
        Some(own) => cloned(own)?,
        None => {
            let ours = Cgroup::of(Pid::this());
            let ours = ours.map_err(|e| failed("open")(e.errno().unwrap_or(Errno::ENOENT)))?;
            cloned(ours.directory())?
        }
    };
    apply_to_bind(&tree, options).map_err(failed("mount_setattr"))?;
    if context.cgroup.is_none() {
        let readonly = MountAttr {
            set: attr::RDONLY,
            ..Default::default()
        };
        set_attributes(tree.as_fd(), &readonly, false).map_err(failed("mount_setattr"))?;
    }
    Ok(MountSource::Bind {
        tree,
        kind: Kind::Directory,
    })
}

pub(super) fn new(
    mount: &Mount,
    fstype: &str,
    options: &Options,
    label: Option<&str>,
) -> Result<MountSource, Error> {
    let fstype = if fstype == "cgroup" {
        "cgroup2"
    } else {
        fstype
    };
    let mut data = Vec::new();
    if let Some(source) = mount.source() {
        data.push((
            c"source".to_owned(),
            Some(c_string(source.as_os_str().as_encoded_bytes())?),
        ));
    }
    for (key, value) in &options.data {
        data.push(option(key, value.as_deref())?);
    }
    // These label their files themselves.
    let labels_itself = matches!(fstype, "proc" | "sysfs" | "cgroup2" | "mqueue");
    if let Some(label) = label.filter(|_| !labels_itself) {
        data.push(option("context", Some(label))?);
    }
    let has_mode = options.data.iter().any(|(key, _)| key == "mode");
    Ok(MountSource::New {
        inherit_mode: fstype == "tmpfs" && !has_mode,
        copy_up: options.copy_up,
        fstype: c_string(fstype)?,
        options: data,
        attributes: options.own.set,
    })
}

fn option(key: &str, value: Option<&str>) -> Result<(CString, Option<CString>), Error> {
    Ok((c_string(key)?, value.map(c_string).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_replaceable_files_of_proc_may_be_covered() {
        assert!(may_stand_on_proc(Path::new("proc/cpuinfo")));
        for path in [
            "proc",
            "proc/self/attr",
            "proc/sys",
            "proc/cpuinfo/x",
            "etc",
        ] {
            assert!(!may_stand_on_proc(Path::new(path)), "{path}");
        }
    }
}
