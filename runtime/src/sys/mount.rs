//! The mount interface of Linux 5.2 and later: mounts are descriptors until they are attached.
//!
//! It is safer than mount(2), because no path is resolved twice, and it takes fewer calls: flags are
//! set before a mount is visible, with no remount.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_uint, c_ulong};
use nix::errno::Errno;

use super::owned;

const OPEN_TREE_CLONE: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;

/// `MOUNT_ATTR_*`: the flags of one mount.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    /// Covers the three ways to treat access times, of which relatime is zero.
    pub(crate) const ATIME_MASK: u64 = 0x70;
    pub(crate) const RELATIME: u64 = 0;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    /// The mount takes the id map of `MountAttr::userns_fd`.
    pub(crate) const IDMAP: u64 = 0x10_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What mount_setattr(2) changes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    /// Attributes to set.
    pub(crate) set: u64,
    /// Attributes to clear first.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave it.
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

impl MountAttr {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Copies the mount at `path` below `dir` (or `dir` itself, for an empty path) into a detached one.
pub(crate) fn clone_mount(dir: BorrowedFd, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint | libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: the path is a C string that lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches the detached mount `mount` on what the descriptor `target` names.
pub(crate) fn attach(mount: BorrowedFd, target: BorrowedFd) -> nix::Result<()> {
    let empty = c"".as_ptr();
    // SAFETY: both paths are the static empty string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty,
            target.as_raw_fd(),
            empty,
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

/// Changes flags and propagation of the mount that `mount` is the root of.
pub(crate) fn set_attributes(
    mount: BorrowedFd,
    attributes: &MountAttr,
    recursive: bool,
) -> nix::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH as c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as c_uint;
    }
    // SAFETY: the attributes are a `struct mount_attr` of the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// A filesystem being configured.
pub(crate) struct FsContext(OwnedFd);

impl FsContext {
    /// Begins a new filesystem of the given type.
    pub(crate) fn open(fstype: &CStr) -> nix::Result<Self> {
        // SAFETY: the type is a C string that lives through the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets an option; one without a value is a flag.
    pub(crate) fn set(&self, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
        match value {
            Some(value) => self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
            None => self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null()),
        }
    }

    /// Creates the superblock and a detached mount of it.
    pub(crate) fn mount(self, attributes: u64) -> nix::Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
        // SAFETY: fsmount takes no pointers.
        owned(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes as c_uint,
            )
        })
    }

    fn configure(
        &self,
        command: c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> nix::Result<()> {
        // SAFETY: key and value are null or C strings borrowed by our callers through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key,
                value,
                0 as c_int,
            )
        };
        Errno::result(result).map(drop)
    }
}

/// Makes the whole tree below the root of this mount namespace private to it.
pub(crate) fn make_tree_private() -> nix::Result<()> {
    let flags: c_ulong = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the only pointer that is not null is the static target.
    let result = unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    };
    Errno::result(result).map(drop)
}

/// Makes the current directory's root the process's root, in place of the old one.
pub(crate) fn pivot_root_here() -> nix::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: both paths are the same static string, which pivot_root(2) documents as the way to
    // stack the old root on the new one.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, here, here) };
    Errno::result(result).map(drop)
}

/// The type of the filesystem that the descriptor is on: `statfs.f_type`.
pub(crate) fn filesystem_type(fd: impl AsFd) -> nix::Result<i64> {
    // A cast, because the type of `f_type` differs between the C libraries.
    #[allow(clippy::unnecessary_cast)]
    nix::sys::statfs::fstatfs(fd).map(|stat| stat.filesystem_type().0 as i64)
}

/// Reads a symbolic link into a buffer of ours: the library's readlink would allocate.
pub(crate) fn read_link(dir: BorrowedFd, name: &CStr, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the buffer is as long as announced, the name a C string that lives through the call.
    let result = unsafe {
        libc::readlinkat(
            dir.as_raw_fd(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    Errno::result(result).map(|length| length as usize)
}
