//! A mount of the configuration: its options parsed, and its source opened if it is the host's.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use oci_spec::runtime::Mount;

use super::{Context, Error, MountSource, MountStep, c_string, inside, inside_c};
use crate::sys::mount::{MountAttr, attr, clone_mount, set_attributes};

/// The options that are understood; the rest are the filesystem's.
pub(crate) const MOUNT_OPTIONS: [&str; 46] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "unbindable",
];

/// Options, sorted by what they act on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    bind: bool,
    recursive_bind: bool,
    /// For the mount itself.
    own: MountAttr,
    /// For it and all below it: the options that begin with `r`.
    recursive: MountAttr,
    propagation: u64,
    recursive_propagation: bool,
    /// For the filesystem.
    data: Vec<(String, Option<String>)>,
}

/// The attribute that an option sets, or clears.
fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (attr::RDONLY, true),
        "rw" => (attr::RDONLY, false),
        "nosuid" => (attr::NOSUID, true),
        "suid" => (attr::NOSUID, false),
        "nodev" => (attr::NODEV, true),
        "dev" => (attr::NODEV, false),
        "noexec" => (attr::NOEXEC, true),
        "exec" => (attr::NOEXEC, false),
        "nodiratime" => (attr::NODIRATIME, true),
        "diratime" => (attr::NODIRATIME, false),
        "nosymfollow" => (attr::NOSYMFOLLOW, true),
        "symfollow" => (attr::NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// Access times are one field with three values.
fn access_time(option: &str) -> Option<u64> {
    match option {
        "noatime" => Some(attr::NOATIME),
        "strictatime" => Some(attr::STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Some(attr::RELATIME),
        _ => None,
    }
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

/// The propagation of the container's root.
pub(super) fn propagation_named(name: Option<&str>) -> MountAttr {
    let (propagation, _) = name
        .and_then(propagation)
        .unwrap_or((libc::MS_PRIVATE, true));
    MountAttr {
        propagation,
        ..Default::default()
    }
}

/// Tells what is wrong with a mount's options, if anything.
pub(crate) fn check(mount: &Mount) -> Result<(), String> {
    let options = parse(mount);
    if let Some((option, _)) = options.data.iter().find(|(key, _)| is_unsupported(key)) {
        return Err(format!(
            "option {option:?} is not supported by this runtime"
        ));
    }
    if is_bind(mount) {
        if let Some((option, _)) = options.data.first() {
            return Err(format!("option {option:?} has no meaning for a bind mount"));
        }
        if mount.source().is_none() {
            return Err("a bind mount needs a source".to_owned());
        }
    }
    Ok(())
}

fn is_unsupported(option: &str) -> bool {
    matches!(
        option,
        "tmpcopyup" | "idmap" | "ridmap" | "copy-symlink" | "src-nofollow" | "dest-nofollow"
    )
}

/// Whether the mount shows a file or directory of the host.
pub(super) fn is_bind(mount: &Mount) -> bool {
    let named = mount
        .options()
        .iter()
        .flatten()
        .any(|o| o == "bind" || o == "rbind");
    named || mount.typ().as_deref() == Some("bind")
}

fn parse(mount: &Mount) -> Options {
    let mut parsed = Options::default();
    for option in mount.options().iter().flatten() {
        parse_option(option, &mut parsed);
    }
    parsed
}

fn parse_option(option: &str, parsed: &mut Options) {
    if let Some((propagation, recursive)) = propagation(option) {
        (parsed.propagation, parsed.recursive_propagation) = (propagation, recursive);
        return;
    }
    match option {
        "bind" => parsed.bind = true,
        "rbind" => (parsed.bind, parsed.recursive_bind) = (true, true),
        "defaults" | "async" | "silent" | "loud" => {}
        _ if change(option, &mut parsed.own) => {}
        _ if option
            .strip_prefix('r')
            .is_some_and(|rest| change(rest, &mut parsed.recursive)) => {}
        _ => parsed.data.push(match option.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (option.to_owned(), None),
        }),
    }
}

/// Applies an option to attributes; the last of contradicting options wins.
fn change(option: &str, attributes: &mut MountAttr) -> bool {
    if let Some((bits, set)) = attribute(option) {
        let (to, from) = match set {
            true => (&mut attributes.set, &mut attributes.clear),
            false => (&mut attributes.clear, &mut attributes.set),
        };
        *to |= bits;
        *from &= !bits;
        return true;
    }
    let Some(bits) = access_time(option) else {
        return false;
    };
    attributes.set = (attributes.set & !attr::ATIME_MASK) | bits;
    attributes.clear |= attr::ATIME_MASK;
    true
}

/// Plans one mount.
pub(super) fn mount(
    mount: &Mount,
    has_cgroup_namespace: bool,
    context: &Context,
) -> Result<MountStep, Error> {
    let options = parse(mount);
    let fstype = mount.typ().as_deref().unwrap_or("none");
    let is_cgroup = matches!(fstype, "cgroup" | "cgroup2");
    let source = if is_bind(mount) {
        bind(mount, &options, context)?
    } else if is_cgroup && !has_cgroup_namespace {
        own_cgroup(&options, context)?
    } else {
        new(mount, fstype, &options)?
    };
    let destination = inside(mount.destination());
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
        // An image that has a link here would make us write, later, where the link points to.
        strict: ["proc", "sys", "dev"]
            .iter()
            .any(|top| destination == Path::new(top)),
        on_proc: may_stand_on_proc(&destination),
        source,
    })
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
        let file = open(&source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(failed("open"))?;
        let stat = fstatat(&file, c"", AtFlags::AT_EMPTY_PATH).map_err(failed("fstatat"))?;
        let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        // "bind" without "rbind" leaves submounts behind; a type of bind alone means no more.
        let tree =
            clone_mount(file.as_fd(), c"", options.recursive_bind).map_err(failed("open_tree"))?;
        apply_to_bind(&tree, options).map_err(failed("mount_setattr"))?;
        Ok(MountSource::Bind { tree, directory })
    };
    open_source().map_err(|(call, errno)| Error::new(call, errno, doing()))
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
/// container gets the part that is its own.
fn own_cgroup(options: &Options, context: &Context) -> Result<MountSource, Error> {
    let failed = |call| move |errno| Error::new(call, errno, "bind the container's cgroup");
    let tree = clone_mount(context.cgroup.directory(), c"", false).map_err(failed("open_tree"))?;
    apply_to_bind(&tree, options).map_err(failed("mount_setattr"))?;
    Ok(MountSource::Bind {
        tree,
        directory: true,
    })
}

fn new(mount: &Mount, fstype: &str, options: &Options) -> Result<MountSource, Error> {
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
    let has_mode = options.data.iter().any(|(key, _)| key == "mode");
    Ok(MountSource::New {
        inherit_mode: fstype == "tmpfs" && !has_mode,
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

    fn options(list: &[&str]) -> Options {
        let mut mount = Mount::default();
        mount.set_options(Some(list.iter().map(|o| (*o).to_owned()).collect()));
        parse(&mount)
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        assert_eq!(
            options(&["ro", "rw"]).own,
            MountAttr {
                clear: 1,
                ..Default::default()
            }
        );
        assert_eq!(
            options(&["rw", "ro"]).own,
            MountAttr {
                set: 1,
                ..Default::default()
            }
        );
        assert_eq!(
            options(&["noatime", "strictatime"]).own.set,
            attr::STRICTATIME
        );
    }

    #[test]
    fn options_with_r_are_for_the_whole_tree() {
        let parsed = options(&["rbind", "rro", "rnosuid", "rprivate"]);
        assert!(parsed.bind && parsed.recursive_bind && parsed.recursive_propagation);
        assert_eq!(parsed.recursive.set, attr::RDONLY | attr::NOSUID);
        assert!(parsed.own.is_empty());
        assert_eq!(options(&["rrelatime"]).recursive.clear, attr::ATIME_MASK);
        assert_eq!(options(&["relatime"]).own.clear, attr::ATIME_MASK);
    }

    #[test]
    fn the_rest_is_the_filesystems() {
        let parsed = options(&["nosuid", "mode=755", "newinstance", "defaults"]);
        let want = [
            ("mode".to_owned(), Some("755".to_owned())),
            ("newinstance".to_owned(), None),
        ];
        assert_eq!(parsed.data, want);
    }

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
