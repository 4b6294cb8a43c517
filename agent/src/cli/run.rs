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
    /// Publish a port of the task on the host's loopback: HOST:TASK. With *: before it, at all of the host's
    /// addresses; with /udp behind it, of UDP: *:8080:80, *:5353:53/udp
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
        let mut run = match Run::start(config, definition, &args.publish).await? {
            Ok(run) => run,
            Err(refusal) => {
                eprintln!("berth: {refusal}");
                return Ok(ExitCode::from(NOT_STARTED));
            }
        };
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
    essential: Vec<String>,
    /// Of the essential container that ended first: it ended the task.
    exit: Option<i64>,
    follower: Follower,
}

impl Run {
    /// Starts the task; or why there is no place for it.
    async fn start(
        config: Config,
        definition: Value,
        publish: &[String],
    ) -> anyhow::Result<Result<Self, String>> {
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
        let mut input = json!({
            "taskDefinition": name,
            "startedBy": "berth run",
            "tags": tags,
        });
        let mode = registered.pointer("/taskDefinition/networkMode");
        if mode.and_then(Value::as_str) == Some("awsvpc") {
            let vpc = config.vpc()?;
            let subnet = vpc.subnets().first().map(|subnet| subnet.id().to_string());
            set(
                &mut input,
                "networkConfiguration",
                json!({"awsvpcConfiguration": {"subnets": [subnet]}}),
            );
        } else if !publish.is_empty() {
            bail!(
                "--publish is for definitions with network mode awsvpc; in this one, portMappings say which ports of \
                 the host's lead to a container"
            );
        }
        let answer = session.client.call("RunTask", input).await?;
        let Some(task) = answer.pointer("/tasks/0").cloned() else {
            return Ok(Err(refusal(&answer)));
        };
        let arn = text(&task, "taskArn").to_owned();
        let logs = config
            .task_root(arn.rsplit('/').next().unwrap_or_default())
            .join("logs");
        let containers = containers(&task)
            .map(|container| text(container, "name").to_owned())
            .collect();
        let follower = Follower::start(logs, containers)?;
        Ok(Ok(Self {
            config,
            session,
            signals,
            arn,
            task,
            essential: essential(registered.get("taskDefinition").unwrap_or(&Value::Null)),
            exit: None,
            follower,
        }))
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
                    self.exit = self
                        .exit
                        .or_else(|| essential_exit(&self.task, &self.essential));
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
        match self.exit {
            Some(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)),
            None => ExitCode::from(NOT_STARTED),
        }
    }
}

/// Why RunTask started nothing.
fn refusal(answer: &Value) -> String {
    let failure = answer.pointer("/failures/0").unwrap_or(&Value::Null);
    match (text(failure, "reason"), text(failure, "detail")) {
        ("", _) => format!("RunTask started nothing: {answer}"),
        (reason, "") => format!("RunTask started nothing: {reason}"),
        (reason, detail) => format!("RunTask started nothing: {reason}: {detail}"),
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), value);
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

/// The names of a definition's essential containers.
fn essential(definition: &Value) -> Vec<String> {
    let all = definition
        .get("containerDefinitions")
        .and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .filter(|container| container.get("essential") == Some(&json!(true)))
        .map(|container| text(container, "name").to_owned())
        .collect()
}

/// The exit code of an essential container that has one. If several ended since the last look,
/// one that isn't 0 tells more.
fn essential_exit(task: &Value, essential: &[String]) -> Option<i64> {
    let codes = || {
        containers(task)
            .filter(|container| essential.iter().any(|name| name == text(container, "name")))
            .filter_map(|container| container.get("exitCode")?.as_i64())
    };
    codes().find(|code| *code != 0).or_else(|| codes().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_an_essential_container() {
        let definition = json!({"containerDefinitions": [
            {"name": "a", "essential": true}, {"name": "b", "essential": false}, {"name": "c", "essential": true},
        ]});
        let essential = essential(&definition);
        assert_eq!(essential, ["a", "c"]);
        let exit = |codes: [Option<i64>; 3]| {
            let container = |(name, code): (&str, Option<i64>)| match code {
                Some(code) => json!({"name": name, "exitCode": code}),
                None => json!({"name": name}),
            };
            let all: Vec<Value> = ["a", "b", "c"]
                .into_iter()
                .zip(codes)
                .map(container)
                .collect();
            essential_exit(&json!({ "containers": all }), &essential)
        };
        assert_eq!(exit([None, Some(3), None]), None);
        assert_eq!(exit([Some(0), Some(3), None]), Some(0));
        assert_eq!(exit([Some(0), Some(3), Some(143)]), Some(143));
    }
}
