//! The host's sysctls that we change, and what they were before.
//!
//! The previous value goes to a file before the new one is set, so that it can be put back whatever
//! happens in between. Sysctls of our own bridges are not recorded: they go with them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Problems, Result};

/// What the host needs, and why: packets between tasks and the world pass through it.
const WANTED: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1")];

/// The changes, kept in a file.
#[derive(Debug)]
pub(crate) struct Sysctls {
    record: PathBuf,
}

impl Sysctls {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            record: state_dir.join("sysctls.json"),
        }
    }

    /// Sets what the host needs. What has the value already is left alone and not recorded.
    pub(crate) fn ensure(&self) -> Result<()> {
        for (key, value) in WANTED {
            let before = read(key)?;
            if before != *value {
                self.remember(key, before)?;
                write(key, value)?;
            }
        }
        Ok(())
    }

    /// Puts back what was there before, and forgets it.
    pub(crate) fn restore(&self) -> Result<()> {
        let mut problems = Problems::default();
        for (key, value) in self.recorded()? {
            problems.note(write(&key, &value));
        }
        problems.finish("restore sysctls")?;
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &self.record, error))
            }
            _ => Ok(()),
        }
    }

    /// The first value is the one that counts: a later one may be ours, set and lost by a reboot.
    fn remember(&self, key: &str, value: String) -> Result<()> {
        let mut recorded = self.recorded()?;
        recorded.entry(key.to_owned()).or_insert(value);
        let text = serde_json::to_string_pretty(&recorded)
            .map_err(|error| Error::file("encode", &self.record, error))?;
        let temporary = self.record.with_extension("tmp");
        fs::write(&temporary, text).map_err(|error| Error::file("write", &temporary, error))?;
        fs::rename(&temporary, &self.record)
            .map_err(|error| Error::file("write", &self.record, error))
    }

    fn recorded(&self) -> Result<BTreeMap<String, String>> {
        match fs::read_to_string(&self.record) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Error::file("read", &self.record, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(Error::file("read", &self.record, error)),
        }
    }
}

/// Whether the kernel has a sysctl, in the calling thread's network namespace.
pub(crate) fn exists(key: &str) -> bool {
    path(key).exists()
}

/// Sets a sysctl in the calling thread's network namespace.
pub(crate) fn write(key: &str, value: &str) -> Result<()> {
    fs::write(path(key), value).map_err(|error| Error::io(format!("set {key} to {value}"), error))
}

fn read(key: &str) -> Result<String> {
    let text =
        fs::read_to_string(path(key)).map_err(|error| Error::file("read", &path(key), error))?;
    Ok(text.trim().to_owned())
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}
