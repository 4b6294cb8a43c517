//! The standard streams: what they are when a container is checkpointed, and what takes their places
//! when it is restored.
//!
//! `descriptors.json` beside the images is runc's: a list of the three streams' names, of which pipes
//! count. A stream that is a file of the host, as /dev/null mostly is, has CRIU's name for it behind its
//! path.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

use super::Error;
use super::mounts::Table;
use super::rpc::InheritedDescriptor;

const FILE: &str = "descriptors.json";
const NULL: &str = "/dev/null";

/// The streams of a process that is to be checkpointed.
#[derive(Debug, Default)]
pub(super) struct Streams {
    names: Vec<String>,
    /// Those that are files outside the container, in CRIU's words.
    pub(super) external: Vec<String>,
}

/// How often, and how far apart, a stream is looked at.
const LOOKS: usize = 7;
const APART: Duration = Duration::from_millis(2);

impl Streams {
    /// What each stream mostly is: a shell has another in its place while a command of its own is
    /// redirected.
    pub(super) fn of(pid: Pid, mounts: &Table) -> Result<Self, Error> {
        let mut looks: Vec<[Stream; 3]> = Vec::new();
        for _ in 0..LOOKS {
            let look = |number| stream(pid, number, mounts);
            looks.push([look(0)?, look(1)?, look(2)?]);
            std::thread::sleep(APART);
        }
        let mut streams = Self::default();
        for number in 0..3 {
            let seen = || looks.iter().filter_map(|look| look.get(number));
            let count = |one: &&Stream| seen().filter(|other| other == one).count();
            let Some((name, external)) = seen().max_by_key(count) else {
                continue;
            };
            let new = external
                .iter()
                .filter(|external| !streams.external.contains(*external));
            let new: Vec<_> = new.cloned().collect();
            streams.external.extend(new);
            streams.names.push(name.clone());
        }
        Ok(streams)
    }

    /// Leaves the names beside the images.
    pub(super) fn save(&self, images: &Path) -> Result<(), Error> {
        let path = images.join(FILE);
        serde_json::to_vec(&self.names)
            .map_err(std::io::Error::from)
            .and_then(|text| fs::write(&path, text))
            .map_err(Error::file("write", &path))
    }
}

/// A stream's name, and CRIU's name for it if it is a file outside the container.
type Stream = (String, Option<String>);

fn stream(pid: Pid, number: i32, mounts: &Table) -> Result<Stream, Error> {
    // One that is closed has no name, and needs none.
    let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{number}")) else {
        return Ok(Stream::default());
    };
    let name = target.to_string_lossy().into_owned();
    match external(pid, number, mounts) {
        Ok(Some(external)) => Ok((format!("{name} {external}"), Some(external))),
        Ok(None) => Ok((name, None)),
        // Closed meanwhile.
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(Stream::default())
        }
        Err(error) => Err(error),
    }
}

/// CRIU's name for a file that isn't in the container's mount namespace.
fn external(pid: Pid, number: i32, mounts: &Table) -> Result<Option<String>, Error> {
    let path = format!("/proc/{pid}/fd/{number}");
    let metadata = fs::metadata(&path).map_err(Error::file("read", Path::new(&path)))?;
    let kind = metadata.file_type();
    // A terminal is CRIU's own affair.
    let is_null = kind.is_char_device() && metadata.rdev() == nix::sys::stat::makedev(1, 3);
    if !is_null && !kind.is_file() {
        return Ok(None);
    }
    let mount = super::mounts::id_of(&format!("/proc/{pid}/fdinfo/{number}"))?;
    let is_external = mounts.entry(mount).is_none();
    Ok(is_external.then(|| format!("file[{mount:x}:{:x}]", metadata.ino())))
}

/// The streams that a restored process inherits.
#[derive(Debug, Default)]
pub(super) struct Heirs {
    pub(super) inherited: Vec<InheritedDescriptor>,
    /// What isn't ours already.
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Reads what the streams were, and puts ours in their places.
pub(super) fn heirs(images: &Path) -> Result<Heirs, Error> {
    let path = images.join(FILE);
    let names = fs::read(&path)
        .and_then(|text| Ok(serde_json::from_slice::<Vec<String>>(&text)?))
        .map_err(Error::file("read the streams' names in", &path))?;
    let mut heirs = Heirs::default();
    for (number, name) in (0..3).zip(&names) {
        let (path, key) = match name.rsplit_once(' ') {
            Some((path, key)) if key.starts_with("file[") => (path, key),
            _ if name.starts_with("pipe:") => ("", name.as_str()),
            _ => continue,
        };
        // Two that were one become the first.
        if heirs.inherited.iter().any(|inherited| inherited.key == key) {
            continue;
        }
        let mut fd = number;
        if path == NULL {
            // What was nowhere stays there: to CRIU input and output are one file, and ours may be two.
            let null = File::options()
                .read(true)
                .write(true)
                .open(NULL)
                .map_err(Error::file("open", Path::new(NULL)))?;
            fd = null.as_raw_fd();
            heirs.descriptors.push(null.into());
        } else if !path.is_empty() {
            must_be_file(number, path)?;
        }
        heirs.inherited.push(InheritedDescriptor {
            key: key.to_owned(),
            fd,
        });
    }
    Ok(heirs)
}

/// CRIU sets the position that it had.
fn must_be_file(number: i32, was: &str) -> Result<(), Error> {
    let ours = format!("/proc/self/fd/{number}");
    match fs::metadata(&ours) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        _ => Err(Error::Stream {
            number,
            was: was.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_and_files_are_inherited_and_nothing_twice() {
        let images = std::env::temp_dir().join(format!("berth-streams-{}", std::process::id()));
        fs::create_dir(&images).unwrap();
        for (names, inherited) in [
            (r#"["/dev/pts/0","/dev/pts/0","/dev/pts/0"]"#, vec![]),
            (r#"["","pipe:[7]","pipe:[7]"]"#, vec![("pipe:[7]", Some(1))]),
            (
                r#"["pipe:[7]","/dev/null file[18:4]","/dev/null file[18:4]"]"#,
                vec![("pipe:[7]", Some(0)), ("file[18:4]", None)],
            ),
        ] {
            fs::write(images.join(FILE), names).unwrap();
            let heirs = heirs(&images).unwrap();
            let found: Vec<_> = heirs
                .inherited
                .iter()
                .map(|i| (i.key.as_str(), i.fd))
                .collect();
            assert_eq!(found.len(), inherited.len(), "{names}");
            for ((key, fd), (wanted, number)) in found.into_iter().zip(inherited) {
                assert_eq!(key, wanted);
                assert!(number.map_or(fd > 2, |number| number == fd), "{names}");
            }
        }
        for text in ["", "{}", "[1]"] {
            fs::write(images.join(FILE), text).unwrap();
            assert!(heirs(&images).is_err(), "{text}");
        }
        fs::remove_dir_all(&images).unwrap();
    }
}
