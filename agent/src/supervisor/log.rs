//! A container's log file: what it printed, line by line, with the moment and the stream.
//!
//! The format is that of the Kubernetes CRI (`<moment> stdout F <line>`, `P` for a part of a line
//! too long to wait for), which people's tools can read. A file that grows past [`LIMIT`] becomes
//! `.1`, and that `.2`; what was `.2` goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::id::Timestamp;

/// The size at which a file is put aside, in bytes.
pub const LIMIT: u64 = 10 << 20;

/// How many files that were put aside stay.
const KEPT: u32 = 2;

/// The longest line that is kept in one piece.
const LONGEST_LINE: usize = 16 << 10;

/// Which of its outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Writes one container's log.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    /// The beginnings of lines whose end hasn't come, by stream.
    unfinished: [Vec<u8>; 2],
    record: Vec<u8>,
}

impl LogWriter {
    /// Opens the file, or makes it, to go on at its end.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            unfinished: Default::default(),
            record: Vec::new(),
        })
    }

    /// Writes what came, with the lines that it ends.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let moment = Timestamp::now().to_string();
        let mut unfinished = std::mem::take(&mut self.unfinished[stream as usize]);
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            match part.split_last() {
                Some((b'\n', line)) => {
                    self.add(&moment, stream, "F", &unfinished, line);
                    unfinished.clear();
                }
                _ => unfinished.extend_from_slice(part),
            }
            while unfinished.len() >= LONGEST_LINE {
                let rest = unfinished.split_off(LONGEST_LINE);
                self.add(&moment, stream, "P", &unfinished, &[]);
                unfinished = rest;
            }
        }
        self.unfinished[stream as usize] = unfinished;
        self.flush()
    }

    /// Writes the last line of a stream that ended without a line feed.
    pub fn end(&mut self, stream: Stream) -> io::Result<()> {
        let unfinished = std::mem::take(&mut self.unfinished[stream as usize]);
        if !unfinished.is_empty() {
            self.add(&Timestamp::now().to_string(), stream, "F", &unfinished, &[]);
        }
        self.flush()
    }

    fn add(&mut self, moment: &str, stream: Stream, flag: &str, start: &[u8], end: &[u8]) {
        for part in [
            moment.as_bytes(),
            b" ",
            stream.name().as_bytes(),
            b" ",
            flag.as_bytes(),
            b" ",
            start,
            end,
            b"\n",
        ] {
            self.record.extend_from_slice(part);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.record.is_empty() {
            return Ok(());
        }
        // Taken first: what can't be written is gone, and doesn't pile up in memory.
        let record = std::mem::take(&mut self.record);
        if self.size > 0 && self.size + record.len() as u64 > LIMIT {
            self.rotate()?;
        }
        self.file.write_all(&record)?;
        self.size += record.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..KEPT).rev() {
            rename_if_there(&aside(&self.path, n), &aside(&self.path, n + 1))?;
        }
        rename_if_there(&self.path, &aside(&self.path, 1))?;
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The name of the `n`th file that was put aside.
pub fn aside(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// A container's log files that exist, the oldest first.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let all = (1..=KEPT)
        .rev()
        .map(|n| aside(path, n))
        .chain([path.to_owned()]);
    all.filter(|path| path.exists()).collect()
}

/// A line of a log file, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, RFC 3339.
    pub moment: &'a str,
    /// Where it was written to.
    pub stream: Stream,
    /// Whether the line ends here.
    pub whole: bool,
    /// What was written.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line apart; `None` where it isn't one of ours.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let moment = std::str::from_utf8(fields.next()?).ok()?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let whole = match fields.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self {
            moment,
            stream,
            whole,
            text: fields.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log(PathBuf);

    impl Log {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("berth-log-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder.join("c.log"))
        }

        fn texts(&self) -> Vec<String> {
            let content = std::fs::read(&self.0).unwrap();
            let line = |line: &[u8]| {
                let line = Line::parse(line).unwrap();
                let flag = if line.whole { "F" } else { "P" };
                format!(
                    "{} {flag} {}",
                    line.stream.name(),
                    String::from_utf8_lossy(line.text)
                )
            };
            content
                .split(|&b| b == b'\n')
                .filter(|l| !l.is_empty())
                .map(line)
                .collect()
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            std::fs::remove_dir_all(self.0.parent().unwrap()).ok();
        }
    }

    #[test]
    fn lines_are_put_together_by_stream() {
        let log = Log::new("lines");
        let mut writer = LogWriter::open(&log.0).unwrap();
        writer.write(Stream::Stdout, b"one\ntw").unwrap();
        writer.write(Stream::Stderr, b"oops\n").unwrap();
        writer.write(Stream::Stdout, b"o\n\nend").unwrap();
        writer.end(Stream::Stdout).unwrap();
        assert_eq!(
            log.texts(),
            [
                "stdout F one",
                "stderr F oops",
                "stdout F two",
                "stdout F ",
                "stdout F end"
            ]
        );
    }

    #[test]
    fn a_line_without_an_end_does_not_grow_in_memory() {
        let log = Log::new("long");
        let mut writer = LogWriter::open(&log.0).unwrap();
        writer
            .write(Stream::Stdout, &vec![b'x'; 3 * LONGEST_LINE + 5])
            .unwrap();
        writer.write(Stream::Stdout, b"y\n").unwrap();
        let texts = log.texts();
        assert_eq!(texts.len(), 4);
        assert!(texts[..3].iter().all(|text| text.starts_with("stdout P x")));
        assert_eq!(texts[3], "stdout F xxxxxy");
    }

    #[test]
    fn what_cannot_be_written_does_not_pile_up_in_memory() {
        let log = Log::new("refused");
        let mut writer = LogWriter::open(&log.0).unwrap();
        writer.size = LIMIT;
        // A folder in its place refuses the file that is to be put aside.
        std::fs::create_dir_all(aside(&log.0, 2).join("x")).unwrap();
        std::fs::create_dir_all(aside(&log.0, 1)).unwrap();
        for _ in 0..3 {
            assert!(writer.write(Stream::Stdout, b"line\n").is_err());
            assert_eq!(writer.record.len(), 0);
        }
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let log = Log::new("rotate");
        let mut writer = LogWriter::open(&log.0).unwrap();
        let line = [vec![b'x'; 1 << 10], vec![b'\n']].concat().repeat(1 << 10);
        for _ in 0..45 {
            writer.write(Stream::Stdout, &line).unwrap();
        }
        let sizes: Vec<u64> = files(&log.0)
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| *size <= LIMIT), "{sizes:?}");
    }
}
