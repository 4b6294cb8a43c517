//! Tasks in service discovery: registered when they are RUNNING, and removed before their containers are told to stop.
//!
//! Whoever changes what decides about it (a task's driver, a new file, the host that has another address) has the task's
//! names made as they should be *now* by [`Discovery::register`] or [`Discovery::follow`], which look at the record and the
//! address under a lock. So the last one to come is right, whoever it is.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::rr::Record;
use tokio::sync::watch;

use super::{Engine, Handle, Inner};
use crate::config::Config;
use crate::dns::{Names, Namespaces};
use crate::service_discovery::{Service, ServiceDiscovery, is_healthy, records};
use crate::task::Task;

/// The services as the file has them, and their tasks in what is answered.
pub struct Discovery {
    /// Held while a task's names are changed.
    current: Mutex<ServiceDiscovery>,
    names: Arc<Names>,
    boot_id: String,
    host_address: AddressNow,
}

/// Tells the host's address, where that is known.
type AddressNow = Box<dyn Fn() -> Option<Ipv4Addr> + Send + Sync>;

/// Names that are made beside those that are answered.
struct Draft {
    discovery: ServiceDiscovery,
    namespaces: Namespaces,
    /// What a task's names are made from: the version of its record, and the host's address.
    sources: HashMap<String, (u64, Option<Ipv4Addr>)>,
}

impl Engine {
    /// Reads the file again. Names that are there no more are gone at once, and new ones lead to the tasks that run. With
    /// a file that is wrong, everything stays as it is.
    pub fn reload_service_discovery(&self) -> anyhow::Result<()> {
        let inner = &self.inner;
        let new = inner.config.service_discovery(inner.names.zones())?;
        let services = new.services().count();
        inner.discovery.follow(new, || inner.handles());
        tracing::info!(services, "service discovery is as its file has it");
        Ok(())
    }
}

impl Inner {
    /// Has service discovery lead to the tasks that an earlier engine has left.
    pub fn register_all(&self) {
        let loaded = self.discovery.current().clone();
        self.discovery.follow(loaded, || self.handles());
    }

    pub(super) fn handles(&self) -> Vec<Arc<Handle>> {
        self.tasks().values().cloned().collect()
    }
}

impl Discovery {
    /// Reads the file. Nothing leads to a task yet.
    pub fn load(
        config: &Config,
        names: &Arc<Names>,
        host_address: watch::Receiver<Option<Ipv4Addr>>,
        boot_id: &str,
    ) -> anyhow::Result<Self> {
        let current = config.service_discovery(names.zones())?;
        Ok(Self {
            current: Mutex::new(current),
            names: Arc::clone(names),
            boot_id: boot_id.to_owned(),
            host_address: Box::new(move || *host_address.borrow()),
        })
    }

    /// Has the names of a task's services lead to it, or not any more, as its record says now.
    pub fn register(&self, handle: &Handle) {
        let current = self.current();
        // Read only now, so that nobody enters later what was true before.
        let (host, task) = ((self.host_address)(), handle.task());
        let records = self.records(&current, &task, host);
        self.names.register(&task.id, records);
    }

    /// Has other services take effect, in one step: a query is answered as they have it or as it was before. `tasks` are
    /// all that there are.
    ///
    /// That takes a while where there are many, in which tasks come and go and aren't held up: what has changed meanwhile
    /// is made again, and only that under the lock.
    fn follow(&self, new: ServiceDiscovery, tasks: impl Fn() -> Vec<Arc<Handle>>) {
        let mut draft = Draft {
            namespaces: new.namespaces(),
            discovery: new,
            sources: HashMap::new(),
        };
        self.bring_up_to_date(&mut draft, &tasks());
        let mut current = self.current();
        self.bring_up_to_date(&mut draft, &tasks());
        let before = (
            std::mem::replace(&mut *current, draft.discovery),
            self.names.replace_namespaces(draft.namespaces),
        );
        drop(current);
        // Nobody waits for this.
        drop(before);
    }

    /// Registers each task whose record is another than the one that it was registered from, or if the host has moved.
    fn bring_up_to_date(&self, draft: &mut Draft, tasks: &[Arc<Handle>]) {
        for handle in tasks {
            let host = (self.host_address)();
            if draft.is_from(&handle.record.borrow(), host) {
                continue;
            }
            let task = handle.task();
            let records = self.records(&draft.discovery, &task, host);
            draft.namespaces.register(&task.id, records);
            draft.sources.insert(task.id, (task.version, host));
        }
    }

    /// A task's records in all its services; none where it isn't RUNNING.
    fn records(
        &self,
        discovery: &ServiceDiscovery,
        task: &Task,
        host: Option<Ipv4Addr>,
    ) -> Vec<Record> {
        if !is_healthy(task, &self.boot_id) {
            return Vec::new();
        }
        let services = discovery.services_of(&task.definition.family).iter();
        let of = |service: &Service| {
            records(service, task, host).unwrap_or_else(|error| {
                let service = service.name.to_string();
                tracing::warn!(
                    task = task.id,
                    service,
                    "the task isn't registered: {error:#}"
                );
                Vec::new()
            })
        };
        services.flat_map(of).collect()
    }

    /// It is replaced as a whole: a thread that died leaves it whole.
    fn current(&self) -> MutexGuard<'_, ServiceDiscovery> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Draft {
    fn is_from(&self, task: &Task, host: Option<Ipv4Addr>) -> bool {
        self.sources.get(&task.id) == Some(&(task.version, host))
    }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
