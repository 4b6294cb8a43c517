//! Whether a task finds a place on this host: the ports that its definition names, and room for its interfaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_netns::{EniId, HostPort};

use super::{Engine, Handle, host_ports};
use crate::error::ApiError;
use crate::task::Task;
use crate::task_definition::LaunchType;

/// What became of a task that was to be taken.
pub enum Placed {
    /// It is under way.
    Taken(Arc<Handle>),
    /// Nothing: it names a port of the host's that another task has.
    PortInUse(HostPort),
    /// Nothing: the subnet takes no more interfaces. With what to do.
    NoInterface(String),
}

impl Engine {
    /// Takes a task, unless it names a port of the host's that another has, or its container instance has no room
    /// for its interfaces; on Fargate, which has none, a task without room stops, as on ECS.
    pub fn place(&self, task: Task) -> Result<Placed, ApiError> {
        // Nobody else claims or chooses a port, or room, until the task is among those that have some.
        let _placing = self.inner.host_ports();
        let subnet = task.interfaces.first().map(|eni| eni.subnet.clone());
        let subnet = subnet.filter(|_| task.launch_type == LaunchType::Ec2);
        if let Some(subnet) = subnet
            && let Ok(id) = subnet.parse()
            && let Err(full) = self
                .network()
                .check_room(&id, &self.expected_in(&subnet, &task))
        {
            return Ok(Placed::NoInterface(full.to_string()));
        }
        let named = host_ports::named(&task);
        let others = self.ports_of_others(&task.id);
        match named.into_iter().find(|port| others.contains(port)) {
            Some(port) => Ok(Placed::PortInUse(port)),
            None => self.take(task),
        }
    }

    /// Takes a task, with interfaces that are prepared as far as there are any.
    fn take(&self, mut task: Task) -> Result<Placed, ApiError> {
        let network = self.network();
        for eni in &mut task.interfaces {
            let chosen = eni
                .subnet
                .parse()
                .ok()
                .map(|subnet| network.choose_eni(&subnet));
            if let Some(Ok(id)) = chosen {
                eni.id = id.to_string();
            }
        }
        let ids: Vec<_> = task.interfaces.iter().map(|eni| eni.id.parse()).collect();
        self.run(task).map(Placed::Taken).inspect_err(|_| {
            for id in ids.into_iter().flatten() {
                network.detach(&id).ok();
            }
        })
    }

    /// The interfaces that tasks have or are to get in a subnet, with those of one more.
    fn expected_in(&self, subnet: &str, another: &Task) -> Vec<EniId> {
        let of_task = |task: &Task| -> Vec<EniId> {
            let enis = task.interfaces.iter();
            let enis = enis.filter(|eni| eni.subnet == subnet && !eni.detached);
            enis.filter_map(|eni| eni.id.parse().ok()).collect()
        };
        let mut all = of_task(another);
        for handle in self.tasks() {
            let task = handle.record.borrow();
            if !task.is_stopped() {
                all.extend(of_task(&task));
            }
        }
        all
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
