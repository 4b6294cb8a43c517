//! The options of a mount, sorted by what they act on.

use oci_spec::runtime::Mount;

use crate::sys::mount::{MountAttr, attr};

/// The options that are understood; the rest are the filesystem's.
pub(crate) const MOUNT_OPTIONS: [&str; 53] = [
    "async",
    "atime",
    "bind",
    "copy-symlink",
    "defaults",
    "dest-nofollow",
    "dev",
    "diratime",
    "exec",
    "idmap",
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
    "ridmap",
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
    "silent",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "tmpcopyup",
    "unbindable",
];

/// Options, sorted by what they act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) bind: bool,
    pub(super) recursive_bind: bool,
    /// For the mount itself.
    pub(super) own: MountAttr,
    /// For it and all below it: the options that begin with `r`.
    pub(super) recursive: MountAttr,
    pub(super) propagation: u64,
    pub(super) recursive_propagation: bool,
    /// `idmap`, or `ridmap` for all below it too.
    pub(super) id_map: Option<Recursive>,
    /// A tmpfs begins with what it covers.
    pub(super) copy_up: bool,
    /// crun's: a source that is a link is bound, or made again, as the link that it is; a target that
    /// is one isn't followed.
    pub(super) source_nofollow: bool,
    pub(super) copy_symlink: bool,
    pub(super) target_nofollow: bool,
    /// For the filesystem.
    pub(super) data: Vec<(String, Option<String>)>,
}

pub(super) type Recursive = bool;

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
    if options.copy_up && mount.typ().as_deref() != Some("tmpfs") {
        return Err("option \"tmpcopyup\" is for a tmpfs".to_owned());
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

/// Whether the mount shows a file or directory of the host.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    let named = mount
        .options()
        .iter()
        .flatten()
        .any(|o| o == "bind" || o == "rbind");
    named || mount.typ().as_deref() == Some("bind")
}

pub(super) fn parse(mount: &Mount) -> Options {
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
        "idmap" => parsed.id_map = Some(false),
        "ridmap" => parsed.id_map = Some(true),
        "tmpcopyup" => parsed.copy_up = true,
        "src-nofollow" => parsed.source_nofollow = true,
        "copy-symlink" => parsed.copy_symlink = true,
        "dest-nofollow" => parsed.target_nofollow = true,
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

/// The option that asks for an id-mapped mount: whether it is for all below it, too.
pub(crate) fn id_map_option(mount: &Mount) -> Option<Recursive> {
    parse(mount).id_map
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
}
