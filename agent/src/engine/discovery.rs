//! Tasks in service discovery: registered when they are RUNNING, and removed before their containers are told to stop.
//!
//! Whoever changes what decides about it (a task's driver, a new file) has the task's names made as they should be *now*
//! by [`Inner::register`], which reads the record under a lock. So the last one to come is right, whoever it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Engine, Handle, Inner};
use crate::config::Config;
use crate::dns::Names;
use crate::service_discovery::{ServiceDiscovery, is_healthy, records};
use crate::task::Task;

/// The services as the file has them.
pub struct Discovery {
    /// Held while a task's names are changed.
    current: Mutex<ServiceDiscovery>,
}

impl Discovery {
    /// Reads the file.
    pub fn load(config: &Config, names: &Names) -> anyhow::Result<Self> {
        let current = config.service_discovery(names.zones())?;
        Ok(Self {
            current: Mutex::new(current),
        })
    }

    /// It is replaced as a whole: a thread that died leaves it whole.
    fn current(&self) -> MutexGuard<'_, ServiceDiscovery> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Reads the file again. Names that are there no more are gone at once, and new ones lead to the tasks that run. With
    /// a file that is wrong, everything stays as it is.
    pub fn reload_service_discovery(&self) -> anyhow::Result<()> {
        let inner = &self.inner;
        let new = inner.config.service_discovery(inner.names.zones())?;
        let mut current = inner.discovery.current();
        *current = new;
        inner.register_in(&current, &self.tasks());
        let services = current.services().len();
        tracing::info!(services, "service discovery is as its file has it");
        Ok(())
    }
}

impl Inner {
    /// Has the names of a task's services lead to it, or not any more, as its record says now.
    pub fn register(&self, handle: &Handle) {
        let discovery = self.discovery.current();
        // Read only now, so that nobody enters later what was true before.
        self.enter(&discovery, &handle.task());
    }

    /// The same for all these tasks, which are all that there are, and for the namespaces.
    pub fn register_all(&self, handles: &[Arc<Handle>]) {
        self.register_in(&self.discovery.current(), handles);
    }

    fn register_in(&self, discovery: &ServiceDiscovery, handles: &[Arc<Handle>]) {
        for handle in handles {
            self.enter(discovery, &handle.task());
        }
        // After the records: a service that is new is never told to be without tasks that it has.
        self.names.set_namespaces(discovery.namespaces());
    }

    fn enter(&self, discovery: &ServiceDiscovery, task: &Task) {
        let services = discovery.services().iter();
        let mut all = Vec::new();
        for service in services.filter(|service| service.family == task.definition.family) {
            if !is_healthy(task, &self.boot_id) {
                break;
            }
            match records(service, task, || Ok(self.network.host_address()?)) {
                Ok(records) => all.extend(records),
                Err(error) => {
                    let service = service.name.to_string();
                    tracing::warn!(
                        task = task.id,
                        service,
                        "the task isn't registered: {error:#}"
                    );
                }
            }
        }
        if all.is_empty() {
            self.names.remove(&task.id);
        } else {
            self.names.enter(&task.id, all);
        }
    }
}
