//! Hiding paths, making them read-only, and the AppArmor profile.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat, makedev};

use super::mounts::is_directory;
use super::paths::{self, Links};
use super::proc::PrivateProc;
use super::step::{Failure, Step};
use crate::plan::ProcessPlan;
use crate::sys::mount::{self, FsContext, MountAttr, attr};

/// Covers each path: a directory with an empty one, anything else with the null device.
pub(super) fn mask(root: BorrowedFd, paths: &[CString]) -> Result<(), Failure> {
    if paths.is_empty() {
        return Ok(());
    }
    let mut covers = Covers::open().map_err(Failure::of(Step::MaskPath))?;
    for (index, path) in paths.iter().enumerate() {
        covers
            .cover(root, path)
            .map_err(Failure::of_item(Step::MaskPath, index))?;
    }
    Ok(())
}

/// What masked paths are covered with.
struct Covers {
    null: OwnedFd,
    /// One empty directory serves all: it is mounted once and cloned from then on.
    empty: Option<OwnedFd>,
}

impl Covers {
    /// Takes the null device from the host's tree, which is still ours: the container's own may be a
    /// link to a file of procfs, which would then be shown where it was to be hidden
    /// (CVE-2025-31133).
    fn open() -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let null = open(c"/dev/null", flags, Mode::empty())?;
        let stat = fstatat(&null, c"", AtFlags::AT_EMPTY_PATH)?;
        let is_null = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == makedev(1, 3);
        match is_null {
            true => Ok(Self { null, empty: None }),
            false => Err(Errno::ENODEV),
        }
    }

    fn cover(&mut self, root: BorrowedFd, path: &CStr) -> nix::Result<()> {
        let target = match paths::open(root, path, OFlag::O_PATH, Links::Inside) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            other => other?,
        };
        if !is_directory(target.as_fd())? {
            let null = mount::clone_mount(self.null.as_fd(), c"", false)?;
            return mount::attach(null.as_fd(), target.as_fd());
        }
        if let Some(empty) = &self.empty {
            let again = mount::clone_mount(empty.as_fd(), c"", false)?;
            return mount::attach(again.as_fd(), target.as_fd());
        }
        let empty = empty_directory()?;
        mount::attach(empty.as_fd(), target.as_fd())?;
        self.empty = Some(empty);
        Ok(())
    }
}

fn empty_directory() -> nix::Result<OwnedFd> {
    let context = FsContext::open(c"tmpfs")?;
    context.set(c"mode", Some(c"755"))?;
    // Nothing can be stored there, by whatever way it would be reached.
    context.set(c"nr_inodes", Some(c"1"))?;
    context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// Makes each path read-only, with what is mounted below it.
pub(super) fn make_readonly(root: BorrowedFd, paths: &[CString]) -> Result<(), Failure> {
    for (index, path) in paths.iter().enumerate() {
        make_one_readonly(root, path).map_err(Failure::of_item(Step::ReadonlyPath, index))?;
    }
    Ok(())
}

fn make_one_readonly(root: BorrowedFd, path: &CStr) -> nix::Result<()> {
    let target = match paths::open(root, path, OFlag::O_PATH, Links::Inside) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = mount::clone_mount(target.as_fd(), c"", true)?;
    let readonly = MountAttr {
        set: attr::RDONLY,
        ..Default::default()
    };
    mount::set_attributes(tree.as_fd(), &readonly, true)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

/// Names the profile that exec will put the process under.
pub(super) fn set_apparmor_profile(plan: &ProcessPlan) -> nix::Result<()> {
    let Some(profile) = &plan.apparmor else {
        return Ok(());
    };
    let proc = PrivateProc::open()?;
    match proc.write(c"thread-self/attr/apparmor/exec", profile) {
        // Before Linux 5.8 the file of all security modules was AppArmor's.
        Err(Errno::ENOENT) => proc.write(c"thread-self/attr/exec", profile),
        other => other,
    }
}

/// Names the SELinux context that exec will give to the process.
pub(super) fn set_selinux_label(plan: &ProcessPlan) -> nix::Result<()> {
    match &plan.selinux {
        Some(label) => PrivateProc::open()?.write(c"thread-self/attr/exec", label),
        None => Ok(()),
    }
}
