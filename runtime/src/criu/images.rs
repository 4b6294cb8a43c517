//! Where CRIU puts its images and its log, and what the log says.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::iter;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::rpc::{self, Response};
use super::{Error, Options};
use crate::init::restoration;

/// How much CRIU tells: all but the contents of its structures, as runc has it.
const LOG_LEVEL: i32 = 4;

/// The directories of a checkpoint, open.
#[derive(Debug)]
pub(super) struct Directories {
    images: Directory,
    work: Option<Directory>,
    scratch: CString,
    log: PathBuf,
}

#[derive(Debug)]
struct Directory {
    file: File,
    path: CString,
}

impl Directory {
    fn open(path: &Path) -> Result<Self, Error> {
        let open = || match File::open(path) {
            Ok(file) if file.metadata()?.is_dir() => Ok(Self {
                file,
                path: c_string(path)?,
            }),
            Ok(_) => Err(ErrorKind::NotADirectory.into()),
            Err(error) => Err(error),
        };
        open().map_err(Error::file("open", path))
    }
}

impl Directories {
    /// For a checkpoint: those that are missing are made.
    pub(super) fn make(options: &Options) -> Result<Self, Error> {
        make(options.images)?;
        Self::open(options, "dump.log")
    }

    /// For a restoration: the images must be there.
    pub(super) fn of_checkpoint(options: &Options) -> Result<Self, Error> {
        Self::open(options, "restore.log")
    }

    fn open(options: &Options, log: &str) -> Result<Self, Error> {
        let images = Directory::open(options.images)?;
        if let Some(work) = options.work {
            make(work)?;
        }
        let work = options.work.map(Directory::open).transpose()?;
        let log = options.work.unwrap_or(options.images).join(log);
        // One of an earlier request would be mistaken for this one's.
        match fs::remove_file(&log) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::file("remove", &log)(error))
            }
            _ => Ok(Self {
                images,
                work,
                scratch: c_string(options.scratch).map_err(Error::file("use", options.scratch))?,
                log,
            }),
        }
    }

    /// Where CRIU gets what only it sees.
    pub(super) fn scratch(&self) -> &CStr {
        &self.scratch
    }

    /// What CRIU has to open itself.
    pub(super) fn to_be_opened(&self) -> Vec<restoration::Directory<'_>> {
        let all = iter::once(&self.images).chain(&self.work);
        all.map(|directory| restoration::Directory {
            number: directory.file.as_fd(),
            path: &directory.path,
        })
        .collect()
    }

    /// The options of a request with these directories, and with what all requests have.
    pub(super) fn request(&self, options: &Options) -> rpc::Options {
        let log = self.log.file_name().unwrap_or_default();
        rpc::Options {
            images_dir_fd: self.images.file.as_raw_fd(),
            work_dir_fd: self.work.as_ref().map(|work| work.file.as_raw_fd()),
            cgroup_yard: Some(below(options.scratch, restoration::CGROUPS)),
            log_level: Some(LOG_LEVEL),
            log_file: Some(log.to_string_lossy().into_owned()),
            notify_scripts: Some(true),
            ext_unix_sk: Some(options.external_unix_sockets),
            tcp_established: Some(options.tcp_established),
            shell_job: Some(options.shell_job),
            file_locks: Some(options.file_locks),
            auto_dedup: Some(options.auto_dedup),
            lazy_pages: Some(options.lazy_pages),
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(options.manage_cgroups.number()),
            orphan_pts_master: Some(true),
            // Interfaces are the engine's affair, as for a container that is created.
            empty_ns: Some(libc::CLONE_NEWNET as u32),
            ..rpc::Options::default()
        }
    }

    /// The error for a request that CRIU hasn't carried out.
    pub(super) fn refused(&self, doing: &'static str, response: &Response) -> Error {
        let errno = response.errno.filter(|errno| *errno > 0);
        let words = || errno.map(|errno| nix::errno::Errno::from_raw(errno).desc().to_owned());
        // Of several errors the first is the cause.
        let first = response.message().lines().next();
        let message = first.map(|line| line.trim().to_owned());
        Error::Refused {
            doing,
            message: message.or_else(words).unwrap_or_default(),
            log: self.log.clone(),
            line: last_error(&self.log),
        }
    }

    /// The error for a CRIU that has ended early.
    pub(super) fn ended(&self, doing: &'static str, how: String) -> Error {
        Error::Ended {
            doing,
            how,
            log: self.log.clone(),
            line: last_error(&self.log),
        }
    }
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A path that CRIU is told.
pub(super) fn below(scratch: &Path, name: &CStr) -> String {
    format!("{}/{}", scratch.display(), name.to_string_lossy())
}

/// As runc: those above are made too.
fn make(directory: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true);
    builder
        .create(directory)
        .map_err(Error::file("make", directory))
}

/// The last line of a log that tells of an error, but for those that only tell that there was one.
fn last_error(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let errors = || text.lines().rev().filter(|line| line.contains("Error ("));
    let tells = |line: &&str| !line.contains(" FAILED") && !line.contains("killed by signal");
    let line = errors().find(tells).or_else(|| errors().next())?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_one_that_tells_something() {
        let log = std::env::temp_dir().join(format!("berth-criu-log-{}", std::process::id()));
        for (text, line) in [
            (
                "(00.1) Error (a.c:1): x\n(00.2) Dumping\n(00.3) Error (b.c:2): Dumping FAILED.\n",
                Some("(00.1) Error (a.c:1): x"),
            ),
            (
                "(00.1) Error (a.c:1): Restoring FAILED.\n",
                Some("(00.1) Error (a.c:1): Restoring FAILED."),
            ),
            ("(00.1) Warn  (a.c:1): x\n", None),
        ] {
            fs::write(&log, text).unwrap();
            assert_eq!(last_error(&log).as_deref(), line);
        }
        fs::remove_file(&log).unwrap();
        assert_eq!(last_error(&log), None);
    }
}
