//! A task's life, from the record to STOPPED: the driver of one task.
//!
//! ```text
//! PROVISIONING    network: ports are chosen, interfaces attached, containers without any isolated
//! PENDING         images are found or pulled, files are written, the supervisor starts
//! ACTIVATING      containers start in the order of their dependencies
//! RUNNING         all have started
//! STOPPING        somebody or something wants it stopped: containers stop in reverse order
//! DEPROVISIONING  supervisor, network and files go
//! STOPPED
//! ```

mod containers;
mod network;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use berth_runtime::cgroup::Cgroup;
use tokio::sync::watch;

use containers::{Containers, apply};

use super::files::{TaskFiles, layer_user};
use super::{Engine, Handle, Refused, plan};
use crate::failpoint;
use crate::id::Timestamp;
use crate::image::{Image, ImageError, Puller};
use crate::supervisor::client::Client;
use crate::supervisor::launch;
use crate::supervisor::protocol::{State, Status, supervisor_cgroup, task_cgroup, write_whole};
use crate::task::{LastStatus, StopCode, Task};

pub use network::{isolated_name, namespace_name};

/// How long until a supervisor that could not be reached is tried again.
const RECONNECT: Duration = Duration::from_secs(5);

/// Whether an earlier engine may have come some way with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It has just been put on record.
    Fresh,
    /// It was found on record.
    Found,
}

/// Drives the task until it has stopped, in the background.
pub fn drive(engine: Engine, handle: Arc<Handle>, start: Start) {
    let task = handle.task();
    let driver = Driver {
        files: TaskFiles::new(engine.config(), &task.id),
        id: task.id,
        stop: handle.watch(),
        start,
        engine,
        handle,
    };
    tokio::spawn(async move {
        if tokio::spawn(driver.run()).await.is_err() {
            // A driver that broke off leaves its task to nobody. The next engine takes it up from
            // the record, as after any crash.
            tracing::error!("a task's driver broke off; this is a bug in berth");
            std::process::abort();
        }
    });
}

struct Driver {
    engine: Engine,
    handle: Arc<Handle>,
    id: String,
    files: TaskFiles,
    /// The record as others change it: they ask for a stop.
    stop: watch::Receiver<Task>,
    start: Start,
}

/// Why a task didn't get as far as containers.
enum Failure {
    /// The task can't start, for this reason.
    Start(String),
    /// Somebody wants it stopped.
    Stopped,
    /// Its supervisor died after containers had started.
    SupervisorDied,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Start(format!("{error:#}"))
    }
}

impl Driver {
    async fn run(mut self) {
        if let Err(failure) = self.live().await {
            self.sweep_images(&failure).await;
            let (code, reason) = match failure {
                Failure::Stopped => (StopCode::UserInitiated, "Task stopped by user".to_owned()),
                Failure::Start(reason) => (StopCode::TaskFailedToStart, reason),
                Failure::SupervisorDied => {
                    let reason =
                        "The task's supervisor died; its containers were killed with it".to_owned();
                    (StopCode::EssentialContainerExited, reason)
                }
            };
            self.record(|task| task.want_stop(code, reason));
        }
        self.release().await;
    }

    /// Removes what an image that was refused half-way has left in the store.
    async fn sweep_images(&self, failure: &Failure) {
        if !matches!(failure, Failure::Start(_)) {
            return;
        }
        let engine = self.engine.clone();
        let sweep = move || -> anyhow::Result<()> {
            Ok(engine
                .images()
                .sweep(|layer| layer_user(engine.config(), layer))?)
        };
        self.complain(tokio::task::spawn_blocking(sweep).await);
    }

    /// From wherever the task is to the end of its containers.
    async fn live(&mut self) -> Result<(), Failure> {
        let client = match self.find_supervisor().await? {
            Some(client) => client,
            None => self.start_supervisor().await?,
        };
        failpoint::pass("supervisor-connected");
        Containers::new(self, client).run().await
    }

    fn task(&self) -> Task {
        self.handle.task()
    }

    /// Writes a change to the record. If the disk refuses, the task goes on, and what a restart
    /// would see is older: said loudly, since somebody must act.
    fn record(&self, change: impl FnOnce(&mut Task)) {
        if let Err(error) = self.engine.update(&self.handle, Refused::Change, change) {
            tracing::error!(task = self.id, %error, "a change of the task could not be recorded; is the disk full?");
        }
    }

    /// Has the task's services lead to it, or not any more, as its record says.
    fn register(&self) {
        self.engine.inner.discovery.register(&self.handle);
    }

    fn check_stop(&self) -> Result<(), Failure> {
        if self.handle.record.borrow().desired_stopped {
            Err(Failure::Stopped)
        } else {
            Ok(())
        }
    }

    // ---- up to the supervisor ----

    /// The supervisor of a task that had come that far, if it still lives.
    async fn find_supervisor(&self) -> Result<Option<Client>, Failure> {
        if let Some(client) = self.connect_patiently().await {
            return Ok(Some(client));
        }
        let task = self.task();
        let rebooted = task.boot_id != self.engine.boot_id();
        let started = |status: std::io::Result<Status>| {
            status.is_ok_and(|status| status.state != State::Pending)
        };
        let had_started = task
            .containers
            .iter()
            .any(|c| started(self.files.run.read_status(&c.name)));
        if had_started || rebooted || task.last_status >= LastStatus::Running {
            self.adopt_statuses(&task);
            return Err(Failure::SupervisorDied);
        }
        Ok(None)
    }

    /// Connects to the supervisor; nothing where none lives. Any other answer (no descriptors
    /// left, a supervisor newer than this agent) says nothing of the task, which goes on without
    /// us meanwhile: somebody has to set it right, and is told so.
    async fn connect_patiently(&self) -> Option<Client> {
        loop {
            match Client::connect(&self.files.run).await {
                Ok(client) => return client,
                Err(error) => {
                    tracing::error!(task = self.id, %error, "can't reach the task's supervisor; trying again");
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    /// Takes what the supervisor put on disk before it died.
    fn adopt_statuses(&self, task: &Task) {
        let statuses: Vec<Status> = task
            .containers
            .iter()
            .filter_map(|c| self.files.run.read_status(&c.name).ok())
            .collect();
        self.record(|task| statuses.iter().for_each(|status| apply(task, status)));
    }

    async fn start_supervisor(&mut self) -> Result<Client, Failure> {
        self.check_stop()?;
        self.attach_network().await?;
        failpoint::pass("network-attached");
        self.check_stop()?;
        Engine::update_in_memory(&self.handle, |task| task.last_status = LastStatus::Pending);
        // Held until the plan is on disk: from then on the images are in use on record.
        let lock = self.engine.images().share().context("the image store")?;
        let images = self.images().await?;
        failpoint::pass("images-ready");
        self.check_stop()?;
        let task = self.task();
        self.files.make(&task)?;
        let plan = plan::plan(&self.engine, &task, &self.files, &images)?;
        let text = serde_json::to_vec(&plan).context("writing the plan")?;
        write_whole(&self.files.run.plan(), &text).context("writing the plan")?;
        drop(lock);
        // From here on a restart finds the supervisor and doesn't come this way again: what only
        // this way knows, the address and the images' digests, goes on record with the wish to start.
        self.record(|task| task.last_status = LastStatus::Pending);
        failpoint::pass("files-written");
        launch::spawn(&self.files.run).context("starting the task's supervisor")?;
        failpoint::pass("supervisor-spawned");
        let client = Client::connect(&self.files.run)
            .await
            .context("connecting to the task's supervisor")?;
        client.ok_or_else(|| {
            Failure::Start(format!(
                "The task's supervisor could not start: {}",
                self.last_words()
            ))
        })
    }

    /// What the supervisor said last before it died.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.files.run.log()).unwrap_or_default();
        log.lines().last().unwrap_or("it left no word").to_owned()
    }

    /// The containers' images, pulled where they aren't in the store.
    async fn images(&mut self) -> Result<Vec<Image>, Failure> {
        let containers = self.task().definition.container_definitions;
        Engine::update_in_memory(&self.handle, |task| {
            task.moments.pull_started = Some(Timestamp::now())
        });
        let mut images = Vec::new();
        for container in &containers {
            let image = self.image(&container.image).await?;
            let digest = image.reference.manifest.to_string();
            Engine::update_in_memory(&self.handle, |task| {
                if let Some(container) = task.container_mut(&container.name) {
                    container.image_digest = Some(digest);
                }
            });
            images.push(image);
        }
        Engine::update_in_memory(&self.handle, |task| {
            task.moments.pull_stopped = Some(Timestamp::now())
        });
        Ok(images)
    }

    async fn image(&mut self, name: &str) -> Result<Image, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Start(format!("CannotPullContainerError: {error}"))
        };
        let images = self.engine.images().clone();
        if let Some(image) = images.find(name).map_err(|e| failed(&e))? {
            return Ok(image);
        }
        tracing::info!(task = self.id, image = name, "pulling");
        let puller = Puller::new(images.clone());
        tokio::select! {
            pulled = puller.pull(name, |_, _| ()) => drop(pulled.map_err(|e| failed(&e))?),
            () = stop_wanted(&mut self.stop) => return Err(Failure::Stopped),
        }
        let found = images.find(name).map_err(|e| failed(&e))?;
        found.ok_or_else(|| failed(&ImageError::NotFound(name.to_owned())))
    }

    // ---- the end ----

    /// Gives back what the task has, step by step; each is done again if an earlier attempt was
    /// cut off. What can't be given back is said, and tried again at the next start.
    async fn release(&self) {
        Engine::update_in_memory(&self.handle, |task| {
            task.last_status = LastStatus::Deprovisioning;
            task.moments
                .execution_stopped
                .get_or_insert_with(Timestamp::now);
        });
        self.register();
        let cgroups = [task_cgroup(&self.id), supervisor_cgroup(&self.id)];
        self.complain(
            tokio::task::spawn_blocking(move || {
                let [task, supervisor] = cgroups.map(|path| remove_cgroup(&path));
                task.and(supervisor)
            })
            .await,
        );
        failpoint::pass("supervisor-gone");
        let (engine, task) = (self.engine.clone(), self.task());
        let detach = move || network::detach_all(&engine, &task);
        self.complain(tokio::task::spawn_blocking(detach).await);
        failpoint::pass("network-detached");
        let files = TaskFiles::new(self.engine.config(), &self.id);
        self.complain(tokio::task::spawn_blocking(move || files.remove()).await);
        failpoint::pass("files-removed");
        self.record(|task| {
            task.last_status = LastStatus::Stopped;
            task.interfaces
                .iter_mut()
                .for_each(|eni| eni.detached = true);
            task.moments.stopped = Some(Timestamp::now());
            for container in &mut task.containers {
                container.last_status = LastStatus::Stopped;
            }
        });
        failpoint::pass("stopped-recorded");
        self.engine.inner.stopped.send(self.id.clone()).ok();
        if let Err(error) = self.engine.forget_old() {
            tracing::warn!("removing old tasks: {error:#}");
        }
    }

    fn complain(&self, result: Result<anyhow::Result<()>, tokio::task::JoinError>) {
        let error = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error),
        };
        tracing::error!(task = self.id, "giving back what the task had: {error:#}");
    }
}

/// Kills whatever is in a cgroup and those below it, and removes them; none is fine too.
fn remove_cgroup(path: &str) -> anyhow::Result<()> {
    let Ok(cgroup) = Cgroup::open(path) else {
        return Ok(());
    };
    cgroup.kill()?;
    cgroup.wait_empty()?;
    Ok(cgroup.remove()?)
}

async fn stop_wanted(record: &mut watch::Receiver<Task>) {
    if record.wait_for(|task| task.desired_stopped).await.is_err() {
        // The record is gone with the engine: nobody can want anything.
        std::future::pending::<()>().await;
    }
}
