//! Applying limits to a cgroup, new or in use.

use std::collections::BTreeSet;

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::controllers::{self, Missing};
use super::limits::{self, IfAbsent, Write};
use super::{Cgroup, Error, Limits, Warning, files};

/// Writes all limits. The warnings are about what v2 has no file for, and what `BestEffort` let pass.
pub(super) fn apply(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    mode: Limits,
) -> Result<Vec<Warning>, Error> {
    let writes = limits::writes(resources)?;
    let mut warnings = limits::passed_over(resources);
    if let Some(memory) = resources.memory() {
        limits::check_usage(memory, cgroup)?;
    }
    let wanted: BTreeSet<&str> = writes
        .iter()
        .filter_map(|w| w.controller.as_deref())
        .collect();
    let missing = controllers::enable(cgroup, &wanted)?;
    // The kernel checks some limits against each other (burst against quota, weight against idle), so
    // the order that is right for raising them is wrong for lowering: what it refuses so is tried once
    // more after the rest.
    let (refused, mut failed) = write_all(cgroup, writes.iter(), &missing);
    let (again, failed_again) =
        write_all(cgroup, refused.iter().map(|(write, _)| *write), &missing);
    failed.extend(failed_again);
    failed.extend(again.into_iter().map(|(_, error)| error));
    for error in failed {
        match mode {
            Limits::Required => return Err(error),
            Limits::BestEffort => warnings.push(Warning::from(error)),
        }
    }
    Ok(warnings)
}

type Refused<'a> = Vec<(&'a Write, Error)>;

/// What the kernel found invalid, and what failed otherwise.
fn write_all<'a>(
    cgroup: &Cgroup,
    writes: impl Iterator<Item = &'a Write>,
    missing: &[Missing],
) -> (Refused<'a>, Vec<Error>) {
    let (mut refused, mut failed) = (Vec::new(), Vec::new());
    for write in writes {
        match write_one(cgroup, write, missing) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::EINVAL) => refused.push((write, error)),
            Err(error) => failed.push(error),
        }
    }
    (refused, failed)
}

fn write_one(cgroup: &Cgroup, write: &Write, missing: &[Missing]) -> Result<(), Error> {
    let controller = write.controller.as_deref();
    if let Some(missing) = missing
        .iter()
        .find(|m| Some(m.controller.as_str()) == controller)
    {
        return Err(missing.error(&write.file));
    }
    match write_file(cgroup, write) {
        Err(error) if is_absent(&error) => match &write.if_absent {
            IfAbsent::Fail => Err(error),
            IfAbsent::Fine => Ok(()),
            IfAbsent::Write(other) => write_one(cgroup, other, missing),
        },
        other => other,
    }
}

/// Writes a controller's file. Where there is none, somebody else may be enabling the controller just now: it is tried
/// again when nobody is.
fn write_file(cgroup: &Cgroup, write: &Write) -> Result<(), Error> {
    let outcome = files::write(cgroup, &write.file, &write.value);
    match outcome {
        Err(error) if is_absent(&error) && write.controller.is_some() => {
            match controllers::wait_for_others(cgroup) {
                Ok(()) => files::write(cgroup, &write.file, &write.value),
                Err(_) => Err(error),
            }
        }
        other => other,
    }
}

fn is_absent(error: &Error) -> bool {
    error.errno() == Some(Errno::ENOENT)
}
