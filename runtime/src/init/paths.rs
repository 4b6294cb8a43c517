//! Paths inside a root that can't be trusted: every one becomes a descriptor, resolved by the kernel
//! with that root as its end of the world, whatever links the image holds or another container that
//! shares a volume swaps in meanwhile (CVE-2019-18837, CVE-2021-30465, CVE-2024-45310).
//!
//! The kernel resolves, so there is no check that could be outrun. Nothing here allocates.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::symlinkat;

use crate::sys::mount::read_link;

/// How a path may be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Links are followed, inside the root.
    Inside,
    /// They are followed, but for the last component, which is taken for what it is.
    LastKept,
    /// No component may be a link: for /proc, /sys and /dev, which an image could turn into links to
    /// where we would then write (CVE-2023-27561, CVE-2026-41579).
    Refused,
}

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    /// A link to be mounted: what it is mounted on can be any file.
    Link,
}

/// Opens a path below `root`.
pub(crate) fn open(
    root: BorrowedFd,
    path: &CStr,
    flags: OFlag,
    links: Links,
) -> nix::Result<OwnedFd> {
    let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let mut flags = flags | OFlag::O_CLOEXEC;
    match links {
        Links::Inside => {}
        Links::LastKept => flags |= OFlag::O_NOFOLLOW,
        Links::Refused => resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS,
    }
    let mut how = OpenHow::new().flags(flags).resolve(resolve);
    if flags.contains(OFlag::O_CREAT) {
        how = how.mode(Mode::from_bits_truncate(0o644));
    }
    // The kernel gives up on ".." when something was renamed meanwhile. Someone may be renaming in a
    // loop on purpose, so trying again has an end.
    for _ in 0..128 {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

/// Opens a path to mount on (`O_PATH`), making it and the directories above it where they are missing.
pub(crate) fn open_or_make(
    root: BorrowedFd,
    path: &CStr,
    kind: Kind,
    links: Links,
) -> nix::Result<OwnedFd> {
    match open(root, path, OFlag::O_PATH, links) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    PathBuffer::new(path.to_bytes())?.make(root, kind, links, 8)
}

/// Makes a directory and those above it.
pub(crate) fn make_directory(root: BorrowedFd, path: &CStr, links: Links) -> nix::Result<OwnedFd> {
    open_or_make(root, path, Kind::Directory, links)
}

/// Makes a symbolic link, and the directories above it. One that is there already must say the same.
pub(crate) fn make_link(root: BorrowedFd, path: &CStr, target: &CStr) -> nix::Result<()> {
    let mut buffer = PathBuffer::new(path.to_bytes())?;
    let start = buffer.last_name_start();
    let directory = buffer.make_directories(root, start, Links::Inside)?;
    let end = buffer.length;
    match buffer.name(start, end, |name| symlinkat(target, &directory, name)) {
        Err(Errno::EEXIST) => {
            let mut text = [0; libc::PATH_MAX as usize];
            let length = buffer.name(start, end, |name| {
                read_link(directory.as_fd(), name, &mut text)
            });
            match length.ok().and_then(|length| text.get(..length)) == Some(target.to_bytes()) {
                true => Ok(()),
                false => Err(Errno::EEXIST),
            }
        }
        other => other,
    }
}

/// Tells what a descriptor is open on.
pub(crate) fn kind_of(fd: BorrowedFd) -> nix::Result<SFlag> {
    let stat = fstatat(fd, c"", AtFlags::AT_EMPTY_PATH)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT))
}

/// A path in a fixed buffer, with its terminator.
struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
    length: usize,
}

impl PathBuffer {
    fn new(path: &[u8]) -> nix::Result<Self> {
        let mut buffer = Self {
            bytes: [0; libc::PATH_MAX as usize],
            length: 0,
        };
        buffer.append(path)?;
        Ok(buffer)
    }

    fn append(&mut self, text: &[u8]) -> nix::Result<()> {
        let end = self.length + text.len();
        // One byte stays for the terminator.
        let space = self
            .bytes
            .get_mut(self.length..end)
            .ok_or(Errno::ENAMETOOLONG)?;
        if end == libc::PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        space.copy_from_slice(text);
        self.length = end;
        Ok(())
    }

    /// The path up to `end`, as a C string, for the time of a call.
    fn prefix<T>(
        &mut self,
        end: usize,
        call: impl FnOnce(&CStr) -> nix::Result<T>,
    ) -> nix::Result<T> {
        let byte = self.bytes.get_mut(end).ok_or(Errno::ENAMETOOLONG)?;
        let saved = std::mem::replace(byte, 0);
        let text = self.bytes.get(..=end).ok_or(Errno::ENAMETOOLONG)?;
        let result = match CStr::from_bytes_with_nul(text) {
            Ok(path) => call(path),
            Err(_) => Err(Errno::EINVAL),
        };
        if let Some(byte) = self.bytes.get_mut(end) {
            *byte = saved;
        }
        result
    }

    /// The name between two positions, as a C string, for the time of a call.
    fn name<T>(
        &mut self,
        start: usize,
        end: usize,
        call: impl FnOnce(&CStr) -> nix::Result<T>,
    ) -> nix::Result<T> {
        self.prefix(end, |path| {
            let name = path.to_bytes_with_nul().get(start..).ok_or(Errno::EINVAL)?;
            call(CStr::from_bytes_with_nul(name).map_err(|_| Errno::EINVAL)?)
        })
    }

    /// Makes what the path names. `depth` bounds a chain of dangling links.
    fn make(
        mut self,
        root: BorrowedFd,
        kind: Kind,
        links: Links,
        depth: u32,
    ) -> nix::Result<OwnedFd> {
        let start = self.last_name_start();
        let directory = self.make_directories(root, start, links)?;
        let end = self.length;
        let made = self.name(start, end, |name| match kind {
            Kind::Directory => mkdirat(&directory, name, Mode::from_bits_truncate(0o755)),
            Kind::File | Kind::Link => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
                open(directory.as_fd(), name, flags, Links::Refused).map(drop)
            }
        });
        match made {
            Ok(()) => {}
            // Somebody else made it, or it is a link to what doesn't exist: images have such, as
            // /etc/resolv.conf into /run. What the link names is made, still inside the root.
            Err(Errno::EEXIST | Errno::ELOOP) => {
                match self.prefix(end, |path| open(root, path, OFlag::O_PATH, links)) {
                    Err(Errno::ENOENT) if links == Links::Inside && depth > 0 => {
                        let target = self.link_target(directory.as_fd(), start)?;
                        return target.make(root, kind, links, depth - 1);
                    }
                    other => return other,
                }
            }
            Err(errno) => return Err(errno),
        }
        self.name(start, end, |name| {
            open(directory.as_fd(), name, OFlag::O_PATH, Links::Refused)
        })
    }

    fn last_name_start(&self) -> usize {
        let text = self.bytes.get(..self.length).unwrap_or_default();
        text.iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1)
    }

    /// Makes every directory above the position `until`, and opens the last.
    fn make_directories(
        &mut self,
        root: BorrowedFd,
        until: usize,
        links: Links,
    ) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut directory = open(root, c".", flags, links)?;
        let mut start = 0;
        for end in 0..until {
            if self.bytes.get(end) != Some(&b'/') {
                continue;
            }
            if end > start {
                directory = match self.prefix(end, |path| open(root, path, flags, links)) {
                    Err(Errno::ENOENT) => self.name(start, end, |name| {
                        mkdirat(&directory, name, Mode::from_bits_truncate(0o755))?;
                        open(directory.as_fd(), name, flags, Links::Refused)
                    })?,
                    other => other?,
                };
            }
            start = end + 1;
        }
        Ok(directory)
    }

    /// The path that the link at our last name stands for.
    fn link_target(&mut self, directory: BorrowedFd, start: usize) -> nix::Result<Self> {
        let mut text = [0; libc::PATH_MAX as usize];
        let end = self.length;
        let length = self.name(start, end, |name| read_link(directory, name, &mut text))?;
        let text = text.get(..length).ok_or(Errno::ENAMETOOLONG)?;
        let mut target = match text.first() {
            Some(b'/') => Self::new(b"")?,
            _ => Self::new(self.bytes.get(..start).unwrap_or_default())?,
        };
        target.append(text)?;
        Ok(target)
    }
}
