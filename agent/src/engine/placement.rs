//! Whether a task finds a place on this host: that of the ports that its definition names.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_netns::HostPort;

use super::{Engine, Handle, host_ports};
use crate::error::ApiError;
use crate::task::Task;

/// What became of a task that was to be taken.
pub enum Placed {
    /// It is under way.
    Taken(Arc<Handle>),
    /// Nothing: it names a port of the host's that another task has.
    PortInUse(HostPort),
}

impl Engine {
    /// Takes a task, unless it names a port of the host's that another has.
    pub fn place(&self, task: Task) -> Result<Placed, ApiError> {
        let named = host_ports::named(&task.definition);
        if named.is_empty() {
            return self.run(task).map(Placed::Taken);
        }
        // Nobody else claims or chooses a port until the task is among those that have some.
        let _ports = self.inner.host_ports();
        let others = self.ports_of_others(&task.id);
        match named.into_iter().find(|port| others.contains(port)) {
            Some(port) => Ok(Placed::PortInUse(port)),
            None => self.run(task).map(Placed::Taken),
        }
    }

    /// The ports of the host's that other tasks have than this one.
    pub(super) fn ports_of_others(&self, id: &str) -> BTreeSet<HostPort> {
        let mut ports = BTreeSet::new();
        for handle in self.tasks() {
            let task = handle.record.borrow();
            if task.id != id && !task.is_stopped() {
                ports.extend(host_ports::all(&task));
            }
        }
        ports
    }
}
