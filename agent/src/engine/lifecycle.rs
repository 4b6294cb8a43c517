//! A task's life, from the record to STOPPED: the driver of one task.
//!
//! ```text
//! PROVISIONING    network: the ENI is attached
//! PENDING         images are found or pulled, files are written, the supervisor starts
//! ACTIVATING      containers start in the order of their dependencies
//! RUNNING         all have started
//! STOPPING        somebody or something wants it stopped: containers stop in reverse order
//! DEPROVISIONING  supervisor, network and files go
//! STOPPED
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use berth_netns::{AttachRequest, EniId};
use berth_runtime::cgroup::Cgroup;
use tokio::sync::watch;

use super::decide::{self, Action, View};
use super::files::{TaskFiles, layer_user};
use super::{Engine, Handle, Refused, plan};
use crate::failpoint;
use crate::id::Timestamp;
use crate::image::{Image, ImageError, Puller};
use crate::supervisor::client::Client;
use crate::supervisor::launch;
use crate::supervisor::protocol::{
    Message, Request, State, Status, supervisor_cgroup, task_cgroup, write_whole,
};
use crate::task::{AttachedEni, LastStatus, StopCode, Task};

/// ECS's time between SIGTERM and SIGKILL, in seconds, where the definition has none.
const STOP_TIMEOUT: u32 = 30;

/// How long to wait for the kernel to drop an earlier attempt's link, before it is deleted.
const LINK_PATIENCE: Duration = Duration::from_millis(200);

/// How long until a supervisor that could not be reached is tried again.
const RECONNECT: Duration = Duration::from_secs(5);

/// What OutOfMemoryError says, word for word as ECS does.
const OUT_OF_MEMORY: &str = "OutOfMemoryError: Container killed due to memory usage";

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
        let (eni, netns) = self.attach_network().await?;
        failpoint::pass("network-attached");
        self.check_stop()?;
        Engine::update_in_memory(&self.handle, |task| task.last_status = LastStatus::Pending);
        // Held until the plan is on disk: from then on the images are in use on record.
        let lock = self.engine.images().share().context("the image store")?;
        let images = self.images().await?;
        failpoint::pass("images-ready");
        self.check_stop()?;
        self.files.make(&eni.private_dns_name, eni.address)?;
        let task = self.task();
        let plan = plan::plan(
            self.engine.config(),
            &task,
            &eni,
            netns,
            &self.files,
            &images,
        )?;
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

    async fn attach_network(&self) -> Result<(AttachedEni, std::path::PathBuf), Failure> {
        let engine = self.engine.clone();
        let eni = self.task().eni;
        let (netns, start) = (self.id.clone(), self.start);
        let attach = move || -> anyhow::Result<_> {
            let id: EniId = eni.id.parse()?;
            let network = engine.network();
            if start == Start::Found {
                // An earlier attempt may have been cut off: this one starts afresh. The kernel
                // takes its time to drop the link of a namespace that is gone.
                network.detach(&id)?;
                network.wait_until_gone(&id, LINK_PATIENCE)?;
            }
            let subnet = eni.subnet.parse()?;
            let security_groups = eni
                .security_groups
                .iter()
                .map(|g| g.parse())
                .collect::<Result<_, _>>()?;
            let request = AttachRequest {
                eni: id,
                subnet,
                security_groups,
                netns: netns.parse()?,
            };
            let attachment = network.attach(&request)?;
            let subnet = network
                .subnet(&request.subnet)
                .context("the subnet is gone")?;
            let attached = AttachedEni {
                mac: attachment.eni.mac().to_string(),
                address: attachment.eni.address,
                subnet_cidr: subnet.cidr().to_string(),
                gateway: subnet.router(),
                private_dns_name: engine
                    .config()
                    .place
                    .private_dns_name(attachment.eni.address),
            };
            Ok((attached, attachment.netns_path))
        };
        let attached = tokio::task::spawn_blocking(attach)
            .await
            .map_err(|e| Failure::Start(e.to_string()))?;
        let (eni, netns) = attached.map_err(|e| {
            Failure::Start(format!(
                "ResourceInitializationError: attaching the ENI: {e:#}"
            ))
        })?;
        let copy = eni.clone();
        Engine::update_in_memory(&self.handle, |task| task.eni.attached = Some(copy));
        Ok((eni, netns))
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
        let cgroups = [task_cgroup(&self.id), supervisor_cgroup(&self.id)];
        self.complain(
            tokio::task::spawn_blocking(move || {
                let [task, supervisor] = cgroups.map(|path| remove_cgroup(&path));
                task.and(supervisor)
            })
            .await,
        );
        failpoint::pass("supervisor-gone");
        let (engine, eni) = (self.engine.clone(), self.task().eni.id);
        let detach = move || -> anyhow::Result<()> { Ok(engine.network().detach(&eni.parse()?)?) };
        self.complain(tokio::task::spawn_blocking(detach).await);
        failpoint::pass("network-detached");
        let files = TaskFiles::new(self.engine.config(), &self.id);
        self.complain(tokio::task::spawn_blocking(move || files.remove()).await);
        failpoint::pass("files-removed");
        self.record(|task| {
            task.last_status = LastStatus::Stopped;
            task.eni.detached = true;
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

/// Takes a container's status over into the record.
fn apply(task: &mut Task, status: &Status) {
    let Some(container) = task.container_mut(&status.container) else {
        return;
    };
    container.started = status.started.or(container.started);
    container.finished = status.finished.or(container.finished);
    match &status.state {
        State::Pending => {}
        State::Running { .. } => container.last_status = LastStatus::Running,
        State::Exited {
            code,
            out_of_memory,
        } => {
            container.last_status = LastStatus::Stopped;
            container.exit_code = Some(*code);
            if *out_of_memory {
                container.reason = Some(OUT_OF_MEMORY.to_owned());
            }
        }
        State::Failed { reason } => {
            container.last_status = LastStatus::Stopped;
            container.reason = Some(reason.clone());
        }
    }
}

/// The containers of a task while its supervisor lives.
struct Containers<'a> {
    driver: &'a mut Driver,
    client: Client,
    definition: crate::task_definition::TaskDefinition,
    views: Vec<View>,
    stopping: bool,
}

impl<'a> Containers<'a> {
    fn new(driver: &'a mut Driver, client: Client) -> Self {
        let definition = driver.task().definition;
        let views = definition
            .container_definitions
            .iter()
            .map(|_| View::default())
            .collect();
        Self {
            driver,
            client,
            definition,
            views,
            stopping: false,
        }
    }

    /// Starts, watches and stops them, until none is left.
    async fn run(mut self) -> Result<(), Failure> {
        self.note_warnings();
        for _ in 0..self.views.len() {
            self.message().await?;
        }
        if self.driver.task().last_status < LastStatus::Activating {
            Engine::update_in_memory(&self.driver.handle, |task| {
                task.last_status = LastStatus::Activating
            });
        }
        loop {
            self.notice_stop();
            self.act().await?;
            if self.is_over() {
                break;
            }
            self.notice_running();
            let stop = self.driver.stop.clone();
            let mut stop = stop;
            tokio::select! {
                message = self.client.next() => self.take(message).await?,
                () = stop_wanted(&mut stop), if !self.stopping => {}
            }
        }
        failpoint::pass("containers-stopped");
        self.shut_down().await
    }

    fn note_warnings(&self) {
        let warnings = self.client.warnings.clone();
        for warning in &warnings {
            tracing::warn!(task = self.driver.id, "{warning}");
        }
        if !warnings.is_empty() {
            Engine::update_in_memory(&self.driver.handle, |task| task.warnings = warnings);
        }
    }

    async fn message(&mut self) -> Result<(), Failure> {
        let message = self.client.next().await;
        self.take(message).await
    }

    async fn take(&mut self, message: std::io::Result<Option<Message>>) -> Result<(), Failure> {
        match message.context("listening to the task's supervisor")? {
            Some(Message::Status(status)) => {
                self.take_status(&status);
                Ok(())
            }
            Some(Message::Failed { reason }) => {
                self.client
                    .send(&Request::Shutdown)
                    .await
                    .context("ending the supervisor")?;
                while !matches!(self.client.next().await, Ok(None) | Err(_)) {}
                Err(Failure::Start(format!(
                    "ResourceInitializationError: {reason}"
                )))
            }
            Some(_) => Ok(()),
            None => {
                self.driver.adopt_statuses(&self.driver.task());
                Err(Failure::SupervisorDied)
            }
        }
    }

    fn take_status(&mut self, status: &Status) {
        let names = self.definition.container_definitions.iter();
        if let Some((_, view)) = names
            .zip(&mut self.views)
            .find(|(c, _)| c.name == status.container)
        {
            view.state = status.state.clone();
        }
        let ended = matches!(status.state, State::Exited { .. } | State::Failed { .. });
        // An exit is on the supervisor's record: a restart finds it there.
        Engine::update_in_memory(&self.driver.handle, |task| apply(task, status));
        if matches!(status.state, State::Running { .. }) {
            failpoint::pass("container-started");
        }
        if ended {
            tracing::info!(task = self.driver.id, container = status.container, state = ?status.state, "ended");
        }
    }

    fn notice_stop(&mut self) {
        if self.stopping || !self.driver.task().desired_stopped {
            return;
        }
        self.stopping = true;
        Engine::update_in_memory(&self.driver.handle, |task| {
            task.last_status = LastStatus::Stopping
        });
    }

    /// The task runs when every container has been started.
    fn notice_running(&mut self) {
        let task = self.driver.task();
        let all_started = self.views.iter().all(|view| view.state != State::Pending);
        if !self.stopping && all_started && task.last_status < LastStatus::Running {
            self.driver.record(|task| {
                task.last_status = LastStatus::Running;
                task.moments.started = Some(Timestamp::now());
            });
            failpoint::pass("running-recorded");
        }
    }

    fn is_over(&self) -> bool {
        self.stopping && self.views.iter().all(|view| view.is_over(true))
    }

    /// Does all that the rules ask for now.
    async fn act(&mut self) -> Result<(), Failure> {
        loop {
            let actions = decide::next(
                &self.definition.container_definitions,
                &self.views,
                self.stopping,
            );
            if actions.is_empty() {
                return Ok(());
            }
            for action in actions {
                self.perform(action).await?;
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Result<(), Failure> {
        let (Action::Start(i) | Action::Stop(i) | Action::GiveUp(i, _) | Action::StopTask(i)) =
            &action;
        let i = *i;
        let definition = self.definition.container_definitions.get(i).cloned();
        let (Some(definition), Some(view)) = (definition, self.views.get_mut(i)) else {
            return Ok(());
        };
        match action {
            Action::Start(_) => {
                view.asked_to_start = true;
                self.send(Request::Start {
                    container: definition.name,
                })
                .await
            }
            Action::Stop(_) => {
                view.asked_to_stop = true;
                let timeout = definition.stop_timeout.unwrap_or(STOP_TIMEOUT);
                self.send(Request::Stop {
                    container: definition.name,
                    timeout,
                })
                .await?;
                failpoint::pass("stop-sent");
                Ok(())
            }
            Action::GiveUp(_, dependency) => {
                view.given_up = Some(dependency.clone());
                self.give_up(&definition.name, &dependency);
                Ok(())
            }
            Action::StopTask(_) => {
                self.end_task(&definition.name);
                Ok(())
            }
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), Failure> {
        Ok(self
            .client
            .send(&request)
            .await
            .context("talking to the task's supervisor")?)
    }

    /// As the ECS agent has it: exit code 143, and this reason.
    fn give_up(&self, name: &str, dependency: &str) {
        Engine::update_in_memory(&self.driver.handle, |task| {
            if let Some(container) = task.container_mut(name) {
                container.last_status = LastStatus::Stopped;
                container.exit_code = Some(143);
                container.reason = Some(format!(
                    "CannotStartContainerError: dependency graph: container '{name}' depends on '{dependency}', \
                     which did not reach what it waits for"
                ));
            }
        });
    }

    /// An essential container is over: after it had started, or before the task ever ran.
    fn end_task(&mut self, name: &str) {
        let task = self.driver.task();
        let container = task.containers.iter().find(|c| c.name == name);
        let reason = container.and_then(|c| c.reason.clone());
        let ran = container.is_some_and(|c| c.started.is_some());
        let want_stop = |task: &mut Task| match reason {
            Some(reason) if !ran => task.want_stop(StopCode::TaskFailedToStart, reason),
            _ => task.want_stop(
                StopCode::EssentialContainerExited,
                "Essential container in task exited",
            ),
        };
        // Where nothing is left to stop, the record of the exits comes next and has it.
        if self.views.iter().all(|view| view.is_over(true)) {
            Engine::update_in_memory(&self.driver.handle, want_stop);
        } else {
            self.driver.record(want_stop);
        }
        self.notice_stop();
    }

    /// Puts the exits on record, then lets the supervisor go.
    async fn shut_down(mut self) -> Result<(), Failure> {
        self.driver
            .record(|task| task.moments.execution_stopped = Some(Timestamp::now()));
        self.send(Request::Shutdown).await?;
        loop {
            match self.client.next().await {
                // A start that an earlier agent asked for may have come to pass only now.
                Ok(Some(Message::Status(status))) => self.take_status(&status),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(task = self.driver.id, %error, "the supervisor's last words");
                    return Ok(());
                }
            }
        }
    }
}
