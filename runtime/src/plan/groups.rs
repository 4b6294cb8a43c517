//! Where a process leaves the supplementary groups of whoever makes it.
//!
//! A user namespace whose map of groups was written by an ordinary user refuses setgroups(2): leaving a
//! group could open what is closed to that group (user_namespaces(7)).

use super::ProcessPlan;
use crate::{config, user_namespace};

/// Where they are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// In the container's user namespace, where the process gets its own.
    Inside,
    /// Outside, by the helper that joins the container's user namespace, which refuses it.
    Outside,
    /// Nowhere: the user namespace that we are in refuses it.
    Kept,
}

impl Groups {
    /// For a container that we make.
    pub(crate) fn of_ours(is_nested: bool) -> Self {
        match is_nested && user_namespace::denies_setgroups("self") {
            true => Self::Kept,
            false => Self::Inside,
        }
    }

    /// For a process that joins the user namespace of another.
    pub(crate) fn of_joined(process: &str) -> Self {
        let is_nested = !user_namespace::is_initial();
        match user_namespace::denies_setgroups(process) {
            true if is_nested && user_namespace::denies_setgroups("self") => Self::Kept,
            true => Self::Outside,
            false => Self::Inside,
        }
    }

    /// Refuses groups that can't be given.
    pub(crate) fn check(self, process: &ProcessPlan) -> Result<(), config::Error> {
        let wanted = process.user.as_ref().map(|user| user.groups.as_slice());
        match wanted.unwrap_or_default() {
            [] => Ok(()),
            _ if self == Self::Inside => Ok(()),
            groups => Err(config::Error::Value {
                field: "process.user.additionalGids".to_owned(),
                value: format!("{groups:?}"),
                expected: "can't be given: the user namespace refuses setgroups(2), as one does that maps \
                           one group of an ordinary user; map subordinate ids (/etc/subgid) too"
                    .to_owned(),
            }),
        }
    }
}
