//! A task definition: what a task runs, as somebody registered it.
//!
//! A request becomes a [`TaskDefinition`] in two steps: `parse` takes its members by name and
//! type, then `validate` checks what they say together. Past that point it can't be
//! invalid, and nothing checks it again.

mod dependencies;
mod fargate;
mod naming;
mod network_mode;
mod parse;
mod port_mapping;
mod sizes;
mod validate;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::id::{Place, Timestamp};

pub use dependencies::start_order;
pub use naming::{HostEntry, Link, Naming};
pub use network_mode::NetworkMode;
pub use parse::{container_overrides, tags};
pub use port_mapping::{PortMapping, PortRange, Ports, Protocol};
pub use sizes::{CpuUnits, Mebibytes};

/// What a task runs: its containers, and the size of the whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefinition {
    /// The name that its revisions share.
    pub family: String,
    /// Counts the registrations of the family, from 1.
    pub revision: u32,
    /// `ACTIVE` until it is deregistered.
    pub status: Status,
    /// How its tasks reach the network.
    pub network_mode: NetworkMode,
    /// The CPU of all containers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuUnits>,
    /// The memory of all containers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Mebibytes>,
    /// In the order in which they were written.
    pub container_definitions: Vec<ContainerDefinition>,
    /// Kept and given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_role_arn: Option<String>,
    /// Kept and given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_role_arn: Option<String>,
    /// The launch types that it was checked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires_compatibilities: Vec<LaunchType>,
    /// The launch types that it can run with.
    pub compatibilities: Vec<LaunchType>,
    /// Kept and given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_platform: Option<RuntimePlatform>,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// When it was deregistered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deregistered_at: Option<Timestamp>,
    /// In the order in which they were given.
    #[serde(default)]
    pub tags: Vec<Tag>,
}

/// Whether a definition can still be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "ECS's own words")]
pub enum Status {
    Active,
    Inactive,
}

/// Who provides the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "ECS's own words")]
pub enum LaunchType {
    Ec2,
    Fargate,
}

impl LaunchType {
    /// The launch type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "EC2" => Some(Self::Ec2),
            "FARGATE" => Some(Self::Fargate),
            _ => None,
        }
    }

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::Fargate => "FARGATE",
        }
    }
}

/// The machine that a definition wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimePlatform {
    /// `X86_64` or `ARM64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_architecture: Option<String>,
    /// `LINUX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operating_system_family: Option<String>,
}

/// A label on a definition or a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Unique among the tags of one thing.
    pub key: String,
    /// May be empty.
    #[serde(default)]
    pub value: String,
}

/// One container of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerDefinition {
    /// Unique within the task.
    pub name: String,
    /// An image's reference, as the user wrote it.
    pub image: String,
    /// Its share when containers compete for CPU; 0 is the least.
    pub cpu: u32,
    /// Beyond this it is killed, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// What it should have when memory is scarce, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u32>,
    /// Whether its exit ends the task.
    pub essential: bool,
    /// What must have happened to others before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entry_point: Vec<String>,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Added to the image's environment.
    #[serde(default)]
    pub environment: Vec<KeyValuePair>,
    /// The ports it listens on.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// What it is called, and how it finds others.
    #[serde(flatten)]
    pub naming: Naming,
    /// Whether it has no network, whatever the task's network mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_networking: Option<bool>,
    /// Replaces the image's working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Replaces the image's user: `user`, `user:group`, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Resource limits of its processes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// Whether it can write to its root filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly_root_filesystem: Option<bool>,
    /// Seconds between SIGTERM and SIGKILL; ECS's default is 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
    /// Kept and given back; the log stays on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_configuration: Option<LogConfiguration>,
}

/// A variable of a container's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the name says it")]
pub struct KeyValuePair {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

/// One entry of `dependsOn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// The container that must come first.
    pub container_name: String,
    /// What it must have reached.
    pub condition: Condition,
}

/// What a dependency waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Condition {
    /// It has been started.
    Start,
    /// It has exited, however.
    Complete,
    /// It has exited with 0.
    Success,
}

/// One entry of `ulimits`; a limit of -1 means no limit (`setrlimit(2)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "ECS's own words")]
pub struct Ulimit {
    pub name: String,
    pub soft_limit: i64,
    pub hard_limit: i64,
}

/// Where a container's output should go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogConfiguration {
    /// `awslogs`.
    pub log_driver: String,
    /// In the order in which they were given.
    #[serde(default)]
    pub options: serde_json::Map<String, Value>,
}

impl TaskDefinition {
    /// Reads and checks a RegisterTaskDefinition request. The revision is given when it is stored.
    pub fn from_request(request: Value) -> Result<Self, ApiError> {
        let mut definition = parse::request(request)?;
        validate::check(&definition)?;
        definition.compatibilities = fargate::compatibilities(&definition);
        Ok(definition)
    }

    /// `family:revision`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.family, self.revision)
    }

    /// The launch type of a RunTask that names none.
    pub fn default_launch_type(&self) -> LaunchType {
        if self.compatibilities.contains(&LaunchType::Fargate) {
            LaunchType::Fargate
        } else {
            LaunchType::Ec2
        }
    }

    /// As DescribeTaskDefinition gives it, with the members that ECS always fills in.
    pub fn describe(&self, place: &Place) -> Result<Value, ApiError> {
        let mut value = serde_json::to_value(self).map_err(ApiError::server)?;
        if let Some(map) = value.as_object_mut() {
            map.remove("tags");
            map.insert(
                "taskDefinitionArn".into(),
                json!(place.task_definition(&self.family, self.revision)),
            );
            map.insert("registeredAt".into(), json!(self.registered_at.seconds()));
            if let Some(at) = self.deregistered_at {
                map.insert("deregisteredAt".into(), json!(at.seconds()));
            }
            map.insert("volumes".into(), json!([]));
            map.insert("placementConstraints".into(), json!([]));
            let containers = map
                .get_mut("containerDefinitions")
                .and_then(Value::as_array_mut);
            for container in containers
                .into_iter()
                .flatten()
                .filter_map(Value::as_object_mut)
            {
                for list in ["mountPoints", "volumesFrom", "systemControls"] {
                    container.insert(list.into(), json!([]));
                }
            }
        }
        Ok(value)
    }

    /// How one of its containers reaches the network.
    pub fn network_mode_of(&self, container: &ContainerDefinition) -> NetworkMode {
        match container.disable_networking {
            Some(true) => NetworkMode::None,
            _ => self.network_mode,
        }
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerDefinition> {
        self.container_definitions
            .iter()
            .find(|container| container.name == name)
    }
}
