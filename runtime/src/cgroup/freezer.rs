//! Stopping a cgroup's processes where they are, and letting them go on.

use std::time::Duration;

use super::events::{self, Event};
use super::{Cgroup, Error, files};

const FILE: &str = "cgroup.freeze";

/// Freezes, and waits until all are frozen.
///
/// A process that sleeps uninterruptibly, such as on a dead network file system, doesn't freeze before
/// it wakes: then everything is thawed again, so that nothing is left half frozen.
pub(super) fn freeze(cgroup: &Cgroup, patience: Duration) -> Result<(), Error> {
    files::write(cgroup, FILE, "1")?;
    if events::wait(cgroup, Event::Frozen, true, Some(patience))? {
        return Ok(());
    }
    files::write(cgroup, FILE, "0")?;
    Err(Error::NotFrozen {
        path: cgroup.path.clone(),
        seconds: patience.as_secs(),
    })
}

/// Thaws. The processes run at once, unless a cgroup above is frozen too.
pub(super) fn thaw(cgroup: &Cgroup) -> Result<(), Error> {
    files::write(cgroup, FILE, "0")
}
