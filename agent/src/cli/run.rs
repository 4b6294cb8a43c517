//! `berth run`: one task definition, from its file to its exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::follow::Follower;
use super::session::Session;
use super::{runtime, start_log};
use crate::config::Config;
use crate::engine::PUBLISH_TAG;

/// What Docker and Podman exit with when a container couldn't be started.
const NOT_STARTED: u8 = 125;

/// The options of `berth run`.
#[derive(clap::Args)]
pub struct Args {
    /// Task definition, as for `aws ecs register-task-definition --cli-input-json`; - is standard input
    file: PathBuf,
    /// Publish a port of the task on the host's loopback: HOST:TASK
    #[arg(short, long, value_name = "8080:80")]
    publish: Vec<String>,
    /// Print the stopped task's description as JSON instead of a summary
    #[arg(long)]
    json: bool,
}

pub fn run(config: Config, args: Args) -> anyhow::Result<ExitCode> {
    start_log(config.log_format, "warn");
    let definition = read(&args.file)?;
    runtime()?.block_on(async {
        let mut run = Run::start(config, definition, &args.publish).await?;
        run.follow().await?;
        Ok(run.finish(args.json))
    })
}

/// Reads the definition; the whole answer of DescribeTaskDefinition does as well.
fn read(path: &std::path::Path) -> anyhow::Result<Value> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("reading standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
    };
    let mut value: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    Ok(match value.get_mut("taskDefinition") {
        Some(inner) if inner.is_object() => inner.take(),
        _ => value,
    })
}

/// A task under way.
struct Run {
    config: Config,
    session: Session,
    signals: [Signal; 2],
    arn: String,
    /// Its description, as it was last seen.
    task: Value,
    follower: Follower,
}

impl Run {
    async fn start(config: Config, definition: Value, publish: &[String]) -> anyhow::Result<Self> {
        // Before the task exists, so that no Ctrl-C is missed.
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ];
        let session = Session::open(&config).await?;
        let registered = session
            .client
            .call("RegisterTaskDefinition", definition)
            .await?;
        let name = registered
            .pointer("/taskDefinition/taskDefinitionArn")
            .cloned()
            .unwrap_or_default();
        let tags = match publish {
            [] => json!([]),
            ports => json!([{"key": PUBLISH_TAG, "value": ports.join(",")}]),
        };
        let subnet = berth_netns::Subnet::default_subnet().id().to_string();
        let input = json!({
            "taskDefinition": name,
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": [subnet]}},
            "startedBy": "berth run",
            "tags": tags,
        });
        let answer = session.client.call("RunTask", input).await?;
        let Some(task) = answer.pointer("/tasks/0").cloned() else {
            bail!("RunTask started nothing: {answer}")
        };
        let arn = text(&task, "taskArn").to_owned();
        let logs = config
            .task_root(arn.rsplit('/').next().unwrap_or_default())
            .join("logs");
        let containers = containers(&task)
            .map(|container| text(container, "name").to_owned())
            .collect();
        let follower = Follower::start(logs, containers)?;
        Ok(Self {
            config,
            session,
            signals,
            arn,
            task,
            follower,
        })
    }

    /// Until the task has stopped.
    async fn follow(&mut self) -> anyhow::Result<()> {
        while text(&self.task, "lastStatus") != "STOPPED" {
            let version = self
                .task
                .get("version")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            let [interrupt, terminate] = &mut self.signals;
            let changed = tokio::select! {
                changed = self.session.client.changed(&self.arn, "default", version) => Some(changed),
                _ = interrupt.recv() => None,
                _ = terminate.recv() => None,
            };
            match changed {
                None => {
                    eprintln!("berth: stopping the task");
                    let input = json!({"task": self.arn, "reason": "Task stopped by user"});
                    self.session.client.call("StopTask", input).await?;
                }
                Some(Ok(task)) => {
                    self.task = task;
                    // What they printed is in their logs before their end is told.
                    if containers(&self.task).all(|c| text(c, "lastStatus") == "STOPPED") {
                        self.follower.end();
                    }
                }
                // Whose engine it was is gone; the task isn't.
                Some(Err(error)) if self.session.host().is_none() => {
                    tracing::info!("{error:#}; taking the task up");
                    self.session = Session::open(&self.config).await?;
                }
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says how it ended, and returns the essential container's exit code.
    fn finish(self, as_json: bool) -> ExitCode {
        self.follower.finish();
        if as_json {
            println!("{}", self.task);
        } else if text(&self.task, "stopCode") != "EssentialContainerExited" {
            eprintln!(
                "berth: {}: {}",
                text(&self.task, "stopCode"),
                text(&self.task, "stoppedReason")
            );
        }
        for container in containers(&self.task).filter(|_| !as_json) {
            if let Some(reason) = container.get("reason").and_then(Value::as_str) {
                eprintln!("berth: {}: {reason}", text(container, "name"));
            }
        }
        ExitCode::from(exit_code(&self.task, &self.session))
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn containers(task: &Value) -> impl Iterator<Item = &Value> {
    task.get("containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Of the essential containers that have one, the first in the definition's order that isn't 0:
/// the others were stopped because of it, or ended well.
fn exit_code(task: &Value, session: &Session) -> u8 {
    let essential = session.host().and_then(|host| {
        let id = text(task, "taskArn")
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let task = host.api.engine().task(&id)?.task();
        let first = task.containers.iter().filter(|container| {
            task.definition
                .container(&container.name)
                .is_some_and(|definition| definition.essential)
        });
        // The one that ended first ended the task.
        let first = first
            .filter(|container| container.exit_code.is_some())
            .min_by_key(|container| container.finished);
        first.and_then(|container| container.exit_code)
    });
    let any = || {
        containers(task)
            .filter_map(|c| c.get("exitCode")?.as_i64())
            .find(|code| *code != 0)
    };
    let none = containers(task).all(|c| c.get("exitCode").is_none());
    let code = essential.map(i64::from).or_else(any);
    match code {
        Some(code) => u8::try_from(code & 0xff).unwrap_or(1),
        None if none => NOT_STARTED,
        None => 0,
    }
}
