//! What clones of this process do for CRIU: mount points that a root filesystem lacks, and becoming
//! CRIU. Both end with their mount namespaces, and all that is mounted there with them.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::step::{Failure, Step};
use super::{give_up, join_keyring, mounts, root};
use crate::channel::{self, Report};
use crate::plan::MountStep;
use crate::sys::credentials;
use crate::sys::mount::{self, FsContext};
use crate::sys::process::{self, CStrings};
use crate::sys::socket;

/// Where CRIU's root filesystem and its view of the cgroups are, below [`Criu::scratch`].
pub(crate) const ROOT: &CStr = c"root";
pub(crate) const CGROUPS: &CStr = c"cgroups";

/// CRIU's name for the hierarchy of version 2.
const UNIFIED: &CStr = c"cgroups/unified";

/// Makes mount points in a root filesystem, a detached mount, in a mount namespace of this process's own.
///
/// What comes from the host is mounted, as for a new container: others have their mount points in it.
pub(crate) fn make_mount_points(
    root: BorrowedFd,
    scratch: &CStr,
    steps: &[MountStep],
    channel: BorrowedFd,
) -> i32 {
    let made = root::attach(root, scratch).and_then(|()| mounts::make_points(root, steps));
    match made {
        Ok(()) => 0,
        Err(failure) => give_up(failure, channel),
    }
}

/// A directory that CRIU gets under the number that the parent has it open under.
#[derive(Debug)]
pub(crate) struct Directory<'a> {
    pub(crate) number: BorrowedFd<'a>,
    pub(crate) path: &'a CStr,
}

/// How to become CRIU.
#[derive(Debug)]
pub(crate) struct Criu<'a> {
    pub(crate) program: &'a CStr,
    /// They say that the socket is under the number of [`Self::socket`].
    pub(crate) args: &'a CStrings,
    pub(crate) env: &'a CStrings,
    /// An empty directory, over which it finds what is only for it: in a mount namespace of this
    /// process's own, if there is one.
    pub(crate) scratch: Option<&'a CStr>,
    /// A detached mount of a root filesystem.
    pub(crate) root: Option<BorrowedFd<'a>>,
    pub(crate) directories: &'a [Directory<'a>],
    /// What it gets beside the standard streams, under the same numbers.
    pub(crate) descriptors: &'a [BorrowedFd<'a>],
    /// Whether its standard streams are to lead nowhere, rather than where ours do.
    pub(crate) quiet: bool,
    /// Whether to set `no_new_privs`, which restored processes inherit.
    pub(crate) no_new_privileges: bool,
    /// A session keyring to join by name: restored processes have CRIU's, which else were ours.
    pub(crate) keyring: Option<&'a CStr>,
    /// A descriptor of the parent's that means nothing here.
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) ignored_signals: u64,
}

/// Returns only if that failed. The other end of CRIU's socket goes to the parent.
pub(crate) fn become_criu(criu: &Criu, channel: BorrowedFd) -> i32 {
    let failure = match prepare(criu, channel) {
        Ok(()) => Failure::of(Step::Exec)(process::execve(criu.program, criu.args, criu.env)),
        Err(failure) => failure,
    };
    give_up(failure, channel)
}

fn prepare(criu: &Criu, channel: BorrowedFd) -> Result<(), Failure> {
    process::reset_signals(criu.ignored_signals).map_err(Failure::of(Step::Isolate))?;
    join_keyring(criu.keyring).map_err(Failure::of(Step::SessionKeyring))?;
    if criu.no_new_privileges {
        credentials::set_no_new_privileges().map_err(Failure::of(Step::NoNewPrivileges))?;
    }
    if let Some(scratch) = criu.scratch {
        let tmpfs = FsContext::open(c"tmpfs").and_then(|context| context.mount(0));
        let tmpfs = tmpfs.map_err(Failure::of(Step::AttachRoot))?;
        root::attach(tmpfs.as_fd(), scratch)?;
        furnish(tmpfs.as_fd(), criu.root).map_err(Failure::of(Step::AttachRoot))?;
    }
    let pass_on = || {
        if criu.quiet {
            let null = open(
                c"/dev/null",
                OFlag::O_RDWR | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            for number in 0..3 {
                process::place_descriptor(null.as_fd(), number)?;
            }
        }
        for descriptor in criu.descriptors {
            process::keep_on_exec(descriptor.as_raw_fd())?;
        }
        for directory in criu.directories {
            // Again: the parent's is in another mount namespace, where CRIU couldn't mount anything.
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let opened = open(directory.path, flags, Mode::empty())?;
            process::place_descriptor(opened.as_fd(), directory.number.as_raw_fd())?;
        }
        // Made here, since CRIU takes descriptors to be those of the process that made its socket.
        let (parents, own) = socket::packet_pair()?;
        process::place_descriptor(own.as_fd(), criu.socket.as_raw_fd())?;
        channel::report(channel, &Report::Socket(parents))
    };
    pass_on().map_err(Failure::of(Step::Descriptors))
}

/// Mounts what CRIU can't mount itself, or would mount so that it shows: the flags of the hierarchy of
/// cgroups (cgroups(7), "nsdelegate") are those of the last mount of it, wherever that is.
fn furnish(tmpfs: BorrowedFd, root: Option<BorrowedFd>) -> nix::Result<()> {
    for name in [ROOT, CGROUPS, UNIFIED] {
        mkdirat(tmpfs, name, Mode::from_bits_truncate(0o700))?;
    }
    let place = |name: &CStr| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(tmpfs, name, flags, Mode::empty())
    };
    let cgroups = mount::clone_mount(AT_FDCWD, c"/sys/fs/cgroup", false)?;
    mount::attach(cgroups.as_fd(), place(UNIFIED)?.as_fd())?;
    match root {
        Some(root) => mount::attach(root, place(ROOT)?.as_fd()),
        None => Ok(()),
    }
}
