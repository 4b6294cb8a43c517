//! Keeping the host's copy of this program out of containers' reach.
//!
//! Until it executes its own program, a container's process is a copy of ours, and `/proc/<pid>/exe` in
//! the container leads to our binary. A container that opened it for writing would own the host
//! (CVE-2019-5736). The process can't be looked into (it isn't dumpable), and what it runs from is
//! a read-only mount that is attached nowhere. Copying the binary to memory, as runc did, costs as
//! much as all the rest of a start, and counts against the container's memory.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::Error;
use crate::sys::mount::{self, MountAttr, attr};
use crate::sys::process::{CStrings, execve_descriptor};

/// Makes sure that this program runs from a read-only mount: executes it again from one if need be,
/// with the same arguments. To be called first in `main` of every program that creates containers.
pub fn protect_own_binary() -> Result<(), Error> {
    let failed = |call| {
        move |errno| {
            Error::system(
                call,
                errno,
                "run this program from a read-only mount of itself",
            )
        }
    };
    let own = open(
        c"/proc/self/exe",
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("open"))?;
    let flags = fstatvfs(&own).map_err(failed("fstatvfs"))?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let readonly = match mount::clone_mount(own.as_fd(), c"", false) {
        Err(Errno::EINVAL) => clone_by_path(own.as_fd()),
        other => other,
    };
    let readonly = readonly.map_err(failed("open_tree"))?;
    let attributes = MountAttr {
        set: attr::RDONLY,
        ..Default::default()
    };
    mount::set_attributes(readonly.as_fd(), &attributes, false).map_err(failed("mount_setattr"))?;
    let args = std::env::args_os().filter_map(|arg| CString::new(arg.into_vec()).ok());
    let args = CStrings::from(args.collect::<Vec<_>>());
    let env = CStrings::of_environment();
    Err(failed("execveat")(execve_descriptor(
        readonly.as_fd(),
        &args,
        &env,
    )))
}

/// The same in a mount namespace that was entered since this program began: the mount that it runs from is
/// of another, and the like of it here is found by its path.
fn clone_by_path(own: BorrowedFd) -> nix::Result<OwnedFd> {
    let path = nix::fcntl::readlink(c"/proc/self/exe")?;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let here = open(path.as_os_str(), flags, Mode::empty())?;
    let identity = |file: BorrowedFd| {
        fstatat(file, c"", AtFlags::AT_EMPTY_PATH).map(|stat| (stat.st_dev, stat.st_ino))
    };
    match identity(here.as_fd())? == identity(own)? {
        true => mount::clone_mount(here.as_fd(), c"", false),
        false => Err(Errno::ESTALE),
    }
}
