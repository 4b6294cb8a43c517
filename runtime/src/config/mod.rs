//! Loading a configuration and refusing one that is wrong, before anything is made.
//!
//! A field that can't be honoured is refused by its name. Passing over it would run a container with
//! less confinement than was asked for.

mod bounds;
mod field;
mod hooks;
mod linux;
mod memory_policy;
mod mounts;
mod namespaces;
mod process;
mod required;
mod resources;
mod scheduler_flags;

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;
use thiserror::Error as ThisError;

use crate::cgroup::{self, Driver};
use crate::seccomp;

pub(crate) use linux::validate_schemata;
pub use namespaces::makes_namespace;
pub use process::validate_process;

/// The largest configuration that is read, in bytes: engines write a hundredth of it.
const MAX_SIZE: u64 = 16 << 20;

/// What is wrong with a configuration.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The file couldn't be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{}: larger than {MAX_SIZE} bytes, which no configuration needs", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file isn't a configuration.
    #[error("{}: {}: {}", path.display(), brief(field), brief(source))]
    Parse {
        /// The file.
        path: PathBuf,
        /// The field's path; a dot for the document itself.
        field: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field has a value that it must not have.
    #[error("{field}: {value} {expected}")]
    Value {
        /// The field's path.
        field: String,
        /// What it has.
        value: String,
        /// What is right.
        expected: String,
    },
    /// A field that must be there isn't.
    #[error("{field} is missing: {expected}")]
    Missing {
        /// The field's path.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A field that this runtime doesn't honour.
    #[error("{field} is not supported by this runtime{hint}")]
    Unsupported {
        /// The field's path.
        field: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The filter of system calls is wrong.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// The limits are wrong.
    #[error(transparent)]
    Limits(#[from] cgroup::Error),
}

impl Error {
    pub(crate) fn no_process() -> Self {
        Self::Missing {
            field: "process",
            expected: "a container runs one",
        }
    }

    pub(crate) fn no_linux() -> Self {
        Self::Missing {
            field: "linux",
            expected: "its namespaces",
        }
    }

    pub(crate) fn no_class() -> Self {
        Self::Missing {
            field: "linux.intelRdt.schemata",
            expected: "the container has no class of service whose lines could be changed",
        }
    }

    pub(crate) fn no_root() -> Self {
        Self::Missing {
            field: "root",
            expected: "the root filesystem's path",
        }
    }
}

/// Whether the container's processes are never to gain rights by what they execute.
pub(crate) fn no_new_privileges(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    process.and_then(oci_spec::runtime::Process::no_new_privileges) == Some(true)
}

/// As much of a text as an error repeats: it may be of megabytes.
fn brief(text: &impl ToString) -> String {
    bounds::beginning(&text.to_string(), 1000)
}

fn value(
    field: impl Into<String>,
    value: impl std::fmt::Debug,
    expected: impl Into<String>,
) -> Error {
    Error::Value {
        field: field.into(),
        value: brief(&format!("{value:?}")),
        expected: expected.into(),
    }
}

/// Reads a configuration and parses it. Whether its values make sense is for [`validate`] to say, which
/// [`create`](crate::create) does first.
pub fn load(path: &Path) -> Result<Spec, Error> {
    parse_configuration(path, &read(path)?)
}

/// Parses a configuration that came from `path`.
pub(crate) fn parse_configuration(path: &Path, bytes: &[u8]) -> Result<Spec, Error> {
    let spec =
        parse(path, bytes).or_else(|error| scheduler_flags::parse_again(path, bytes, error))?;
    required::check(path, bytes)?;
    Ok(spec)
}

/// Reads a file of JSON of the engine's, of a size that makes sense.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| {
            // With room for all of it and more, one call reads it and one finds the end.
            let size = file.metadata()?.len().min(MAX_SIZE) as usize;
            bytes.reserve(size + 64);
            file.take(MAX_SIZE + 1).read_to_end(&mut bytes)
        })
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
    match bytes.len() as u64 > MAX_SIZE {
        true => Err(Error::TooLarge {
            path: path.to_owned(),
        }),
        false => Ok(bytes),
    }
}

/// Parses JSON that came from `path`; an error names the field.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Parse {
        path: path.to_owned(),
        field: field::at(bytes, source.line(), source.column()),
        source,
    })
}

/// Tells what is wrong with a configuration, if anything. The driver decides what its `cgroupsPath` is
/// to look like.
pub fn validate(spec: &Spec, driver: Driver) -> Result<(), Error> {
    validate_all_but_filter(spec, driver)?;
    let filter = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    Ok(filter.map_or(Ok(()), seccomp::check)?)
}

/// The same but for the filter of system calls, which whoever uses it resolves anyway.
pub(crate) fn validate_all_but_filter(spec: &Spec, driver: Driver) -> Result<(), Error> {
    let version = spec.version();
    bounds::short_text("ociVersion", version)?;
    if version.split('.').next() != Some("1") || version.len() > 64 {
        let version = bounds::shortened(version);
        return Err(value("ociVersion", version, "must be 1.x.y"));
    }
    validate_process(spec.process().as_ref().ok_or_else(Error::no_process)?)?;
    // The sections of other platforms are none of ours, as the specification has it; but one for a
    // virtual machine asks for another kind of isolation.
    if spec.vm().is_some() {
        return Err(Error::Unsupported {
            field: "vm".to_owned(),
            hint: ": a container shares the host's kernel",
        });
    }
    if let Some(root) = spec.root() {
        bounds::path("root.path", root.path())?;
        if root.path().as_os_str().is_empty() {
            return Err(value("root.path", "", "must name a directory"));
        }
    }
    hooks::validate(spec)?;
    mounts::validate(spec)?;
    let linux = spec.linux().as_ref().ok_or_else(Error::no_linux)?;
    namespaces::validate(spec, linux)?;
    linux::validate(linux, driver)?;
    if driver == Driver::Systemd {
        let annotations = spec.annotations().iter().flatten();
        cgroup::check_annotations(annotations)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
