//! Showing what containers print while they print it: their log files, followed by inotify.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::supervisor::log::{Line, Stream, files};

/// A thread that shows logs until it is told that nothing more will come.
pub struct Follower {
    thread: JoinHandle<()>,
    /// Closed to say so.
    end: Option<std::os::fd::OwnedFd>,
}

impl Follower {
    /// Follows the logs of these containers in that folder, from their beginning.
    pub fn start(folder: PathBuf, containers: Vec<String>) -> anyhow::Result<Self> {
        crate::engine::make_folder(&folder)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .context("starting inotify")?;
        let events =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM;
        inotify
            .add_watch(&folder, events)
            .with_context(|| format!("watching {}", folder.display()))?;
        let (until, end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let mut shown = Shown::new(&folder, containers);
        let thread = std::thread::spawn(move || {
            loop {
                shown.catch_up();
                let mut fds = [
                    PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
                    PollFd::new(until.as_fd(), PollFlags::POLLIN),
                ];
                if poll(&mut fds, PollTimeout::NONE).is_err_and(|error| error != nix::Error::EINTR)
                {
                    return;
                }
                let ended = fds[1].any().unwrap_or(true);
                inotify.read_events().map(drop).ok();
                if ended {
                    shown.catch_up();
                    return;
                }
            }
        });
        let end = Some(end);
        Ok(Self { thread, end })
    }

    /// Says that nothing more will come. Said early, the kernel's 5 to 20 ms to close an inotify
    /// pass beside whatever else there is to do.
    pub fn end(&mut self) {
        self.end = None;
    }

    /// Shows the rest.
    pub fn finish(mut self) {
        self.end();
        if self.thread.join().is_err() {
            tracing::error!("showing the logs broke off");
        }
    }
}

/// How far each container's log has been shown.
pub struct Shown {
    logs: Vec<Log>,
    width: usize,
}

struct Log {
    container: String,
    path: PathBuf,
    /// The file that is being read; its name may have changed meanwhile.
    reader: Option<BufReader<File>>,
    /// The beginning of a record whose end isn't written yet.
    record: Vec<u8>,
    /// Whether the next text goes on a line that has been begun, by stream.
    begun: HashMap<&'static str, bool>,
}

impl Shown {
    /// Nothing has been shown.
    pub fn new(folder: &Path, containers: Vec<String>) -> Self {
        let width = if containers.len() > 1 {
            containers.iter().map(String::len).max().unwrap_or(0)
        } else {
            0
        };
        let log = |container: String| Log {
            path: folder.join(format!("{container}.log")),
            container,
            reader: None,
            record: Vec::new(),
            begun: HashMap::new(),
        };
        Self {
            logs: containers.into_iter().map(log).collect(),
            width,
        }
    }

    /// Shows what has come since.
    pub fn catch_up(&mut self) {
        for log in &mut self.logs {
            if let Err(error) = log.catch_up(self.width) {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    return;
                }
                tracing::error!(container = log.container, %error, "reading the log");
            }
        }
    }
}

impl Log {
    fn catch_up(&mut self, width: usize) -> io::Result<()> {
        loop {
            if self.reader.is_none() {
                let Some(oldest) = files(&self.path).into_iter().next() else {
                    return Ok(());
                };
                self.reader = Some(BufReader::new(File::open(oldest)?));
            }
            self.read_records(width)?;
            match self.successor()? {
                Some(next) => self.reader = Some(BufReader::new(next)),
                None => return Ok(()),
            }
        }
    }

    /// The file that was begun after the one that is being read, if that has been put aside.
    fn successor(&self) -> io::Result<Option<File>> {
        let Some(reader) = &self.reader else {
            return Ok(None);
        };
        let current = reader.get_ref().metadata()?.ino();
        let all = files(&self.path);
        let place = all
            .iter()
            .position(|path| path.metadata().is_ok_and(|meta| meta.ino() == current));
        // A file that is gone was the oldest: what follows it is the oldest now.
        let next = place.map_or(0, |place| place + 1);
        all.get(next).map(File::open).transpose()
    }

    fn read_records(&mut self, width: usize) -> io::Result<()> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let mut out = [Vec::new(), Vec::new()];
        loop {
            reader.read_until(b'\n', &mut self.record)?;
            if self.record.last() != Some(&b'\n') {
                break;
            }
            self.record.pop();
            if let Some(line) = Line::parse(&self.record) {
                let (out, key) = match line.stream {
                    Stream::Stdout => (&mut out[0], "stdout"),
                    Stream::Stderr => (&mut out[1], "stderr"),
                };
                let begun = self.begun.entry(key).or_default();
                if !*begun && width > 0 {
                    out.extend_from_slice(format!("{:width$} | ", self.container).as_bytes());
                }
                out.extend_from_slice(line.text);
                *begun = !line.whole;
                if line.whole {
                    out.push(b'\n');
                }
            }
            self.record.clear();
        }
        let [stdout, stderr] = out;
        io::stdout().write_all(&stdout)?;
        io::stdout().flush()?;
        io::stderr().write_all(&stderr)
    }
}
