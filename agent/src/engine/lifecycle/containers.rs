//! The containers of a task while its supervisor lives: started, watched and stopped by the rules
//! of [`decide`], and told of in the task's record.

use anyhow::Context;

use super::super::decide::{self, Action, View};
use super::{Driver, Failure, stop_wanted};
use crate::engine::Engine;
use crate::failpoint;
use crate::id::Timestamp;
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Message, Request, State, Status};
use crate::task::{LastStatus, StopCode, Task};

/// ECS's time between SIGTERM and SIGKILL, in seconds, where the definition has none.
const STOP_TIMEOUT: u32 = 30;

/// What OutOfMemoryError says, word for word as ECS does.
const OUT_OF_MEMORY: &str = "OutOfMemoryError: Container killed due to memory usage";

/// Takes a container's status over into the record.
pub(super) fn apply(task: &mut Task, status: &Status) {
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
pub(super) struct Containers<'a> {
    driver: &'a mut Driver,
    client: Client,
    definition: crate::task_definition::TaskDefinition,
    views: Vec<View>,
    stopping: bool,
}

impl<'a> Containers<'a> {
    pub(super) fn new(driver: &'a mut Driver, client: Client) -> Self {
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
    pub(super) async fn run(mut self) -> Result<(), Failure> {
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
        // Before any container is told: what asks for a service from now on isn't led to one that ends.
        self.driver.register();
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
            self.driver.register();
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
