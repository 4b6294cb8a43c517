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
    let containers = list(task, "containers");
    let containers: Vec<String> = containers.iter().map(container).collect();
    format!(
        "{:<34} {:<24} {:<15} {:<16} {}",
        last(text("/taskArn")),
        last(text("/taskDefinitionArn")),
        text("/lastStatus"),
        address(task),
        containers.join(", ")
    )
}

/// `name (status)`, and the ports of the host's that lead to it.
fn container(container: &Value) -> String {
    let of = |name: &str| container.get(name).and_then(Value::as_str).unwrap_or("-");
    let state = match container.get("exitCode").and_then(Value::as_i64) {
        Some(code) => format!("exit {code}"),
        None => of("lastStatus").to_lowercase(),
    };
    let ports = list(container, "networkBindings").iter().map(binding);
    let ports = ports.map(|port| format!(" {port}"));
    format!("{} ({state}){}", of("name"), ports.collect::<String>())
}

/// As Docker writes it: `0.0.0.0:61000->80/tcp`.
fn binding(binding: &Value) -> String {
    let of = |one: &str, range: &str| match binding.get(one).or(binding.get(range)) {
        Some(Value::String(text)) => text.clone(),
        Some(number) => number.to_string(),
        None => "-".to_owned(),
    };
    format!(
        "{}:{}->{}/{}",
        of("bindIP", ""),
        of("hostPort", "hostPortRange"),
        of("containerPort", "containerPortRange"),
        of("protocol", "")
    )
}

/// The addresses of a task's interfaces; a task with the host's network, or without any, has none.
fn address(task: &Value) -> String {
    let mut all: Vec<&str> = Vec::new();
    for container in list(task, "containers") {
        for interface in list(container, "networkInterfaces") {
            let address = interface.get("privateIpv4Address").and_then(Value::as_str);
            all.extend(address.filter(|address| !all.contains(address)));
        }
    }
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join(",")
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value.get(name).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_each_address_once_and_the_ports_that_lead_to_a_container() {
        let interface = |address: &str| json!([{"privateIpv4Address": address}]);
        let web = json!({
            "name": "web", "lastStatus": "RUNNING", "networkInterfaces": interface("10.0.0.4"),
            "networkBindings": [
                {"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 61000, "protocol": "tcp"},
                {"bindIP": "0.0.0.0", "containerPortRange": "1-2", "hostPortRange": "61001-61002", "protocol": "udp"},
            ],
        });
        assert_eq!(
            container(&web),
            "web (running) 0.0.0.0:61000->80/tcp 0.0.0.0:61001-61002->1-2/udp"
        );
        let other = |address: &str| json!({"networkInterfaces": interface(address)});
        let task = |containers: &[Value]| json!({ "containers": containers });
        let several = [web.clone(), other("10.0.0.4"), other("10.0.0.5")];
        assert_eq!(address(&task(&several)), "10.0.0.4,10.0.0.5");
        assert_eq!(address(&task(&[json!({"name": "x"})])), "-");
        assert_eq!(
            container(&json!({"name": "x", "exitCode": 3})),
            "x (exit 3)"
        );
    }
}
