//! The files that say what is taken: an address, a network namespace.
//!
//! One is there before anything else of what it is about, and goes after everything else. It says during which boot it
//! was made: a reboot takes everything but the files, so one of an earlier boot, or one that was not written to the
//! end, is nobody's.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::sysctls;

/// What distinguishes this boot of the host from every other.
pub(crate) fn boot_id() -> Result<String> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id.clone());
    }
    let id = sysctls::read("kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| id).clone())
}

/// Writes a file; false if somebody else has.
pub(crate) fn write(path: &Path, allocation: &impl Serialize) -> Result<bool> {
    let text =
        serde_json::to_string(allocation).map_err(|error| Error::file("encode", path, error))?;
    let mut file = match create(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(Error::file("create", path, error)),
    };
    if let Err(error) = file.write_all(text.as_bytes()) {
        remove(path)?;
        return Err(Error::file("write", path, error));
    }
    Ok(true)
}

fn create(path: &Path) -> io::Result<File> {
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            File::create_new(path)
        }
        outcome => outcome,
    }
}

/// What a file says; nothing if it is not a whole one.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = fs::read(path).map_err(|error| Error::file("read", path, error))?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// The same where another process may have the network: a file that has just gone is nobody's.
pub(crate) fn read_of_another<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match read(path) {
        Err(_) if !path.exists() => Ok(None),
        outcome => outcome,
    }
}

/// Removes a file; none is fine too.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// What is in a folder, if that is there.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        outcome => outcome.map_err(|error| Error::file("read", directory, error)),
    }
}
