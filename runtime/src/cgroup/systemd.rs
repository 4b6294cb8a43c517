//! Cgroups that systemd makes: a transient scope for each container, in a slice.
//!
//! A scope begins with a process. The container's own doesn't exist yet, since it is cloned straight into
//! its cgroup; so a [`Placeholder`] opens the scope, limits are set, the container is cloned beside it,
//! and the placeholder leaves. The alternatives are slower or worse: to move the container's process
//! afterwards, which charges its first memory to the caller and lets it run without limits; or to move
//! the calling process in and out, which an ordinary user may not.

mod annotation;
mod bus;
mod message;
mod name;
mod place;
mod placeholder;
mod properties;
mod unit;
mod value;

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::{Cgroup, Error, Mark};
use crate::failpoint;
use name::Scope;
use properties::property;
use value::Value;

pub use bus::BusError;
pub use place::Manager;
pub(crate) use placeholder::Placeholder;
pub use unit::Unit;

/// What a scope is to be like.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) id: &'a str,
    /// `slice:prefix:name`.
    pub(crate) path: Option<&'a Path>,
    /// Goes into its description.
    pub(crate) mark: Option<&'a Mark>,
    pub(crate) resources: &'a LinuxResources,
    pub(crate) annotations: &'a HashMap<String, String>,
}

/// A scope that has just been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) unit: Unit,
    pub(crate) cgroup: Cgroup,
    /// Keeps the scope until something else is in it.
    pub(crate) placeholder: Placeholder,
}

/// Starts a scope, and returns when its cgroup is there. On failure nothing is left of it.
pub(crate) fn start(wanted: &Wanted) -> Result<Started, Error> {
    let manager = Manager::ours();
    let scope = Scope::of(wanted.path, wanted.id, manager)?;
    let limits = properties::of(wanted.resources)?;
    let asked = annotation::properties(wanted.annotations)?;
    let placeholder = Placeholder::start().map_err(|errno| Error::Placeholder { errno })?;
    let pid = u32::try_from(placeholder.pid().as_raw()).unwrap_or_default();
    let mut properties = basic(
        &unit::description(wanted.id, wanted.mark),
        &scope.slice,
        pid,
    );
    properties.extend(limits);
    // Last, to have the last word.
    properties.extend(
        asked
            .into_iter()
            .map(|asked| unit::keep_mark(asked, wanted.mark)),
    );
    let unit = Unit {
        manager,
        name: scope.unit,
    };
    failpoint::pass("scope-begun");
    unit.start(properties)?;
    failpoint::pass("cgroup-made");
    match unit.cgroup_of(&placeholder) {
        Ok(cgroup) => Ok(Started {
            unit,
            cgroup,
            placeholder,
        }),
        Err(error) => {
            // The error that brought us here is the one to be reported.
            let _removed = unit.remove().is_ok();
            Err(error)
        }
    }
}

/// Checks what annotations ask systemd for, without asking.
pub(crate) fn check_annotations<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), Error> {
    let asked = |(key, _): &(&String, &String)| annotation::is_property(key);
    let asked = annotations
        .filter(asked)
        .map(|(key, text)| (key.clone(), text.clone()));
    annotation::properties(&asked.collect()).map(drop)
}

fn basic(description: &str, slice: &str, pid: u32) -> Vec<Value> {
    let pids = Value::Array("u".to_owned(), vec![Value::U32(pid)]);
    let mut properties = vec![
        property("Description", Value::text(description)),
        property("Slice", Value::text(slice)),
        property("PIDs", pids),
        // What is below is ours and the container's.
        property("Delegate", Value::Bool(true)),
        // A container isn't stopped at shutdown before what it needs: its engine does that.
        property("DefaultDependencies", Value::Bool(false)),
        // A scope that failed is forgotten like others, so that its name can be used again.
        property("CollectMode", Value::text("inactive-or-failed")),
    ];
    // Controllers that join late count wrongly.
    for controller in ["CPU", "IO", "Memory", "Tasks"] {
        properties.push(property(
            format!("{controller}Accounting"),
            Value::Bool(true),
        ));
    }
    properties
}

/// The properties that systemd would be asked for: for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(super) fn unasked(
    resources: &LinuxResources,
    spec: &oci_spec::runtime::Spec,
) -> Result<(), Error> {
    properties::of(resources)?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    annotation::properties(&annotations).map(drop)
}
