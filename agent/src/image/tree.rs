//! A folder that untrusted names are resolved in: no name, whatever links the folder holds, leads
//! out of it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// The folder, held open.
pub struct Tree {
    root: OwnedFd,
    /// The folder used last: archives list the files of one folder together.
    last: Option<(PathBuf, OwnedFd)>,
}

/// A name made relative, without `.`, and refused with `..`.
pub fn clean(name: &Path) -> Result<PathBuf, &'static str> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err("has '..' in its path"),
            Component::Prefix(_) => return Err("has a prefix in its path"),
        }
    }
    Ok(path)
}

impl Tree {
    /// Opens a folder.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            root: nix::fcntl::open(path, flags, Mode::empty())?,
            last: None,
        })
    }

    fn resolve(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    /// Opens a clean path for reading.
    pub fn read(&self, path: &Path) -> io::Result<std::fs::File> {
        Ok(self
            .resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?
            .into())
    }

    /// Opens a folder by its clean path, so that attributes can be set on it.
    pub fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
    }

    /// Runs `act` with the folder of a clean path, made where it is missing, and the path's last
    /// part.
    pub fn with_parent<T>(
        &mut self,
        path: &Path,
        act: impl FnOnce(BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> io::Result<T> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        match &self.last {
            Some((known, folder)) if known == parent => act(folder.as_fd(), name),
            _ => {
                let folder = self.make_folders(parent)?;
                let result = act(folder.as_fd(), name);
                self.last = Some((parent.to_owned(), folder));
                result
            }
        }
    }

    /// Opens a folder, and makes whatever of it is missing: each part is made in the folder that
    /// the parts before it resolve to, so that a link among them can't lead outside.
    fn make_folders(&self, path: &Path) -> io::Result<OwnedFd> {
        let open = |path: &Path| self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY);
        match open(path) {
            Err(nix::Error::ENOENT) => {}
            other => return Ok(other?),
        }
        let mut walked = PathBuf::new();
        let mut folder = open(&walked)?;
        for part in path.iter() {
            walked.push(part);
            folder = match open(&walked) {
                Err(nix::Error::ENOENT) => {
                    mkdirat(&folder, part, Mode::from_bits_truncate(0o755))?;
                    open(&walked)?
                }
                other => other?,
            };
        }
        Ok(folder)
    }

    /// Forgets the folder used last: something may have taken its place.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Whether that name in the folder is a folder itself, and no link to one.
pub fn is_folder(folder: BorrowedFd<'_>, name: &OsStr) -> bool {
    nix::sys::stat::fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}
