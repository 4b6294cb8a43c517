//! The plan: everything the child will do, worked out beforehand.
//!
//! The child between clone and exec may not allocate, so the parent turns the configuration into
//! flat lists of C strings, numbers and descriptors. It also opens here whatever comes from the
//! host: bind sources become detached mounts, which the child only attaches.

mod devices;
mod filesystem;
mod groups;
mod id_maps;
mod mount_options;
mod mounts;
mod namespaces;
mod process;
#[cfg(any(test, fuzzing))]
mod unopened;

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use thiserror::Error as ThisError;

use crate::init::paths::{Kind, Links};
use crate::scheduling::Scheduling;
use crate::seccomp::InstallFlags;
use crate::sys::credentials::CapabilityMasks;
use crate::sys::mount::MountAttr;
use crate::sys::process::CStrings;
use crate::sys::seccomp::Instruction;

pub(crate) use devices::device_paths;
pub(crate) use filesystem::{root_mount, sysctl_path};
pub(crate) use groups::Groups;
pub(crate) use mount_options::{MOUNT_OPTIONS, check as check_mount, id_map_option, is_bind};
pub(crate) use mounts::{may_stand_on_proc, set_id_map};
pub(crate) use namespaces::{NEWTIME, path_of, within_mount_namespace};
pub(crate) use process::{Settings, hook_plan, process_plan};
#[cfg(any(test, fuzzing))]
pub(crate) use unopened::unopened;

/// Why a plan couldn't be made: something of the host that the configuration names isn't usable.
#[derive(Debug, ThisError)]
#[error("{doing}: {call}: {errno}")]
pub struct Error {
    /// What was being prepared, with its arguments.
    pub doing: String,
    /// The kernel's call.
    pub call: &'static str,
    /// Its answer.
    pub errno: Errno,
}

impl Error {
    fn new(call: &'static str, errno: Errno, doing: impl Into<String>) -> Self {
        Self {
            doing: doing.into(),
            call,
            errno,
        }
    }
}

/// All that the child does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespaces: Namespaces,
    /// Absent for a process that enters a container which has its root already.
    pub(crate) filesystem: Option<Filesystem>,
    pub(crate) process: ProcessPlan,
    pub(crate) gate: Gate,
    /// Those that the parent ignores, bit 0 being signal 1.
    pub(crate) ignored_signals: u64,
}

impl Plan {
    /// Whether its process gets ready without saying anything that is to be acted upon.
    pub(crate) fn is_set_up_unanswered(&self) -> bool {
        let has_turns = self.filesystem.as_ref().is_some_and(|fs| fs.parents_turn);
        let filter = self.process.seccomp.as_ref();
        let has_listener = filter.is_some_and(|filter| filter.flags.has_listener());
        !has_turns && !has_listener && self.process.terminal.is_none()
    }
}

/// The namespaces to make and to join.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// Made by the clone itself.
    pub(crate) create: CloneFlags,
    /// A cgroup namespace is made after the clone: one made by it would have the parent's cgroup as
    /// its root, even with `CLONE_INTO_CGROUP`.
    pub(crate) new_cgroup: bool,
    /// Joined by a helper process, which then clones the child: joining a pid namespace affects only
    /// children, and namespaces made by the clone must belong to a user namespace that is joined.
    pub(crate) helper_joins: Vec<Join>,
    /// Joined by the child.
    pub(crate) joins: Vec<Join>,
    /// The offsets of a new time namespace: made by a helper, which sets them before it clones the
    /// child. In one made by the clone itself the clocks would have begun to count.
    pub(crate) time_offsets: Option<CString>,
    /// Whether the parent has to write id maps, and whose rights it has.
    pub(crate) new_user: Option<IdMaps>,
    /// Whether to become the root of a user namespace, made or joined.
    pub(crate) become_root: bool,
    /// Where the groups of whoever makes the process are left.
    pub(crate) groups: Groups,
    pub(crate) new_network: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
}

impl Namespaces {
    /// Those that we are in.
    pub(crate) fn ours() -> Self {
        Self {
            create: CloneFlags::empty(),
            new_cgroup: false,
            helper_joins: Vec::new(),
            joins: Vec::new(),
            time_offsets: None,
            new_user: None,
            become_root: false,
            groups: Groups::Inside,
            new_network: false,
            hostname: None,
            domainname: None,
        }
    }

    /// Whether the child has to be cloned by a helper.
    pub(crate) fn need_helper(&self) -> bool {
        !self.helper_joins.is_empty() || self.time_offsets.is_some()
    }
}

/// Who writes the id maps of a new user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdMaps {
    WrittenByRoot,
    /// To whom the child's files of /proc would be root's once the child is isolated: so that comes after
    /// the maps. Whoever could look into the child until then has that user's rights already. (Into a child
    /// of root's a container's root in the host's pid namespace could.)
    WrittenByAnOrdinaryUser,
}

/// A namespace to join.
#[derive(Debug)]
pub(crate) struct Join {
    /// A namespace file, or a process whose namespaces are meant.
    pub(crate) fd: OwnedFd,
    pub(crate) flags: CloneFlags,
    /// For messages.
    pub(crate) path: PathBuf,
}

/// What the child waits for before it executes the program.
#[derive(Debug)]
pub(crate) enum Gate {
    /// Nothing.
    Open,
    /// A word over the channel of the process that made it.
    Channel,
    /// A connection to this listening socket, by whichever process starts the container.
    Socket(OwnedFd),
    /// The same, but first a word over the channel that the container is on record: should the process that
    /// made it be killed before, nobody would find one that has no cgroup.
    SocketOnceOnRecord(OwnedFd),
}

/// The root filesystem and what is mounted in it.
#[derive(Debug)]
pub(crate) struct Filesystem {
    /// A detached mount.
    pub(crate) root: OwnedFd,
    /// Where hooks expect it until it is the root: its own path on the host. `/` otherwise.
    pub(crate) attach_at: CString,
    /// Whether the parent has something to do once the mounts are made.
    pub(crate) parents_turn: bool,
    /// Whether to leave the old root below the new one, as for a root that can't be moved.
    pub(crate) no_pivot: bool,
    pub(crate) readonly: bool,
    /// `MS_*`, for the root in the end.
    pub(crate) propagation: MountAttr,
    pub(crate) mounts: Vec<MountStep>,
    pub(crate) devices: Vec<DeviceStep>,
    /// (name below the root, what it links to)
    pub(crate) links: Vec<(CString, CString)>,
    pub(crate) sysctls: Vec<(CString, CString)>,
    pub(crate) masked: Vec<CString>,
    pub(crate) readonly_paths: Vec<CString>,
}

/// One mount.
#[derive(Debug)]
pub(crate) struct MountStep {
    /// Relative to the root.
    pub(crate) target: CString,
    pub(crate) source: MountSource,
    /// Attributes for the whole tree, applied once it is attached.
    pub(crate) recursive: MountAttr,
    /// Propagation of the mount alone, likewise.
    pub(crate) propagation: u64,
    /// The map that a new file system's mount takes; a bind mount has it already.
    pub(crate) id_map: Option<IdMap>,
    /// How the target may be reached.
    pub(crate) links: Links,
    /// Whether it may stand on a file of procfs.
    pub(crate) on_proc: bool,
}

/// Where a mount comes from.
#[derive(Debug)]
pub(crate) enum MountSource {
    /// Opened by the parent.
    Bind { tree: OwnedFd, kind: Kind },
    /// A link to be made, as the source is one and its copy was asked for.
    Link { target: CString },
    /// Made by the child, since it belongs to the child's namespaces.
    New {
        fstype: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: u64,
        /// Whether a tmpfs takes the mode of the directory it covers.
        inherit_mode: bool,
        /// Whether a tmpfs takes the content of the directory it covers.
        copy_up: bool,
    },
}

/// An id-mapped mount's map.
#[derive(Debug, Clone)]
pub(crate) struct IdMap {
    pub(crate) user_namespace: Arc<OwnedFd>,
    pub(crate) recursive: bool,
}

/// One device node.
#[derive(Debug)]
pub(crate) struct DeviceStep {
    /// The directory it is in, relative to the root.
    pub(crate) directory: CString,
    pub(crate) name: CString,
    /// `S_IFCHR` and the like, with the permissions.
    pub(crate) mode: u32,
    pub(crate) number: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The host's node, for a container that can't make nodes.
    pub(crate) bind: Option<OwnedFd>,
}

/// The program and what it may do.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) name: String,
    /// Where the program may be, to be tried in turn.
    pub(crate) candidates: Vec<CString>,
    pub(crate) args: CStrings,
    pub(crate) env: CStrings,
    pub(crate) cwd: CString,
    /// Whom it becomes; a hook stays who we are.
    pub(crate) user: Option<User>,
    pub(crate) no_new_privileges: bool,
    /// (resource, soft, hard)
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) scheduling: Scheduling,
    pub(crate) apparmor: Option<CString>,
    pub(crate) selinux: Option<CString>,
    /// The session keyring to join, by name.
    pub(crate) keyring: Option<CString>,
    /// The size of a terminal to be opened, in rows and columns; zeros leave it.
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) stdio: Stdio,
    pub(crate) preserve_fds: u32,
    pub(crate) parent_death_signal: i32,
    pub(crate) seccomp: Option<SeccompPlan>,
}

/// A user with its rights.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapabilityMasks,
}

/// Room for the filter, which the parent compiles while the child mounts.
#[derive(Debug)]
pub(crate) struct SeccompPlan {
    pub(crate) buffer: Vec<Instruction>,
    pub(crate) flags: InstallFlags,
}

/// A process's standard streams: descriptors for it, or those of the caller.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input; the caller's if absent.
    pub stdin: Option<OwnedFd>,
    /// Standard output; the caller's if absent.
    pub stdout: Option<OwnedFd>,
    /// Standard error; the caller's if absent.
    pub stderr: Option<OwnedFd>,
}

/// What planning needs beside the configuration.
pub(crate) struct Context<'a> {
    /// Relative paths of the host start here.
    pub(crate) bundle: &'a Path,
    /// The container's cgroup, if it has one of its own, for a mount of it in a container without a cgroup
    /// namespace.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// See [`Filesystem`].
    pub(crate) attach_at: Option<&'a Path>,
    pub(crate) parents_turn: bool,
    pub(crate) no_pivot: bool,
}

/// A configuration's string as the kernel takes it. Validation has refused those with null bytes.
fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Error> {
    CString::new(text).map_err(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).into_owned();
        Error::new(
            "CString::new",
            Errno::EINVAL,
            format!("{text:?} has a null byte"),
        )
    })
}

/// A path inside the container, lexically cleaned and relative to its root.
pub(crate) fn inside(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn inside_c(path: &Path) -> Result<CString, Error> {
    use std::os::unix::ffi::OsStringExt;
    c_string(inside(path).into_os_string().into_vec())
}

/// Plans what is around a container's first process: its namespaces and its file system.
pub(crate) fn surroundings(
    spec: &oci_spec::runtime::Spec,
    root: OwnedFd,
    context: &Context,
) -> Result<(Namespaces, Filesystem), Error> {
    let is_nested = !crate::user_namespace::is_initial();
    let namespaces = namespaces::namespaces(spec, is_nested)?;
    // No node can be made in a user namespace, the container's or ours: the host's are shown instead.
    let binds_devices = is_nested || namespaces.become_root;
    let filesystem = filesystem::filesystem(spec, root, binds_devices, context)?;
    Ok((namespaces, filesystem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_inside_are_cleaned_and_never_leave() {
        for (path, clean) in [
            ("/", ""),
            ("/a/./b//c", "a/b/c"),
            ("/a/../../etc", "etc"),
            ("../..", ""),
            ("a/b/..", "a"),
        ] {
            assert_eq!(inside(Path::new(path)), Path::new(clean), "{path}");
        }
    }
}
