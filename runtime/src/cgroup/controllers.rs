//! Enabling controllers on the way down: only those that a limit needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Cgroup, Error, files, tree};

/// Which controllers the cgroups below one have.
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// A controller that couldn't be enabled.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) controller: String,
    /// The cgroup that would have to enable it.
    at: PathBuf,
    /// What that cgroup can enable.
    available: String,
    errno: Option<Errno>,
}

impl Missing {
    /// The error of a limit that needs it.
    pub(super) fn error(&self, file: &str) -> Error {
        Error::Controller {
            controller: self.controller.clone(),
            file: file.to_owned(),
            at: self.at.clone(),
            available: self.available.clone(),
            errno: self.errno,
        }
    }
}

/// Enables controllers in every cgroup above this one, as far as they aren't yet, and tells which
/// couldn't be.
pub(super) fn enable(cgroup: &Cgroup, wanted: &BTreeSet<&str>) -> Result<Vec<Missing>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    // What arrives here is what all those above have enabled: usually everything is there already, and
    // one read tells, however deep the cgroup is.
    let here = files::read(cgroup, "cgroup.controllers")?;
    let mut lacking: BTreeSet<&str> = wanted.difference(&words(&here)).copied().collect();
    let mut missing = Vec::new();
    if lacking.is_empty() {
        return Ok(missing);
    }
    for above in tree::above(&cgroup.path)? {
        let unavailable = enable_in(&above, &lacking)?;
        lacking.retain(|name| {
            unavailable
                .iter()
                .all(|missing| missing.controller != *name)
        });
        missing.extend(unavailable);
    }
    Ok(missing)
}

/// Waits until whoever is enabling controllers above this cgroup has done it.
///
/// The kernel says that a controller is enabled before it makes the controller's files in all the cgroups that get them,
/// and lets others look in between. Who changes something waits for it; so does this, which asks for no change.
pub(super) fn wait_for_others(cgroup: &Cgroup) -> Result<(), Error> {
    files::write(cgroup, SUBTREE_CONTROL, "\n")
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

fn enable_in(cgroup: &Cgroup, wanted: &BTreeSet<&str>) -> Result<Vec<Missing>, Error> {
    // Read before it is written: even a write that changes nothing takes the kernel's global lock.
    let enabled = files::read(cgroup, SUBTREE_CONTROL)?;
    let needed: Vec<&str> = wanted.difference(&words(&enabled)).copied().collect();
    if needed.is_empty() || files::write(cgroup, SUBTREE_CONTROL, &enabling(&needed)).is_ok() {
        return Ok(Vec::new());
    }
    // All or nothing, for the kernel: one by one, to enable what can be and to name what can't.
    let available = files::read(cgroup, "cgroup.controllers")?;
    let mut missing = Vec::new();
    for name in needed {
        let errno = match words(&available).contains(name) {
            false => None,
            true => match files::write(cgroup, SUBTREE_CONTROL, &enabling(&[name])) {
                Ok(()) => continue,
                Err(error) => error.errno(),
            },
        };
        missing.push(Missing {
            controller: name.to_owned(),
            at: Path::new("/").join(&cgroup.path),
            available: available.trim().to_owned(),
            errno,
        });
    }
    Ok(missing)
}

fn enabling(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("+{name}")).collect();
    names.join(" ")
}
