//! Hearing of memory events when they happen.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;

use super::statistics::{MemoryEvents, parse_memory_events};
use super::{Cgroup, Error, files};

const FILE: &str = "memory.events";

/// The counters of a cgroup's memory events, open.
///
/// Its descriptor is ready for exceptional events (`POLLPRI`) whenever a counter has changed since
/// [`Self::read`].
#[derive(Debug)]
pub struct MemoryWatch {
    file: File,
    path: PathBuf,
}

impl MemoryWatch {
    pub(super) fn open(cgroup: &Cgroup) -> Result<Option<Self>, Error> {
        match files::open_read(cgroup, FILE) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            other => other.map(|file| {
                Some(Self {
                    file,
                    path: cgroup.path.clone(),
                })
            }),
        }
    }

    /// The counters. Once the cgroup is gone this is `ENODEV`.
    pub fn read(&self) -> Result<MemoryEvents, Error> {
        let text = files::read_again(&self.path, &self.file, FILE)?;
        Ok(parse_memory_events(&text))
    }
}

impl AsFd for MemoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
