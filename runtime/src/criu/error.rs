//! What can go wrong between this runtime and CRIU.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

/// Why a container couldn't be checkpointed or restored.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// There is no CRIU.
    #[error(
        "criu isn't in $PATH, and checkpoint and restore are its work: install the package criu"
    )]
    NotInstalled,
    /// CRIU is older than what is asked of it.
    #[error("{what} needs criu {needed}, and this host's is {found}: install a newer one")]
    TooOld {
        /// What was asked.
        what: &'static str,
        /// The first version that can do it.
        needed: String,
        /// The version that is installed.
        found: String,
    },
    /// CRIU and this kernel can't do what a flag asks for.
    #[error("{flag}: criu can't {what} on this host (criu check --feature {feature})")]
    MissingFeature {
        /// The flag.
        flag: &'static str,
        /// What it asks for.
        what: &'static str,
        /// CRIU's name for that.
        feature: &'static str,
    },
    /// A flag has a value that it must not have.
    #[error("{flag} {value}: {expected}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is right.
        expected: String,
    },
    /// Something of the configuration can't be checkpointed or restored.
    #[error("{field}: {reason}")]
    Config {
        /// The field's path.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// A standard stream can't take the place of what there was.
    #[error(
        "standard stream {number} was the file {was}, and can't become anything but a file: redirect it"
    )]
    Stream {
        /// 0, 1 or 2.
        number: i32,
        /// The file.
        was: String,
    },
    /// A file or directory couldn't be used.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// CRIU refused, or gave up.
    #[error("criu can't {doing}{}{}", said(message), logged(log, line.as_deref()))]
    Refused {
        /// What was asked of it.
        doing: &'static str,
        /// What it answered, if it had words.
        message: String,
        /// Where it tells more.
        log: PathBuf,
        /// The last error there.
        line: Option<String>,
    },
    /// CRIU ended without an answer.
    #[error("criu ended before it had answered a request to {doing} ({how}){}", logged(log, line.as_deref()))]
    Ended {
        /// What was asked of it.
        doing: &'static str,
        /// How it ended.
        how: String,
        /// Where it tells more.
        log: PathBuf,
        /// The last error there.
        line: Option<String>,
    },
    /// CRIU's answer isn't one.
    #[error("criu's answer can't be understood: {0}")]
    Answer(String),
}

impl Error {
    /// For use with `map_err`.
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }

    pub(super) fn flag(flag: &'static str, value: impl ToString, expected: &str) -> Self {
        Self::Flag {
            flag,
            value: value.to_string(),
            expected: expected.to_owned(),
        }
    }
}

fn said(message: &str) -> String {
    match message.is_empty() {
        true => String::new(),
        false => format!(": {message}"),
    }
}

fn logged(log: &Path, line: Option<&str>) -> String {
    match line {
        Some(line) => format!("; {} says: {line}", log.display()),
        None => format!("; see {}", log.display()),
    }
}
