//! Removing folders that programs nobody trusts have filled: what a container wrote, what an image
//! archive unpacked to.
//!
//! Such a folder may be nested as deep as its author likes. The standard library goes down by
//! recursion with a descriptor open at each level, so that a tree of some thousand levels leaves
//! the agent without descriptors, or without stack. Here a folder that isn't empty is first moved
//! up to the top: the work is never more than one level deep.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes a file or a folder with all that is in it; nothing is fine too. Links aren't followed.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_at(AT_FDCWD, path.as_os_str())
}

/// The same for a name in a folder.
pub fn remove_at(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut top = Top {
        folder: open(folder, name)?,
        lifted: 0,
    };
    while top.pass()? {}
    Ok(unlinkat(folder, name, UnlinkatFlags::RemoveDir)?)
}

/// The folder that is being emptied.
struct Top {
    folder: OwnedFd,
    /// How many folders have been moved up to it.
    lifted: u64,
}

impl Top {
    /// Removes what can be, and lifts what is in the folders that can't. `false` when none is left.
    fn pass(&mut self) -> io::Result<bool> {
        let mut some = false;
        for name in names(open(&self.folder, c".")?)? {
            let name = name?;
            some = true;
            if gone(&self.folder, &name)? {
                continue;
            }
            let inner = open(&self.folder, name.as_c_str())?;
            for child in names(open(&inner, c".")?)? {
                let child = child?;
                if !gone(&inner, &child)? {
                    self.lift(&inner, &child)?;
                }
            }
            gone(&self.folder, &name)?;
        }
        Ok(some)
    }

    fn lift(&mut self, from: &OwnedFd, name: &CStr) -> io::Result<()> {
        loop {
            self.lifted += 1;
            let place = format!(".lifted-{}", self.lifted);
            match renameat(from, name, &self.folder, place.as_str()) {
                // Something of that name is in the tree already.
                Err(Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {}
                result => return Ok(result?),
            }
        }
    }
}

/// Removes a file or an empty folder; `false` for a folder that isn't empty.
fn gone(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open<P: ?Sized + nix::NixPath>(folder: impl AsFd, name: &P) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// The names in a folder, read while they are removed: there may be more than memory.
fn names(folder: OwnedFd) -> nix::Result<impl Iterator<Item = nix::Result<std::ffi::CString>>> {
    let listing = nix::dir::Dir::from_fd(folder)?.into_iter();
    Ok(listing
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .filter(|name| !matches!(name.as_deref().map(CStr::to_bytes), Ok(b"." | b".."))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("berth-removal-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_links_are_not_followed() {
        let (tree, kept) = (place("tree"), place("kept"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        // The name that the first folder would be lifted to.
        std::fs::create_dir_all(tree.join(".lifted-1/x/y")).unwrap();
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(kept.join("file"), "").unwrap();
        std::fs::write(tree.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
        remove(&tree).unwrap();
        std::os::unix::fs::symlink(&kept, &tree).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.is_symlink());
        assert!(kept.join("file").exists());
        remove(&kept).unwrap();
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let tree = place("deep");
        std::fs::create_dir_all(&tree).unwrap();
        let mut folder = open(AT_FDCWD, tree.as_path()).unwrap();
        for _ in 0..5_000 {
            nix::sys::stat::mkdirat(&folder, "d", Mode::S_IRWXU).unwrap();
            folder = open(&folder, "d").unwrap();
        }
        let removed = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn({
                let tree = tree.clone();
                move || remove(&tree)
            })
            .unwrap();
        removed.join().unwrap().unwrap();
        assert!(!tree.exists());
    }
}
