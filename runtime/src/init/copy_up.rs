//! Filling a new tmpfs with what it covers (`tmpcopyup`): files, directories and links, with their
//! owners, modes, times and extended attributes left to the kernel's defaults where a tmpfs has none.
//!
//! The source is the image's, so everything is opened by name below a descriptor, without following
//! links. Nothing here allocates: directories are read into a buffer on the stack.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use crate::sys::directory::{Entries, copy_content};
use crate::sys::mount::read_link;

/// How deep a tree may be: each level holds two descriptors and a buffer.
const MAX_DEPTH: u32 = 128;

/// Copies the content of one directory into another.
pub(super) fn copy(from: BorrowedFd, to: BorrowedFd) -> nix::Result<()> {
    // What is given is `O_PATH`, which can't be read.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let from = openat(from, c".", flags, Mode::empty())?;
    let to = openat(to, c".", flags, Mode::empty())?;
    // The tmpfs's own root is as its mount options say.
    copy_entries(&from, &to, MAX_DEPTH)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, depth: u32) -> nix::Result<()> {
    let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
    let mut buffer = [0; 4096];
    let mut entries = Entries::new(from.as_fd(), &mut buffer);
    while let Some(name) = entries.next()? {
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> nix::Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
    let private = Mode::from_bits_truncate(0o700);
    match kind {
        SFlag::S_IFDIR => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            mkdirat(to, name, private)?;
            let below = openat(from, name, flags, Mode::empty())?;
            let copy = openat(to, name, flags, Mode::empty())?;
            copy_entries(&below, &copy, depth)?;
            take_over(&copy, &fstat(&below)?)
        }
        SFlag::S_IFREG => {
            let source = openat(
                from,
                name,
                OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let copy = openat(to, name, flags, private)?;
            // It may have been swapped meanwhile: only its content is taken, and of a file alone.
            let stat = fstat(&source)?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
                return Err(Errno::EAGAIN);
            }
            copy_content(source.as_fd(), copy.as_fd())?;
            take_over(&copy, &stat)
        }
        SFlag::S_IFLNK => {
            let mut text = [0; libc::PATH_MAX as usize];
            let length = read_link(
                from.as_fd(),
                name,
                text.get_mut(..libc::PATH_MAX as usize - 1)
                    .ok_or(Errno::EINVAL)?,
            )?;
            let target = text.get(..=length).ok_or(Errno::ENAMETOOLONG)?;
            let target = CStr::from_bytes_with_nul(target).map_err(|_| Errno::EINVAL)?;
            symlinkat(target, to, name)?;
            give(to, name, &stat)
        }
        _ => {
            let mode = Mode::from_bits_truncate(stat.st_mode);
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            give(to, name, &stat)
        }
    }
}

fn give(directory: &OwnedFd, name: &CStr, stat: &FileStat) -> nix::Result<()> {
    fchownat(
        directory,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
}

/// Owner first: giving a file away takes its set-user-id bit.
fn take_over(file: &OwnedFd, stat: &FileStat) -> nix::Result<()> {
    fchown(
        file,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(file, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let accessed = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    futimens(file, &accessed, &modified)
}
