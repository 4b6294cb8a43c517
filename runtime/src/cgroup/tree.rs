//! The hierarchy of cgroups: making a path of them, finding those above, removing.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Cgroup, Error, ROOT};
use crate::sys::mount::filesystem_type;

const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Makes the directories of a path, below the root, and tells whether the last one is new.
pub(super) fn create(path: &Path) -> Result<(OwnedFd, PathBuf, bool), Error> {
    let is_new = Cell::new(false);
    let made = walk(path, |above, name, so_far| {
        match mkdirat(above, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => is_new.set(true),
            Err(Errno::EEXIST) => is_new.set(false),
            Err(errno) => return Err(directory_error("mkdir", so_far, errno)),
        }
        Ok(())
    });
    made.map(|(directory, path)| (directory, path, is_new.get()))
}

/// Opens a path that exists.
pub(super) fn open(path: &Path) -> Result<(OwnedFd, PathBuf), Error> {
    walk(path, |_, _, _| Ok(()))
}

fn walk(
    path: &Path,
    before: impl Fn(BorrowedFd, &OsStr, &Path) -> Result<(), Error>,
) -> Result<(OwnedFd, PathBuf), Error> {
    let mut directory = root()?;
    let mut so_far = PathBuf::new();
    for name in names(path)? {
        so_far.push(name);
        before(directory.as_fd(), name, &so_far)?;
        directory = open_directory(directory.as_fd(), name)
            .map_err(|errno| directory_error("open", &so_far, errno))?;
    }
    Ok((directory, so_far))
}

/// The cgroups above a path, from the root down.
pub(super) fn above(path: &Path) -> Result<Vec<Cgroup>, Error> {
    let mut cgroups = Vec::new();
    let mut directory = root()?;
    let mut so_far = PathBuf::new();
    for name in names(path)? {
        let below = open_directory(directory.as_fd(), name)
            .map_err(|errno| directory_error("open", &so_far.join(name), errno))?;
        cgroups.push(Cgroup {
            directory: std::mem::replace(&mut directory, below),
            path: so_far.clone(),
            is_new: false,
        });
        so_far.push(name);
    }
    Ok(cgroups)
}

/// The names of a path; a leading slash means the hierarchy's root, as everywhere in cgroups.
fn names(path: &Path) -> Result<Vec<&OsStr>, Error> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => names.push(name),
            _ => {
                return Err(Error::Path {
                    path: path.to_owned(),
                });
            }
        }
    }
    match names.is_empty() {
        true => Err(Error::Path {
            path: path.to_owned(),
        }),
        false => Ok(names),
    }
}

fn root() -> Result<OwnedFd, Error> {
    let root = open_directory(AT_FDCWD, OsStr::new(ROOT))
        .map_err(|errno| directory_error("open", Path::new(ROOT), errno))?;
    match filesystem_type(&root) {
        Ok(CGROUP2_MAGIC) => Ok(root),
        Ok(_) => Err(Error::NotUnifiedRoot),
        Err(errno) => Err(directory_error("fstatfs", Path::new(ROOT), errno)),
    }
}

fn open_directory(above: BorrowedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(above, name, flags, Mode::empty())
}

/// The cgroups right below one.
pub(super) fn below(cgroup: &Cgroup) -> Result<impl Iterator<Item = Result<Cgroup, Error>>, Error> {
    let path = cgroup.path.clone();
    let above = cgroup
        .directory
        .try_clone()
        .map_err(|_| directory_error("fcntl", &path, Errno::EMFILE))?;
    let names = directories_in(above.as_fd(), OsStr::new("."), &path)?;
    Ok(names.into_iter().map(move |name| {
        let path = path.join(&name);
        let directory = open_directory(above.as_fd(), &name)
            .map_err(|errno| directory_error("open", &path, errno))?;
        Ok(Cgroup {
            directory,
            path,
            is_new: false,
        })
    }))
}

/// Removes a cgroup that has neither processes nor cgroups below it; tells whether it is gone.
pub(super) fn remove_if_unused(path: &Path) -> Result<bool, Error> {
    match unlinkat(
        AT_FDCWD,
        &Path::new(ROOT).join(path),
        UnlinkatFlags::RemoveDir,
    ) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
        Err(errno) => Err(directory_error("rmdir", path, errno)),
    }
}

/// Removes a cgroup with all below it, which must be empty of processes.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let (Some(name), Some(above)) = (path.file_name(), path.parent()) else {
        return Err(Error::Path {
            path: path.to_owned(),
        });
    };
    let above = match above.as_os_str().is_empty() {
        true => root()?,
        false => open(above)?.0,
    };
    remove_below(above.as_fd(), name, path)
}

fn remove_below(above: BorrowedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
    match unlinkat(above, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // It has cgroups below it, which the container may have made.
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
        Err(errno) => return Err(directory_error("rmdir", path, errno)),
    }
    for below in directories_in(above, name, path)? {
        let directory =
            open_directory(above, name).map_err(|errno| directory_error("open", path, errno))?;
        remove_below(directory.as_fd(), &below, &path.join(&below))?;
    }
    match unlinkat(above, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(directory_error("rmdir", path, errno)),
    }
}

fn directories_in(
    above: BorrowedFd,
    name: &OsStr,
    path: &Path,
) -> Result<Vec<std::ffi::OsString>, Error> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |errno| directory_error("read", path, errno);
    let directory = open_directory(above, name).map_err(failed)?;
    let mut found = Vec::new();
    for entry in Dir::from_fd(directory).map_err(failed)?.iter() {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let is_directory = entry.file_type() == Some(nix::dir::Type::Directory);
        if is_directory && name != "." && name != ".." {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// Removes the cgroups above a removed one, while they are empty and deeper than `keep` names.
pub(super) fn remove_empty_parents(path: &Path, keep: usize) -> Result<(), Error> {
    for above in path.ancestors().skip(1) {
        if above.components().count() <= keep || above.as_os_str().is_empty() {
            break;
        }
        match std::fs::remove_dir(Path::new(ROOT).join(above)) {
            Ok(()) => {}
            // Others use it.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => break,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                return Err(directory_error("rmdir", above, errno));
            }
        }
    }
    Ok(())
}

fn directory_error(call: &'static str, path: &Path, errno: Errno) -> Error {
    Error::File {
        call,
        path: path.to_owned(),
        file: String::new(),
        errno,
    }
}
