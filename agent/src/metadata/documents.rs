//! The documents of the endpoint, in the members and the order of the ECS agent's own.

use serde_json::{Map, Value, json};

use crate::id::{Place, Timestamp};
use crate::task::{AttachedEni, Container, LastStatus, Task};
use crate::task_definition::{LaunchType, NetworkMode};

/// A container's document.
pub fn container(task: &Task, container: &Container, place: &Place) -> Value {
    let definition = task.definition.container(&container.name);
    let mut document = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            document.insert(name.to_owned(), value);
        }
    };
    set("DockerId", json!(container.runtime_id));
    set("Name", json!(container.name));
    set("DockerName", json!(container.name));
    set(
        "Image",
        json!(definition.map(|d| d.image.as_str()).unwrap_or_default()),
    );
    set(
        "ImageID",
        json!(container.image_digest.as_deref().unwrap_or_default()),
    );
    set("Ports", ports(task, container));
    set("Labels", labels(task, container, place));
    set(
        "DesiredStatus",
        json!(if task.desired_stopped {
            "STOPPED"
        } else {
            "RUNNING"
        }),
    );
    set("KnownStatus", json!(container.last_status.name()));
    set("ExitCode", json!(container.exit_code));
    // The agent reports less than 2 CPU units as 2.
    let cpu = definition.map_or(0, |d| d.cpu).max(2);
    let memory = definition.and_then(|d| d.memory.or(task.definition.memory.map(|m| m.0)));
    set(
        "Limits",
        without_nulls(json!({"CPU": cpu, "Memory": memory})),
    );
    set("CreatedAt", moment(container.started));
    set("StartedAt", moment(container.started));
    set("FinishedAt", moment(container.finished));
    set("Type", json!("NORMAL"));
    if let Some(log) = definition.and_then(|d| d.log_configuration.as_ref()) {
        set("LogDriver", json!(log.log_driver));
        set("LogOptions", json!(log.options));
    }
    set(
        "ContainerARN",
        json!(place.container(&task.cluster, &task.id, &container.arn_id)),
    );
    set("Networks", networks(task, container));
    if task.launch_type == LaunchType::Fargate {
        set("Snapshotter", json!("overlayfs"));
    }
    Value::Object(document)
}

/// A task's document.
pub fn task(task: &Task, place: &Place) -> Value {
    let containers: Vec<Value> = task
        .containers
        .iter()
        .map(|c| container(task, c, place))
        .collect();
    // The task document counts CPU in whole CPUs, the container document in units.
    let cpu = task.definition.cpu.map(|cpu| f64::from(cpu.0) / 1024.0);
    let memory = task.definition.memory.map(|memory| memory.0);
    let limits = (cpu.is_some() || memory.is_some())
        .then(|| without_nulls(json!({"CPU": cpu, "Memory": memory})));
    without_nulls(json!({
        "Cluster": place.cluster(&task.cluster),
        "TaskARN": place.task(&task.cluster, &task.id),
        "Family": task.definition.family,
        "Revision": task.definition.revision.to_string(),
        "DesiredStatus": if task.desired_stopped { "STOPPED" } else { "RUNNING" },
        "KnownStatus": known_status(task),
        "Containers": containers,
        "Limits": limits,
        "PullStartedAt": moment(task.moments.pull_started),
        "PullStoppedAt": moment(task.moments.pull_stopped),
        "ExecutionStoppedAt": moment(task.moments.execution_stopped),
        "AvailabilityZone": place.zone(),
        "LaunchType": task.launch_type.name(),
        "FaultInjectionEnabled": false,
    }))
}

/// What the agent knows is coarser than what the API tells.
fn known_status(task: &Task) -> &'static str {
    match task.last_status {
        LastStatus::Provisioning | LastStatus::Pending => "PENDING",
        LastStatus::Activating => "CREATED",
        LastStatus::Stopped => "STOPPED",
        _ => "RUNNING",
    }
}

fn moment(moment: Option<Timestamp>) -> Value {
    moment.map_or(Value::Null, |moment| json!(moment.to_string()))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        other => other,
    }
}

/// Each port of the container with that of the host's which leads there; under `awsvpc` its own.
fn ports(task: &Task, container: &Container) -> Value {
    let port = |pair: (u16, u16), protocol, address: Option<&str>| {
        let (container, host) = pair;
        let port = json!({"ContainerPort": container, "Protocol": protocol, "HostPort": host, "HostIp": address});
        without_nulls(port)
    };
    let definition = task.definition.container(&container.name);
    let ports: Vec<Value> = match task.definition.network_mode {
        NetworkMode::Awsvpc => {
            let mappings = definition.into_iter().flat_map(|d| &d.port_mappings);
            let ports = mappings.flat_map(|mapping| {
                let own = mapping.ports.container().ports();
                own.map(|own| port((own, own), mapping.protocol, None))
            });
            ports.collect()
        }
        _ => {
            let bindings = container.bindings.iter();
            let ports = bindings.flat_map(|binding| {
                let pairs = binding.pairs();
                pairs.map(|pair| port(pair, binding.protocol, Some("0.0.0.0")))
            });
            ports.collect()
        }
    };
    if ports.is_empty() {
        Value::Null
    } else {
        Value::Array(ports)
    }
}

fn labels(task: &Task, container: &Container, place: &Place) -> Value {
    json!({
        "com.amazonaws.ecs.cluster": place.cluster(&task.cluster),
        "com.amazonaws.ecs.container-name": container.name,
        "com.amazonaws.ecs.task-arn": place.task(&task.cluster, &task.id),
        "com.amazonaws.ecs.task-definition-family": task.definition.family,
        "com.amazonaws.ecs.task-definition-version": task.definition.revision.to_string(),
    })
}

/// Of an interface of the task's own, all that there is to tell; of a container's own, what Docker's bridge has too.
fn networks(task: &Task, container: &Container) -> Value {
    let mode = task.network_mode_of(&container.name);
    let interface = task.interface_of(&container.name);
    match interface.map(|eni| &eni.attached) {
        Some(None) => Value::Null,
        Some(Some(eni)) if mode == NetworkMode::Awsvpc => awsvpc(eni),
        Some(Some(eni)) => {
            let ipv6 = eni.ipv6.as_ref().map(|ipv6| [ipv6.address]);
            json!([without_nulls(json!({
                "NetworkMode": mode.name(),
                "IPv4Addresses": [eni.address],
                "IPv6Addresses": ipv6,
            }))])
        }
        None => json!([{"NetworkMode": mode.name()}]),
    }
}

fn awsvpc(eni: &AttachedEni) -> Value {
    let length = eni.subnet_cidr.rsplit('/').next().unwrap_or_default();
    let list = |list: Value| if list == json!([]) { Value::Null } else { list };
    let mut network = json!({
        "NetworkMode": "awsvpc",
        "IPv4Addresses": [eni.address],
        "AttachmentIndex": 0,
        "MACAddress": eni.mac,
        "IPv4SubnetCIDRBlock": eni.subnet_cidr,
        "DomainNameServers": list(json!(eni.domain_name_servers)),
        "DomainNameSearchList": list(json!(eni.domain_name_search_list)),
        "PrivateDNSName": eni.private_dns_name,
        "SubnetGatewayIpv4Address": format!("{}/{length}", eni.gateway),
    });
    if let (Some(ipv6), Some(network)) = (&eni.ipv6, network.as_object_mut()) {
        let length = ipv6.subnet_cidr.rsplit('/').next().unwrap_or_default();
        let gateway = format!("{}/{length}", ipv6.gateway);
        network.insert("IPv6Addresses".into(), json!([ipv6.address]));
        network.insert("IPv6SubnetCIDRBlock".into(), json!(ipv6.subnet_cidr));
        network.insert("SubnetGatewayIpv6Address".into(), json!(gateway));
    }
    json!([without_nulls(network)])
}
