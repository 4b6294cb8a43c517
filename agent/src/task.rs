//! A task: one run of a task definition, and everything that is known of it.
//!
//! The record names whatever the task will own (its ENI, its containers' ids) from the moment it
//! is accepted, before any of it exists. So one write to disk comes before the first step, each
//! step can be done again under the same name, and a crash leaves nothing that nobody knows.

mod network;

use berth_netns::IdRange;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::id::{self, Place, Timestamp};
use crate::task_definition::{LaunchType, NetworkMode, Tag, TaskDefinition};

pub use network::{AttachedEni, AttachedIpv6, Eni, NetworkBinding};

/// What ECS calls `lastStatus` (the task lifecycle in the ECS developer guide).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "ECS's own words")]
pub enum LastStatus {
    Provisioning,
    Pending,
    Activating,
    Running,
    Deactivating,
    Stopping,
    Deprovisioning,
    Stopped,
}

impl LastStatus {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Activating => "ACTIVATING",
            Self::Running => "RUNNING",
            Self::Deactivating => "DEACTIVATING",
            Self::Stopping => "STOPPING",
            Self::Deprovisioning => "DEPROVISIONING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// Why a task stopped, in ECS's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "ECS's own words")]
pub enum StopCode {
    TaskFailedToStart,
    EssentialContainerExited,
    UserInitiated,
}

/// The task's `stopCode` and `stoppedReason`. The first to be set stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which kind of end.
    pub code: StopCode,
    /// For people.
    pub reason: String,
}

/// The moments of a task's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the API's names of the same moments say it")]
pub struct Moments {
    pub created: Option<Timestamp>,
    pub pull_started: Option<Timestamp>,
    pub pull_stopped: Option<Timestamp>,
    pub started: Option<Timestamp>,
    pub stopping: Option<Timestamp>,
    pub execution_stopped: Option<Timestamp>,
    pub stopped: Option<Timestamp>,
}

/// One container of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name in the definition.
    pub name: String,
    /// The last part of its ARN.
    pub arn_id: String,
    /// What ECS calls `runtimeId`, and metadata `DockerId`.
    pub runtime_id: String,
    /// The secret part of its metadata address.
    pub endpoint_id: String,
    /// `PENDING`, `RUNNING` or `STOPPED`.
    pub last_status: LastStatus,
    /// The image's manifest, once it is known.
    pub image_digest: Option<String>,
    /// Of the container's first process; 128 plus the signal that ended it.
    pub exit_code: Option<i32>,
    /// What went wrong.
    pub reason: Option<String>,
    /// When its first process ran.
    pub started: Option<Timestamp>,
    /// When that ended.
    pub finished: Option<Timestamp>,
    /// The ports of the host's that lead to it, once they are known.
    #[serde(default)]
    pub bindings: Vec<NetworkBinding>,
    /// Without an interface: the ids of the user namespace that owns its network namespace, if that is not the host's.
    #[serde(default)]
    pub id_range: Option<IdRange>,
}

/// One run of a task definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The name of its cluster.
    pub cluster: String,
    /// Its own copy, with overrides applied.
    pub definition: TaskDefinition,
    /// The overrides as they were given.
    pub overrides: Value,
    /// Who provides the host.
    pub launch_type: LaunchType,
    /// `family:<family>` unless the caller said otherwise.
    pub group: String,
    /// As the caller said.
    pub started_by: Option<String>,
    /// Labels.
    pub tags: Vec<Tag>,
    /// Whether somebody or something wants it stopped.
    pub desired_stopped: bool,
    /// How far it has come.
    pub last_status: LastStatus,
    /// Counts the changes.
    pub version: u64,
    /// Why it stops.
    pub stop: Option<Stop>,
    /// When what happened.
    pub moments: Moments,
    /// Its interfaces.
    #[serde(alias = "eni", deserialize_with = "network::one_or_several")]
    pub interfaces: Vec<Eni>,
    /// In the order of the definition.
    pub containers: Vec<Container>,
    /// The boot of the host on which it runs: another boot means that its processes are gone.
    pub boot_id: String,
    /// Things that the user should know, such as limits that could not be applied.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Container {
    /// A container that isn't there yet.
    pub fn planned(task: &str, name: &str) -> Self {
        // Fargate's form of a container's id: the task's and ten digits.
        let digits: String = id::random_160()
            .bytes()
            .take(10)
            .map(|b| char::from(b'0' + b % 10))
            .collect();
        Self {
            name: name.to_owned(),
            arn_id: id::random_uuid(),
            runtime_id: format!("{task}-{digits}"),
            endpoint_id: id::random_160(),
            last_status: LastStatus::Pending,
            image_digest: None,
            exit_code: None,
            reason: None,
            started: None,
            finished: None,
            bindings: Vec::new(),
            id_range: None,
        }
    }

    fn describe(&self, task: &Task, place: &Place) -> Value {
        let definition = task.definition.container(&self.name);
        let interface = task.interface_of(&self.name).and_then(Eni::describe);
        let mut value = json!({
            "containerArn": place.container(&task.cluster, &task.id, &self.arn_id),
            "taskArn": place.task(&task.cluster, &task.id),
            "name": self.name,
            "image": definition.map(|d| d.image.as_str()),
            "runtimeId": self.runtime_id,
            "lastStatus": self.last_status.name(),
            "networkBindings": self.bindings.iter().map(NetworkBinding::describe).collect::<Vec<_>>(),
            "networkInterfaces": interface.into_iter().collect::<Vec<_>>(),
            "healthStatus": "UNKNOWN",
            "cpu": definition.map(|d| d.cpu).unwrap_or(0).to_string(),
        });
        set(&mut value, "imageDigest", self.image_digest.as_deref());
        set(&mut value, "exitCode", self.exit_code);
        set(&mut value, "reason", self.reason.as_deref());
        set(
            &mut value,
            "memory",
            definition.and_then(|d| d.memory).map(|m| m.to_string()),
        );
        set(
            &mut value,
            "memoryReservation",
            definition
                .and_then(|d| d.memory_reservation)
                .map(|m| m.to_string()),
        );
        value
    }
}

impl Task {
    /// Marks that the task shall stop, unless an earlier reason stands.
    pub fn want_stop(&mut self, code: StopCode, reason: impl Into<String>) {
        self.desired_stopped = true;
        self.moments.stopping.get_or_insert_with(Timestamp::now);
        self.stop.get_or_insert_with(|| Stop {
            code,
            reason: reason.into(),
        });
    }

    /// Whether it is over.
    pub fn is_stopped(&self) -> bool {
        self.last_status == LastStatus::Stopped
    }

    /// The container of that name.
    pub fn container_mut(&mut self, name: &str) -> Option<&mut Container> {
        self.containers
            .iter_mut()
            .find(|container| container.name == name)
    }

    /// The value of one of its tags.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags
            .iter()
            .find(|tag| tag.key == key)
            .map(|tag| tag.value.as_str())
    }

    /// As DescribeTasks gives it.
    pub fn describe(&self, place: &Place, instance_arn: &str) -> Value {
        let mut value = json!({
            "taskArn": place.task(&self.cluster, &self.id),
            "clusterArn": place.cluster(&self.cluster),
            "taskDefinitionArn": place.task_definition(&self.definition.family, self.definition.revision),
            "group": self.group,
            "launchType": self.launch_type.name(),
            "lastStatus": self.last_status.name(),
            "desiredStatus": if self.desired_stopped { "STOPPED" } else { "RUNNING" },
            "healthStatus": "UNKNOWN",
            "connectivity": "CONNECTED",
            "enableExecuteCommand": false,
            "availabilityZone": place.zone(),
            "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
            "overrides": self.overrides,
            "tags": self.tags,
            "version": self.version,
            "attachments": self.attachments(),
            "containers": self.containers.iter().map(|c| c.describe(self, place)).collect::<Vec<_>>(),
        });
        set(
            &mut value,
            "cpu",
            self.definition.cpu.map(|cpu| cpu.to_string()),
        );
        set(
            &mut value,
            "memory",
            self.definition.memory.map(|memory| memory.to_string()),
        );
        set(&mut value, "startedBy", self.started_by.as_deref());
        if self.launch_type == LaunchType::Fargate {
            set(&mut value, "platformVersion", Some("1.4.0"));
            set(&mut value, "platformFamily", Some("Linux"));
        } else {
            set(&mut value, "containerInstanceArn", Some(instance_arn));
        }
        if let Some(stop) = self.stop.as_ref().filter(|_| self.desired_stopped) {
            set(&mut value, "stopCode", Some(format!("{:?}", stop.code)));
            set(&mut value, "stoppedReason", Some(stop.reason.as_str()));
        }
        for (name, moment) in [
            ("createdAt", self.moments.created),
            ("connectivityAt", self.moments.created),
            ("pullStartedAt", self.moments.pull_started),
            ("pullStoppedAt", self.moments.pull_stopped),
            ("startedAt", self.moments.started),
            ("stoppingAt", self.moments.stopping),
            ("executionStoppedAt", self.moments.execution_stopped),
            ("stoppedAt", self.moments.stopped),
        ] {
            set(&mut value, name, moment.map(Timestamp::seconds));
        }
        value
    }

    /// An interface of a container's own is no attachment of ECS's.
    fn attachments(&self) -> Vec<Value> {
        let is_attachment = self.definition.network_mode == NetworkMode::Awsvpc;
        let interfaces = self.interfaces.iter().filter(|_| is_attachment);
        interfaces.map(Eni::describe_attachment).collect()
    }
}

#[cfg(test)]
impl Task {
    /// A task of that definition which runs, and has no interface.
    pub fn running(id: &str, definition: TaskDefinition) -> Self {
        let containers = definition.container_definitions.iter();
        Self {
            id: id.to_owned(),
            cluster: "default".into(),
            containers: containers
                .map(|container| Container::planned(id, &container.name))
                .collect(),
            definition,
            overrides: json!({}),
            launch_type: LaunchType::Ec2,
            group: String::new(),
            started_by: None,
            tags: Vec::new(),
            desired_stopped: false,
            last_status: LastStatus::Running,
            version: 1,
            stop: None,
            moments: Moments::default(),
            interfaces: Vec::new(),
            boot_id: "boot".into(),
            warnings: Vec::new(),
        }
    }
}

/// Sets a member where there is a value: the API leaves out what isn't known.
fn set(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value) {
        map.insert(name.to_owned(), value.into());
    }
}
