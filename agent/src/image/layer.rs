//! Unpacking a layer into a folder that overlayfs can stack.
//!
//! A layer is a tar archive in which `.wh.NAME` means that NAME is gone, and `.wh..wh..opq` that
//! the folder hides what was below it (OCI image spec, "Layer changesets"). Overlayfs says the
//! same with a character device 0:0 and with the attribute `trusted.overlay.opaque`.
//!
//! The archive is untrusted. Names are resolved inside the folder only; `..` is refused, and so
//! is a hard link to what isn't in the layer. Device nodes are left out: containers get theirs
//! from the runtime, and a 0:0 one would pass for a whiteout. Of the extended attributes only
//! `security.capability` and `user.*` are kept: `trusted.overlay.*` would steer overlayfs.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, mkfifoat, symlinkat};
use rustix::fs::XattrFlags;
use tar::{Entry, EntryType};

use super::digest::{Digest, Hashing};
use super::tree::{self, Tree};
use crate::removal::remove_at;

/// Why a layer can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive breaks off, or isn't one.
    #[error("the archive is truncated or damaged: {0}")]
    Archive(io::Error),
    /// An entry that no honest image has.
    #[error("entry '{path}' {problem}")]
    Entry {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel or the disk refused an entry.
    #[error("entry '{path}': {source}")]
    Write {
        /// Its name.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// What became of a layer.
#[derive(Debug)]
pub struct Unpacked {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub size: u64,
    /// The device nodes that were left out, the first of them.
    pub left_out: Vec<PathBuf>,
}

/// Unpacks an uncompressed archive into an empty folder.
pub fn unpack(archive: impl Read, folder: &Path) -> Result<Unpacked, LayerError> {
    let mut hashing = Hashing::new(archive);
    let tree = Tree::open(folder).map_err(LayerError::Archive)?;
    let mut unpacking = Unpacking {
        tree,
        folders: Vec::new(),
        left_out: Vec::new(),
    };
    let ration = Cell::new(MOST_IN_MEMORY);
    let mut tar = tar::Archive::new(Rationed {
        inner: &mut hashing,
        left: &ration,
    });
    let entries = tar.entries().map_err(LayerError::Archive)?;
    for entry in entries {
        let mut entry = entry.map_err(LayerError::Archive)?;
        if is_file(entry.header().entry_type()) {
            ration.set(u64::MAX);
        }
        unpacking.entry(&mut entry)?;
        ration.set(u64::MAX);
        io::copy(&mut entry, &mut io::sink()).map_err(LayerError::Archive)?;
        ration.set(MOST_IN_MEMORY);
    }
    unpacking.settle_folders()?;
    let (diff_id, size, zeros) = hashing.finish().map_err(LayerError::Archive)?;
    // Two blocks of zeros end an archive: without them it has been cut between two entries.
    if zeros < 1024 {
        return Err(LayerError::Archive(io::Error::other("its end is missing")));
    }
    Ok(Unpacked {
        diff_id,
        size,
        left_out: unpacking.left_out,
    })
}

/// The most of an archive that is read between two files' contents: long names, attributes and
/// the maps of sparse files, which are kept in memory. A few MiB that were compressed unpack to
/// gigabytes of them.
const MOST_IN_MEMORY: u64 = 4 << 20;

/// The most device nodes whose names are kept for a warning.
const MOST_LEFT_OUT: usize = 16;

/// Passes on as many bytes as are allowed at the time.
struct Rationed<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Rationed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(
                "it has a name or attributes of some megabytes",
            ));
        }
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self
            .inner
            .read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

fn is_file(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
    )
}

struct Unpacking {
    tree: Tree,
    /// The folders' modification times, which the files put into them would change.
    folders: Vec<(PathBuf, TimeSpec)>,
    left_out: Vec<PathBuf>,
}

/// Who owns an entry, and when it was changed.
struct Attributes {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    time: TimeSpec,
    extended: Vec<(String, Vec<u8>)>,
}

impl Unpacking {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), LayerError> {
        let name = entry.path().map_err(LayerError::Archive)?.into_owned();
        let path = tree::clean(&name).map_err(|problem| LayerError::Entry {
            path: name,
            problem,
        })?;
        let attributes = attributes(entry).map_err(LayerError::Archive)?;
        let failed = |source| LayerError::Write {
            path: path.clone(),
            source,
        };
        if let Some(result) = self.whiteout(&path) {
            return result.map_err(failed);
        }
        let result = match entry.header().entry_type() {
            EntryType::Directory => self.directory(&path, &attributes),
            kind if is_file(kind) => self.file(&path, &attributes, entry),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.symlink(&path, &attributes, OsStr::from_bytes(&target))
            }
            EntryType::Link => {
                let target = entry
                    .link_name()
                    .map_err(LayerError::Archive)?
                    .unwrap_or_default()
                    .into_owned();
                return self.hard_link(&path, &target);
            }
            EntryType::Fifo => self.fifo(&path, &attributes),
            EntryType::Block | EntryType::Char => {
                if self.left_out.len() < MOST_LEFT_OUT {
                    self.left_out.push(path);
                }
                return Ok(());
            }
            EntryType::XGlobalHeader => Ok(()),
            _ => {
                return Err(LayerError::Entry {
                    path,
                    problem: "is of a kind that images don't have",
                });
            }
        };
        result.map_err(failed)
    }

    /// Turns the layer's way of saying "gone" into that of overlayfs; `None` for other names.
    fn whiteout(&mut self, path: &Path) -> Option<io::Result<()>> {
        let name = path.file_name()?.as_bytes().strip_prefix(b".wh.")?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Some(match name {
            b".wh..opq" => self
                .tree
                .with_parent(path, |_, _| Ok(()))
                .and_then(|()| self.tree.folder(&folder))
                .and_then(|folder| {
                    Ok(rustix::fs::fsetxattr(
                        &folder,
                        "trusted.overlay.opaque",
                        b"y",
                        XattrFlags::empty(),
                    )?)
                }),
            // What aufs left behind in old images.
            [b'.', b'w', b'h', b'.', ..] => Ok(()),
            b"" | b"." | b".." => Err(io::Error::from(io::ErrorKind::InvalidInput)),
            hidden => {
                self.tree
                    .with_parent(&folder.join(OsStr::from_bytes(hidden)), |parent, name| {
                        remove_at(parent, name)?;
                        Ok(mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0)?)
                    })
            }
        })
    }

    fn directory(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        if !path.as_os_str().is_empty() {
            self.tree.with_parent(path, |parent, name| {
                if !tree::is_folder(parent, name) {
                    remove_at(parent, name)?;
                    mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
                }
                Ok(())
            })?;
            self.tree.forget();
        }
        let folder = self.tree.folder(path)?;
        attributes.apply(folder.as_fd())?;
        self.folders.push((path.to_owned(), attributes.time));
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        content: &mut impl Read,
    ) -> io::Result<()> {
        self.tree.with_parent(path, |parent, name| {
            remove_at(parent, name)?;
            let flags = OFlag::O_WRONLY
                | OFlag::O_CREAT
                | OFlag::O_EXCL
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC;
            let mut file: std::fs::File =
                openat(parent, name, flags, Mode::from_bits_truncate(0o600))?.into();
            io::copy(content, &mut file)?;
            attributes.apply(file.as_fd())
        })
    }

    fn symlink(&mut self, path: &Path, attributes: &Attributes, target: &OsStr) -> io::Result<()> {
        self.tree.with_parent(path, |parent, name| {
            remove_at(parent, name)?;
            symlinkat(target, parent, name)?;
            attributes.apply_to_name(parent, name)
        })?;
        self.tree.forget();
        Ok(())
    }

    fn fifo(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        self.tree.with_parent(path, |parent, name| {
            remove_at(parent, name)?;
            mkfifoat(parent, name, attributes.mode)?;
            attributes.apply_to_name(parent, name)
        })
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), LayerError> {
        let refused = |problem| LayerError::Entry {
            path: path.to_owned(),
            problem,
        };
        let target = tree::clean(target).map_err(|_| refused("is a hard link out of the image"))?;
        let result = self.tree.with_parent(&target, |folder, name| {
            Ok((folder.try_clone_to_owned()?, name.to_owned()))
        });
        let (folder, target_name) = result.map_err(|source| LayerError::Write {
            path: path.to_owned(),
            source,
        })?;
        let linked = self.tree.with_parent(path, |parent, name| {
            remove_at(parent, name)?;
            Ok(linkat(
                &folder,
                target_name.as_os_str(),
                parent,
                name,
                AtFlags::empty(),
            )?)
        });
        match linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(refused("is a hard link to what the layer doesn't have"))
            }
            other => other.map_err(|source| LayerError::Write {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn settle_folders(&mut self) -> Result<(), LayerError> {
        for (path, time) in self.folders.drain(..) {
            let settled = match self.tree.folder(&path) {
                // A later entry put something else in its place.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    Ok(())
                }
                Err(error) => Err(error),
                Ok(folder) => futimens(&folder, &time, &time).map_err(Into::into),
            };
            settled.map_err(|source| LayerError::Write { path, source })?;
        }
        Ok(())
    }
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Attributes> {
    let mut extended = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Some(name) = extension
            .key()
            .ok()
            .and_then(|key| key.strip_prefix("SCHILY.xattr."))
        else {
            continue;
        };
        if name == "security.capability" || name.starts_with("user.") {
            extended.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    let header = entry.header();
    let number = |n: u64| {
        u32::try_from(n).map_err(|_| io::Error::other("an owner's number is out of range"))
    };
    Ok(Attributes {
        uid: Uid::from_raw(number(header.uid()?)?),
        gid: Gid::from_raw(number(header.gid()?)?),
        mode: Mode::from_bits_truncate(header.mode()? & 0o7777),
        time: TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(0), 0),
        extended,
    })
}

impl Attributes {
    /// Sets them in the order in which none undoes another: a change of owner clears set-uid and
    /// capabilities.
    fn apply(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))?;
        fchmod(file, self.mode)?;
        for (name, value) in &self.extended {
            rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty())?;
        }
        Ok(futimens(file, &self.time, &self.time)?)
    }

    /// The same for what can't be opened without side effects.
    fn apply_to_name(&self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        fchownat(
            parent,
            name,
            Some(self.uid),
            Some(self.gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        Ok(utimensat(
            parent,
            name,
            &self.time,
            &self.time,
            UtimensatFlags::NoFollowSymlink,
        )?)
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
