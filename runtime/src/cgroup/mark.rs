//! Whose a cgroup is.
//!
//! A path doesn't tell: two configurations may name the same one, and a runtime that is killed between
//! noting the path and making the cgroup leaves a note about what may be another's by now. Everything in
//! a container's cgroup is killed in the end, so the cgroup itself has to say whose it is: it carries a
//! mark in an extended attribute, which is set only where there is none, and which dies with it. (Its
//! inode's number would do as well, but becomes known only after the cgroup is made, so that there would
//! be a gap again; and a cgroup can't be made elsewhere and moved into place.)
//!
//! systemd's scopes are marked by their description, which they have from their first moment.

use std::ffi::CStr;
use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Cgroup, Error};
use crate::sys::{attribute, random};

/// Out of the reach of a container's root in a user namespace, and of whom a cgroup is delegated to.
const TRUSTED: &CStr = c"trusted.berth.container";
/// For a runtime that is root of a user namespace itself.
const USER: &CStr = c"user.berth.container";

/// Tells a container from all others, also from one of the same id in another state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(String);

impl Mark {
    /// A mark that nobody else has.
    pub fn new(id: &crate::ContainerId) -> Result<Self, Error> {
        let bits = random::bits().map_err(|errno| Error::Mark { errno })?;
        Ok(Self(format!("{id} {bits:016x}")))
    }

    /// The mark of this text.
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Marks a cgroup that has no mark yet.
pub(super) fn claim(cgroup: &Cgroup, mark: &Mark) -> Result<(), Error> {
    let create = |name| attribute::create(cgroup.directory(), name, mark.0.as_bytes());
    let created = match create(TRUSTED) {
        Err(Errno::EPERM) => create(USER),
        other => other,
    };
    match created {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => Err(Error::Marked {
            path: cgroup.path.clone(),
            by: read(cgroup)?.map(|mark| mark.0).unwrap_or_default(),
        }),
        Err(errno) => Err(super::files::error(&cgroup.path, "fsetxattr", "", errno)),
    }
}

/// A cgroup's mark, if it has one.
pub(super) fn read(cgroup: &Cgroup) -> Result<Option<Mark>, Error> {
    for name in [TRUSTED, USER] {
        // An id has at most 255 bytes.
        let mut buffer = [0; 512];
        match attribute::read(cgroup.directory(), name, &mut buffer) {
            Ok(length) => {
                let text = buffer.get(..length).unwrap_or_default();
                return Ok(Some(Mark(String::from_utf8_lossy(text).into_owned())));
            }
            // Not there; to those who may not see it the kernel says the same.
            Err(Errno::ENODATA | Errno::EPERM | Errno::ENOTSUP) => {}
            Err(errno) => return Err(super::files::error(&cgroup.path, "fgetxattr", "", errno)),
        }
    }
    Ok(None)
}
