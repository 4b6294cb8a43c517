//! The root filesystem: attached first, so that all else is mounted in it, and made the root last.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir};

use super::step::{Failure, Step};
use crate::plan::Filesystem;
use crate::sys::mount::{self, MountAttr, attr};

/// Attaches the root filesystem over `/`, or where hooks expect it.
///
/// Our root stays the host's, beneath it: paths still begin there, but whoever asks for what is
/// mounted on `/` gets the container's. No directory of the host is needed to mount it on.
pub(super) fn attach(root: BorrowedFd, at: &CStr) -> Result<(), Failure> {
    mount::make_tree_private().map_err(Failure::of(Step::MakeMountsPrivate))?;
    attach_to(root, at).map_err(Failure::of(Step::AttachRoot))
}

fn attach_to(root: BorrowedFd, at: &CStr) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let over = open(at, flags, Mode::empty())?;
    mount::attach(root, over.as_fd())
}

/// Makes it read-only if wanted, and our root; the host's tree goes away.
pub(super) fn finish(root: BorrowedFd, plan: &Filesystem) -> Result<(), Failure> {
    if plan.readonly {
        let readonly = MountAttr {
            set: attr::RDONLY,
            ..Default::default()
        };
        mount::set_attributes(root, &readonly, false).map_err(Failure::of(Step::ReadonlyRoot))?;
    }
    pivot(root, plan).map_err(Failure::of(Step::PivotRoot))?;
    mount::set_attributes(root, &plan.propagation, false).map_err(Failure::of(Step::Propagation))
}

fn pivot(root: BorrowedFd, plan: &Filesystem) -> nix::Result<()> {
    fchdir(root)?;
    let pivoted = match plan.no_pivot {
        true => Err(Errno::EINVAL),
        false => mount::pivot_root_here(),
    };
    match pivoted {
        // The old root is stacked on the new one, and we still stand in the new: what is mounted on
        // the place where we are is the old tree.
        Ok(()) => umount2(c".", MntFlags::MNT_DETACH)?,
        // The host's root is the kernel's initial file system, which can't be moved. The container's
        // is mounted over it, which is as far as it ever goes: on other hosts too that file system
        // lies at the bottom.
        Err(Errno::EINVAL) => {
            if plan.attach_at.as_c_str() != c"/" {
                attach_to(root, c"/")?;
            }
            chroot(c".")?;
        }
        Err(errno) => return Err(errno),
    }
    chdir(c"/")
}
