//! Id-mapped mounts of folders, for an engine that stacks root filesystems from layers itself.
//!
//! The files keep their owners on disk; seen through such a mount, id 0 of a user namespace owns what id 0 owns there.
//! So containers in user namespaces share layers with those of others, and with containers in none (mount_setattr(2),
//! `MOUNT_ATTR_IDMAP`; as layers of overlayfs since Linux 5.19).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::error::Error;
use crate::sys::mount::{self, MountAttr, attr};

/// Mounts the folder `source` on the folder `target`, without what is mounted below it, with the ids of
/// `user_namespace`. Both paths are the caller's own: links in them are followed.
///
/// # Errors
///
/// With `EINVAL`, this kernel has no id-mapped mounts of that file system; with `EPERM`, the file system or the namespace
/// is not one of which the caller is root. Nothing is mounted then.
pub fn bind(source: &Path, target: &Path, user_namespace: BorrowedFd) -> Result<(), Error> {
    let failed = |call| {
        move |errno| {
            let doing = format!("mount {} on {}", source.display(), target.display());
            Error::system(call, errno, doing)
        }
    };
    let target = open_folder(target).map_err(failed("open"))?;
    let mapped = mapped(source, user_namespace)?;
    mount::attach(mapped.as_fd(), target.as_fd()).map_err(failed("move_mount"))
}

/// Asks whether [`bind`] works with this folder.
///
/// # Errors
///
/// Those of [`bind`].
pub fn check(source: &Path, user_namespace: BorrowedFd) -> Result<(), Error> {
    mapped(source, user_namespace).map(drop)
}

/// A detached mount of the folder.
fn mapped(source: &Path, user_namespace: BorrowedFd) -> Result<OwnedFd, Error> {
    let failed = |call| {
        move |errno| {
            let doing = format!("id-map a mount of {}", source.display());
            Error::system(call, errno, doing)
        }
    };
    let folder = open_folder(source).map_err(failed("open"))?;
    let detached = mount::clone_mount(folder.as_fd(), c"", false).map_err(failed("open_tree"))?;
    let attributes = MountAttr {
        set: attr::IDMAP,
        userns_fd: user_namespace.as_raw_fd().unsigned_abs().into(),
        ..MountAttr::default()
    };
    mount::set_attributes(detached.as_fd(), &attributes, false).map_err(failed("mount_setattr"))?;
    Ok(detached)
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path.as_os_str().as_bytes(), flags, Mode::empty())
}
