//! The engine: takes tasks, drives each through its life, and finds them again after a crash.
//!
//! Each task has a driver (`lifecycle`), a straight line of steps that react to events. A
//! driver that starts on a task which has come some way already takes it from there: each step
//! either finds its work done or does it again. So recovery is no code of its own.

pub mod bridge;
pub mod decide;
mod discovery;
mod etc;
mod files;
mod firewall;
mod firewalld;
mod host_address;
mod host_ports;
mod lifecycle;
mod placement;
mod plan;
mod prepare;
mod publish;
mod reload;
pub mod user_namespaces;
mod watch_thread;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use berth_netns::{Eni, EniId, NetnsName, Network, NetworkConfig, Subnet};
use discovery::Discovery;
use host_address::HostAddress;
use host_ports::HostPorts;
use ipnet::{IpNet, Ipv4Net};
use lifecycle::Start;
use tokio::sync::{broadcast, watch};
use watch_thread::WatchThread;

use crate::config::Config;
use crate::dns::{self, Names};
use crate::error::ApiError;
use crate::failpoint;
use crate::id::{self, Timestamp};
use crate::image::Images;
use crate::store::{Store, StoreError};
use crate::task::{StopCode, Task};

pub use files::{layer_user, make_folder};
pub use placement::Placed;
pub use publish::{PUBLISH_TAG, publish};

/// How long ECS keeps a stopped task in its answers.
const KEEP_STOPPED: Duration = Duration::from_secs(3600);

/// The tasks of one state folder. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Store,
    network: Arc<Network>,
    /// As the network's file had them.
    subnets: Vec<Subnet>,
    /// The same.
    public_addresses: Vec<Ipv4Net>,
    _firewall: WatchThread,
    _firewalld: firewalld::Guard,
    host_address: HostAddress,
    /// What the tasks' resolver answers for.
    names: Arc<Names>,
    discovery: Discovery,
    images: Images,
    tasks: Mutex<HashMap<String, Arc<Handle>>>,
    /// Held while ports are chosen, or claimed by a task that names them.
    host_ports: Mutex<HostPorts>,
    /// Told the subnet of each interface that was attached.
    attached: broadcast::Sender<String>,
    /// Told the id of each task that has stopped.
    stopped: broadcast::Sender<String>,
    instance: String,
    boot_id: String,
}

/// A task in the engine's hands: its record, for all to watch.
pub struct Handle {
    record: watch::Sender<Task>,
    /// Held while the record is changed: a change reads it, goes to the disk, and is then seen.
    /// Somebody else's in between would be lost, a wish to stop for one.
    changing: Mutex<()>,
}

/// What a change that the disk refuses does to the record in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Nothing: whoever asked for it is told that it failed.
    Leave,
    /// It is made all the same: it tells what has happened, and a task must come to its end with a
    /// full disk too.
    Change,
}

impl Handle {
    fn new(task: Task) -> Arc<Self> {
        Arc::new(Self {
            record: watch::Sender::new(task),
            changing: Mutex::new(()),
        })
    }

    /// Changes the record, through `store` first.
    fn change<E>(
        &self,
        refused: Refused,
        change: impl FnOnce(&mut Task),
        store: impl FnOnce(&Task) -> Result<(), E>,
    ) -> Result<(), E> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut task = self.task();
        change(&mut task);
        task.version += 1;
        let stored = store(&task);
        if stored.is_ok() || refused == Refused::Change {
            self.record.send_replace(task);
        }
        stored
    }

    /// The record as it is now.
    pub fn task(&self) -> Task {
        self.record.borrow().clone()
    }

    /// The record as it changes.
    pub fn watch(&self) -> watch::Receiver<Task> {
        self.record.subscribe()
    }
}

impl Engine {
    /// Opens the state folder and takes up the tasks that are in it, and those of their resolver's
    /// sockets that an earlier agent has left.
    /// [`StoreError::Locked`] is the cause where another process has it open.
    pub async fn open(config: Config, sockets: dns::Sockets) -> anyhow::Result<Self> {
        let inner = tokio::task::spawn_blocking(move || Inner::open(config)).await??;
        let names = Arc::clone(&inner.names);
        let resolver = dns::Server::bind(inner.resolver(), names, sockets).await?;
        let engine = Self {
            inner: Arc::new(inner),
        };
        let moves = engine.inner.host_address.known();
        engine.recover()?;
        tokio::spawn(host_address::follow(Arc::downgrade(&engine.inner), moves));
        // What tasks of an earlier engine have asked meanwhile has waited: their names are there.
        tokio::spawn(resolver.serve());
        Ok(engine)
    }

    /// The options.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The state database.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The image store.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// The id of the container instance that this host is.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// The boot of this host.
    pub fn boot_id(&self) -> &str {
        &self.inner.boot_id
    }

    /// Puts a task on record, then starts to drive it.
    fn run(&self, task: Task) -> Result<Arc<Handle>, ApiError> {
        self.inner.store.put_task(&task).map_err(ApiError::server)?;
        failpoint::pass("task-recorded");
        let handle = self.inner.insert(task);
        lifecycle::drive(self.clone(), Arc::clone(&handle), Start::Fresh);
        Ok(handle)
    }

    /// The task with that id.
    pub fn task(&self, id: &str) -> Option<Arc<Handle>> {
        self.inner.tasks().get(id).cloned()
    }

    /// All tasks that are known, the newest first.
    pub fn tasks(&self) -> Vec<Arc<Handle>> {
        let mut all: Vec<_> = self.inner.tasks().values().cloned().collect();
        all.sort_by_key(|handle| std::cmp::Reverse(handle.record.borrow().moments.created));
        all
    }

    /// Asks a task to stop. Its driver sees the wish on the record.
    pub fn stop(&self, handle: &Handle, reason: &str) -> Result<Task, ApiError> {
        if handle.record.borrow().is_stopped() {
            return Ok(handle.task());
        }
        self.update(handle, Refused::Leave, |task| {
            task.want_stop(StopCode::UserInitiated, reason)
        })
        .map_err(ApiError::server)?;
        self.inner.discovery.register(handle);
        failpoint::pass("stop-recorded");
        Ok(handle.task())
    }

    /// Waits until no task is left that isn't stopped.
    pub async fn idle(&self) {
        loop {
            let mut stopped = self.inner.stopped.subscribe();
            if self
                .tasks()
                .iter()
                .all(|handle| handle.record.borrow().is_stopped())
            {
                return;
            }
            stopped.recv().await.ok();
        }
    }

    /// Changes a task's record, on disk first.
    fn update(
        &self,
        handle: &Handle,
        refused: Refused,
        change: impl FnOnce(&mut Task),
    ) -> Result<(), StoreError> {
        handle.change(refused, change, |task| self.inner.store.put_task(task))
    }

    /// Changes a task's record in memory only: what a crash may lose, since it is found again.
    fn update_in_memory(handle: &Handle, change: impl FnOnce(&mut Task)) {
        let Ok(()) = handle.change(Refused::Change, change, |_| {
            Ok::<_, std::convert::Infallible>(())
        });
    }

    /// Takes up every task that isn't stopped, after freeing what no task owns.
    fn recover(&self) -> anyhow::Result<()> {
        let live = self.inner.load()?;
        files::remove_orphans(&self.inner.config, |id| {
            live.iter().any(|handle| handle.record.borrow().id == id)
        });
        self.inner.register_all();
        for handle in live {
            lifecycle::drive(self.clone(), handle, Start::Found);
        }
        self.forget_old()
    }

    /// Removes the records and logs of tasks that stopped long ago.
    fn forget_old(&self) -> anyhow::Result<()> {
        let limit = Timestamp(Timestamp::now().0 - i64::try_from(KEEP_STOPPED.as_millis())?);
        for handle in self.tasks() {
            let task = handle.task();
            if task.is_stopped() && task.moments.stopped.is_none_or(|at| at < limit) {
                self.inner.store.remove_task(&task.id)?;
                files::remove_folder(&self.inner.config.task_root(&task.id))?;
                self.inner.tasks().remove(&task.id);
            }
        }
        Ok(())
    }
}

impl Inner {
    fn open(config: Config) -> anyhow::Result<Self> {
        files::make_folders(&config)?;
        let store = open_store(&config)?;
        let images = Images::open(&config.root)?;
        let mut network_config = network_config(&config)?;
        network_config.subordinate_ids = user_namespaces::subordinate_ids(&config)?;
        let subnets = network_config.subnets.clone();
        let public_addresses = network_config.public_addresses.clone();
        let network = bridge::open(network_config).context("preparing the network")?;
        let ranges: Vec<IpNet> = ranges(&network).collect();
        let zones = dns::Zones::new(&config.place.private_domain(), &ranges)
            .with_context(|| format!("the names of region '{}'", config.place.region))?;
        let names = Arc::new(Names::new(zones));
        let network = Arc::new(network);
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("reading the boot id")?;
        let boot_id = boot_id.trim().to_owned();
        let host_address = HostAddress::watch()?;
        let discovery = Discovery::load(&config, &names, host_address.known(), &boot_id)?;
        let firewall = firewall::watch(Arc::clone(&network))?;
        let firewalld = firewalld::Guard::start(&network)?;
        let instance = store.identity("container-instance", id::random_128)?;
        Ok(Self {
            config,
            store,
            network,
            subnets,
            public_addresses,
            _firewall: firewall,
            _firewalld: firewalld,
            host_address,
            names,
            discovery,
            images,
            tasks: Mutex::new(HashMap::new()),
            host_ports: Mutex::new(HostPorts::new()),
            attached: broadcast::Sender::new(64),
            stopped: broadcast::Sender::new(64),
            instance,
            boot_id,
        })
    }

    /// The map of tasks is changed by single inserts and removals: a thread that died in between
    /// leaves it whole.
    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Arc<Handle>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host_ports(&self) -> MutexGuard<'_, HostPorts> {
        self.host_ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, task: Task) -> Arc<Handle> {
        let id = task.id.clone();
        let handle = Handle::new(task);
        self.tasks().insert(id, Arc::clone(&handle));
        handle
    }

    /// Loads all tasks, and lets the network free what belongs to none of the live ones, which
    /// are returned.
    fn load(&self) -> anyhow::Result<Vec<Arc<Handle>>> {
        let mut live = Vec::new();
        let mut enis: Vec<EniId> = Vec::new();
        let mut isolated: Vec<NetnsName> = Vec::new();
        for task in self.store.tasks()? {
            if task.is_stopped() {
                self.insert(task);
                continue;
            }
            for eni in &task.interfaces {
                let id = eni.id.parse();
                enis.push(id.with_context(|| format!("the task's interface '{}'", eni.id))?);
            }
            let names = task.isolated().map(lifecycle::isolated_name);
            isolated.extend(names.collect::<Result<Vec<_>, _>>()?);
            live.push(self.insert(task));
        }
        let report = self
            .network
            .reconcile(&enis, &isolated)
            .context("freeing what earlier tasks left in the network")?;
        tracing::debug!(?report, "the network is reconciled");
        for eni in self.network.list()? {
            self.enter_names(&eni)?;
        }
        Ok(live)
    }

    /// Where the tasks' resolver is, and for whom.
    fn resolver(&self) -> dns::Settings {
        let subnets = self.network.subnets();
        dns::Settings {
            addresses: subnets
                .iter()
                .map(|subnet| subnet.resolver().into())
                .collect(),
            port: dns::PORT,
            clients: ranges(&self.network).collect(),
            host_resolvers: "/etc/resolv.conf".into(),
        }
    }

    /// Has an interface found by its name, and its name by its address.
    fn enter_names(&self, eni: &Eni) -> anyhow::Result<()> {
        let name = self.config.place.private_dns_name(eni.address);
        let records = dns::interface(&name, &[eni.address.into()])?;
        self.names.enter(eni.id.as_str(), records);
        Ok(())
    }
}

/// The ranges of the subnets.
fn ranges(network: &Network) -> impl Iterator<Item = IpNet> {
    let subnets = network.subnets().iter();
    subnets.map(|subnet| IpNet::V4(subnet.cidr()))
}

/// Opens the state database. The caller holds the engine's lock, so whoever has the database open
/// is a `berth ps` that reads, or an engine whose process is just ending: both are over in a
/// moment, and neither can be waited for otherwise.
fn open_store(config: &Config) -> Result<Store, StoreError> {
    let path = config.root.join("state.redb");
    for _ in 0..200 {
        match Store::open(&path) {
            Err(StoreError::Locked) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    Store::open(&path)
}

/// The network of the VPC that is configured, and where it keeps its files.
pub fn network_config(config: &Config) -> anyhow::Result<NetworkConfig> {
    let state = config.root.join("network");
    let mut network = NetworkConfig::of_vpc(&config.vpc()?, state, &config.run);
    bridge::add(&mut network)?;
    Ok(network)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::task::LastStatus;
    use crate::task_definition::TaskDefinition;

    fn handle() -> Arc<Handle> {
        let definition = TaskDefinition::from_request(json!({
            "family": "f", "networkMode": "awsvpc", "memory": "64",
            "containerDefinitions": [{"name": "c", "image": "i"}]
        }));
        Handle::new(Task {
            last_status: LastStatus::Activating,
            ..Task::running("t", definition.unwrap())
        })
    }

    #[test]
    fn a_wish_to_stop_is_not_lost_to_a_change_that_is_on_its_way_to_the_disk() {
        let handle = handle();
        let (on_its_way, is_on_its_way) = std::sync::mpsc::channel();
        let driver = std::thread::spawn({
            let handle = Arc::clone(&handle);
            move || {
                let store = |_: &Task| {
                    on_its_way.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(50));
                    Ok::<_, ()>(())
                };
                let running = |task: &mut Task| task.last_status = LastStatus::Running;
                handle.change(Refused::Change, running, store).unwrap();
            }
        });
        is_on_its_way.recv().unwrap();
        let stop = |task: &mut Task| task.want_stop(StopCode::UserInitiated, "enough");
        handle
            .change(Refused::Leave, stop, |_| Ok::<_, ()>(()))
            .unwrap();
        driver.join().unwrap();
        let task = handle.task();
        assert!(task.desired_stopped);
        assert_eq!((task.last_status, task.version), (LastStatus::Running, 3));
    }

    #[test]
    fn what_has_happened_is_known_even_if_the_disk_is_full_and_a_wish_is_not() {
        let handle = handle();
        let stop = |task: &mut Task| task.want_stop(StopCode::UserInitiated, "enough");
        let full = |_: &Task| Err("full");
        assert_eq!(handle.change(Refused::Leave, stop, full), Err("full"));
        assert!(!handle.task().desired_stopped);
        assert_eq!(handle.change(Refused::Change, stop, full), Err("full"));
        assert!(handle.task().desired_stopped);
    }
}
