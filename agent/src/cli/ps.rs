//! `berth ps`: the tasks, from the agent or, where none runs, from the state on disk.

use serde_json::{Value, json};

use super::runtime;
use crate::api::client::Client;
use crate::config::Config;
use crate::store::{Store, StoreError};
use crate::task::Task;

/// The options of `berth ps`.
#[derive(clap::Args)]
pub struct Args {
    /// Stopped tasks too
    #[arg(short, long)]
    all: bool,
    /// The tasks as DescribeTasks gives them
    #[arg(long)]
    json: bool,
}

pub fn ps(config: Config, args: &Args) -> anyhow::Result<()> {
    let tasks = runtime()?.block_on(tasks(&config))?;
    let shown = |task: &&Value| {
        args.all || task.get("lastStatus").and_then(Value::as_str) != Some("STOPPED")
    };
    let tasks: Vec<&Value> = tasks.iter().filter(shown).collect();
    if args.json {
        println!("{}", json!({ "tasks": tasks }));
        return Ok(());
    }
    println!(
        "{:<34} {:<24} {:<15} {:<16} CONTAINERS",
        "TASK", "DEFINITION", "STATUS", "ADDRESS"
    );
    for task in tasks {
        println!("{}", line(task));
    }
    Ok(())
}

async fn tasks(config: &Config) -> anyhow::Result<Vec<Value>> {
    match Client::of_agent(&config.socket()).await? {
        Some(client) => of_agent(&client).await,
        None => on_disk(config),
    }
}

async fn of_agent(client: &Client) -> anyhow::Result<Vec<Value>> {
    let strings = |value: &Value, name: &str| {
        let list = value
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        list.into_iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    let clusters = client.call("ListClusters", json!({})).await?;
    for cluster in strings(&clusters, "clusterArns") {
        for status in ["RUNNING", "STOPPED"] {
            let listed = client
                .call(
                    "ListTasks",
                    json!({"cluster": cluster, "desiredStatus": status}),
                )
                .await?;
            let arns = strings(&listed, "taskArns");
            if !arns.is_empty() {
                let described = client
                    .call("DescribeTasks", json!({"cluster": cluster, "tasks": arns}))
                    .await?;
                all.extend(
                    described
                        .get("tasks")
                        .and_then(Value::as_array)
                        .cloned()
                        .unwrap_or_default(),
                );
            }
        }
    }
    Ok(all)
}

fn on_disk(config: &Config) -> anyhow::Result<Vec<Value>> {
    let path = config.root.join("state.redb");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let store = match Store::open(&path) {
        Err(StoreError::Locked) => anyhow::bail!("a berth is just starting; try again"),
        other => other?,
    };
    let instance = config.place.container_instance("default", "");
    let mut tasks: Vec<Task> = store.tasks()?;
    tasks.sort_by_key(|task| std::cmp::Reverse(task.moments.created));
    Ok(tasks
        .iter()
        .map(|task| task.describe(&config.place, &instance))
        .collect())
}

fn line(task: &Value) -> String {
    let text = |pointer: &str| {
        task.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let last = |text: String| text.rsplit('/').next().unwrap_or_default().to_owned();
    let containers = task
        .get("containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let containers: Vec<String> = containers
        .map(|c| {
            let of = |name: &str| c.get(name).and_then(Value::as_str).unwrap_or("-");
            match c.get("exitCode").and_then(Value::as_i64) {
                Some(code) => format!("{} (exit {code})", of("name")),
                None => format!("{} ({})", of("name"), of("lastStatus").to_lowercase()),
            }
        })
        .collect();
    format!(
        "{:<34} {:<24} {:<15} {:<16} {}",
        last(text("/taskArn")),
        last(text("/taskDefinitionArn")),
        text("/lastStatus"),
        text("/containers/0/networkInterfaces/0/privateIpv4Address"),
        containers.join(", ")
    )
}
