//! A cgroup's files, opened relative to its directory.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::{Cgroup, Error};

pub(super) fn open_read(cgroup: &Cgroup, file: &str) -> Result<File, Error> {
    open(cgroup, file, OFlag::O_RDONLY)
}

pub(super) fn read(cgroup: &Cgroup, file: &str) -> Result<String, Error> {
    read_to_end(&cgroup.path, &open_read(cgroup, file)?, file)
}

/// Reads from the start, whatever has been read before.
pub(super) fn read_again(path: &Path, mut open: &File, file: &str) -> Result<String, Error> {
    open.rewind()
        .map_err(|failed| error(path, "lseek", file, errno_of(&failed)))?;
    read_to_end(path, open, file)
}

/// By hand: `read_to_end` of `std` asks for size and position first, which these files don't have.
fn read_to_end(path: &Path, mut open: &File, file: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let mut part = [0u8; 4096];
    loop {
        match open.read(&mut part) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(length) => bytes.extend(part.iter().take(length)),
            Err(failed) if failed.kind() == ErrorKind::Interrupted => {}
            Err(failed) => return Err(error(path, "read", file, errno_of(&failed))),
        }
    }
}

pub(super) fn write(cgroup: &Cgroup, file: &str, value: &str) -> Result<(), Error> {
    let refused = |errno| Error::Write {
        path: cgroup.path.clone(),
        file: file.to_owned(),
        value: value.to_owned(),
        errno,
    };
    let mut open = open(cgroup, file, OFlag::O_WRONLY)?;
    open.write_all(value.as_bytes())
        .map_err(|error| refused(errno_of(&error)))
}

/// The number after `name` in a file of "name number" lines; zero if there is none.
pub(super) fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn open(cgroup: &Cgroup, file: &str, flags: OFlag) -> Result<File, Error> {
    // A file's name may come from a configuration (`unified`): it stays in this directory.
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(&cgroup.directory, file, how)
        .map(File::from)
        .map_err(|errno| error(&cgroup.path, "open", file, errno))
}

pub(super) fn error(path: &Path, call: &'static str, file: &str, errno: Errno) -> Error {
    Error::File {
        call,
        path: path.to_owned(),
        file: file.to_owned(),
        errno,
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    match (error.raw_os_error(), error.kind()) {
        (Some(code), _) => Errno::from_raw(code),
        (None, ErrorKind::WriteZero) => Errno::EIO,
        (None, _) => Errno::EINVAL,
    }
}
