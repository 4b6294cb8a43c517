//! The operations on tasks.

use serde_json::{Value, json};

use super::{Api, last_part, listed, missing, page};
use crate::engine::{Handle, Placed, bridge};
use crate::error::ApiError;
use crate::id::{self, Timestamp};
use crate::members::Members;
use crate::task::{Container, Eni, LastStatus, Moments, Task};
use crate::task_definition::{
    LaunchType, NetworkMode, Status, TaskDefinition, container_overrides, tags,
};

/// The most tasks that one RunTask starts, as on ECS.
const MOST_TASKS: i64 = 10;

/// The most security groups that an interface is in, as on ECS.
const MOST_SECURITY_GROUPS: usize = 5;

/// Where a task's interfaces go, if it has any.
#[derive(Default)]
struct Placement {
    subnet: String,
    security_groups: Vec<String>,
    assign_public_ip: bool,
}

impl Api {
    pub(super) fn run_task(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let cluster = self.cluster(&mut members)?;
        let mut definition = self.find_definition(&members.required_string("taskDefinition")?)?;
        if definition.status == Status::Inactive {
            return Err(ApiError::client(format!(
                "TaskDefinition is inactive. taskDefinition is '{}'",
                definition.name()
            )));
        }
        let launch_type = self.launch_type(&mut members, &definition)?;
        let placement = self.placement(&mut members, definition.network_mode, launch_type)?;
        let overrides = match members.object("overrides")? {
            Some(overrides) => container_overrides(overrides, &mut definition)?,
            None => json!({"containerOverrides": []}),
        };
        let count = members.integer("count", 1..=MOST_TASKS)?.unwrap_or(1);
        let group = members
            .string("group")?
            .unwrap_or_else(|| format!("family:{}", definition.family));
        let started_by = members.string("startedBy")?;
        let tags = tags(&mut members)?;
        if let Some(tag) = tags
            .iter()
            .find(|tag| tag.key == crate::engine::PUBLISH_TAG)
        {
            crate::engine::publish(&tag.value)
                .map_err(|e| ApiError::invalid(format!("tags: {}: {e}", tag.key)))?;
            let mode = definition.network_mode;
            if mode != NetworkMode::Awsvpc && !tag.value.is_empty() {
                return Err(ApiError::invalid(format!(
                    "tags: {}: ports are published so under network mode awsvpc; the definition's is '{}', where \
                     portMappings say it.",
                    tag.key,
                    mode.name()
                )));
            }
        }
        members.word("platformVersion", "LATEST or 1.4.0", |v| {
            ["LATEST", "1.4.0"].contains(&v).then_some(())
        })?;
        members.finish()?;
        let (mut started, mut failures) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let task = self.new_task(&cluster, &definition, launch_type, &placement);
            let task = Task {
                group: group.clone(),
                started_by: started_by.clone(),
                tags: tags.clone(),
                overrides: overrides.clone(),
                ..task
            };
            match self.engine.place(task)? {
                Placed::Taken(task) => started.push(task),
                Placed::PortInUse(port) => failures.push(json!({
                    "arn": self.instance_arn(),
                    "reason": "RESOURCE:PORTS",
                    "detail": format!("another task has the host's port {port}"),
                })),
                Placed::NoInterface(detail) => failures.push(json!({
                    "arn": self.instance_arn(),
                    "reason": "RESOURCE:ENI",
                    "detail": detail,
                })),
            }
        }
        let tasks = self.describe_all(started.iter().map(AsRef::as_ref));
        Ok(json!({"tasks": tasks, "failures": failures}))
    }

    fn launch_type(
        &self,
        members: &mut Members,
        definition: &TaskDefinition,
    ) -> Result<LaunchType, ApiError> {
        let given = members.word("launchType", "FARGATE or EC2", LaunchType::from_name)?;
        let launch_type = given.unwrap_or_else(|| definition.default_launch_type());
        if !definition.compatibilities.contains(&launch_type) {
            return Err(ApiError::invalid(format!(
                "Task definition does not support launch_type {}. It needs network mode awsvpc and a size that \
                 Fargate offers.",
                launch_type.name()
            )));
        }
        Ok(launch_type)
    }

    fn placement(
        &self,
        members: &mut Members,
        mode: NetworkMode,
        launch_type: LaunchType,
    ) -> Result<Placement, ApiError> {
        if mode == NetworkMode::Awsvpc {
            return self.awsvpc_placement(members, launch_type);
        }
        if members.object("networkConfiguration")?.is_some() {
            return Err(ApiError::invalid(format!(
                "Network Configuration is not valid for the given networkMode of this task definition. The mode is \
                 '{}'; remove networkConfiguration.",
                mode.name()
            )));
        }
        let subnet = bridge::subnet(self.engine.network());
        match subnet.filter(|_| mode == NetworkMode::Bridge) {
            None => Ok(Placement::default()),
            Some(subnet) => Ok(Placement {
                subnet: subnet.id().to_string(),
                security_groups: vec![bridge::GROUP.to_owned()],
                assign_public_ip: false,
            }),
        }
    }

    fn awsvpc_placement(
        &self,
        members: &mut Members,
        launch_type: LaunchType,
    ) -> Result<Placement, ApiError> {
        let missing = || {
            ApiError::invalid(
                "Network Configuration must be provided when networkMode 'awsvpc' is specified. \
                 networkConfiguration.awsvpcConfiguration is missing.",
            )
        };
        let mut network = members
            .object("networkConfiguration")?
            .ok_or_else(missing)?;
        let mut awsvpc = network.object("awsvpcConfiguration")?.ok_or_else(missing)?;
        network.finish()?;
        let subnets = awsvpc.strings("subnets")?;
        let groups = awsvpc.strings("securityGroups")?;
        let assign_public_ip = awsvpc.word("assignPublicIp", "ENABLED or DISABLED", |word| {
            ["DISABLED", "ENABLED"]
                .iter()
                .position(|known| *known == word)
        })?;
        let assign_public_ip = assign_public_ip == Some(1);
        if assign_public_ip && launch_type == LaunchType::Ec2 {
            return Err(ApiError::invalid(
                "Assign public IP is not supported for this launch type. assignPublicIp is ENABLED, launchType EC2.",
            ));
        }
        awsvpc.finish()?;
        let known: Vec<String> = self
            .engine
            .network()
            .subnets()
            .iter()
            .map(|subnet| subnet.id().to_string())
            .collect();
        if let Some(unknown) = subnets.iter().find(|subnet| !known.contains(subnet)) {
            return Err(ApiError::invalid(format!(
                "Error retrieving subnet information for [{unknown}]: The subnet ID '{unknown}' does not exist \
                 (ErrorCode: InvalidSubnetID.NotFound)"
            )));
        }
        let Some(subnet) = subnets.into_iter().next() else {
            return Err(ApiError::invalid(
                "subnets can not be empty. awsvpcConfiguration.subnets lists none.",
            ));
        };
        Ok(Placement {
            subnet,
            security_groups: self.security_groups(groups)?,
            assign_public_ip,
        })
    }

    /// The groups of an interface: those that are named, or the default one.
    fn security_groups(&self, named: Vec<String>) -> Result<Vec<String>, ApiError> {
        if named.len() > MOST_SECURITY_GROUPS {
            return Err(ApiError::invalid(format!(
                "securityGroups can have at most {MOST_SECURITY_GROUPS} items. awsvpcConfiguration.securityGroups \
                 lists {}.",
                named.len()
            )));
        }
        let network = self.engine.network();
        match named
            .iter()
            .find(|group| !network.has_security_group(group))
        {
            Some(unknown) => Err(ApiError::invalid(format!(
                "Error retrieving security group information for [{unknown}]: The security group '{unknown}' does \
                 not exist (ErrorCode: InvalidGroup.NotFound)"
            ))),
            None if named.is_empty() => Ok(vec![
                berth_netns::SecurityGroupId::default_group().to_string(),
            ]),
            None => Ok(named),
        }
    }

    fn new_task(
        &self,
        cluster: &str,
        definition: &TaskDefinition,
        launch_type: LaunchType,
        at: &Placement,
    ) -> Task {
        let id = id::random_128();
        let names = definition
            .container_definitions
            .iter()
            .map(|container| container.name.as_str());
        Task {
            containers: names.map(|name| Container::planned(&id, name)).collect(),
            id,
            cluster: cluster.to_owned(),
            definition: definition.clone(),
            overrides: json!({}),
            launch_type,
            group: String::new(),
            started_by: None,
            tags: Vec::new(),
            desired_stopped: false,
            last_status: LastStatus::Provisioning,
            version: 1,
            stop: None,
            moments: Moments {
                created: Some(Timestamp::now()),
                ..Moments::default()
            },
            interfaces: Eni::planned(definition, &at.subnet, &at.security_groups)
                .into_iter()
                .map(|eni| Eni {
                    assign_public_ip: at.assign_public_ip,
                    ..eni
                })
                .collect(),
            boot_id: self.engine.boot_id().to_owned(),
            warnings: Vec::new(),
        }
    }

    fn describe_all<'a>(&self, handles: impl Iterator<Item = &'a Handle>) -> Vec<Value> {
        let instance = self.instance_arn();
        handles
            .map(|handle| handle.task().describe(self.place(), &instance))
            .collect()
    }

    pub(super) fn describe_tasks(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let cluster = self.cluster(&mut members)?;
        let wanted = members.strings("tasks")?;
        members.strings("include")?;
        members.finish()?;
        if wanted.is_empty() || wanted.len() > 100 {
            return Err(ApiError::invalid(format!(
                "Tasks cannot be empty. tasks lists {}; 1 to 100 go.",
                wanted.len()
            )));
        }
        let find = |name: &String| {
            self.engine
                .task(last_part(name))
                .filter(|handle| handle.task().cluster == cluster)
                .ok_or(name.clone())
        };
        let (found, lost): (Vec<_>, Vec<_>) = wanted.iter().map(find).partition(Result::is_ok);
        let found: Vec<_> = found.into_iter().flatten().collect();
        let lost = lost.into_iter().filter_map(Result::err);
        let arn = |name: String| {
            if name.starts_with("arn:") {
                name
            } else {
                self.place().task(&cluster, &name)
            }
        };
        Ok(json!({
            "tasks": self.describe_all(found.iter().map(AsRef::as_ref)),
            "failures": lost.map(|name| missing(&arn(name))).collect::<Vec<_>>(),
        }))
    }

    pub(super) fn list_tasks(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let cluster = self.cluster(&mut members)?;
        let family = members.string("family")?;
        let started_by = members.string("startedBy")?;
        let launch_type = members.word("launchType", "FARGATE or EC2", LaunchType::from_name)?;
        let instance = members.string("containerInstance")?;
        let stopped =
            members.word(
                "desiredStatus",
                "RUNNING, PENDING or STOPPED",
                |word| match word {
                    "RUNNING" | "PENDING" => Some(false),
                    "STOPPED" => Some(true),
                    _ => None,
                },
            )?;
        let on_instance = |task: &Task| match &instance {
            Some(instance) => {
                task.launch_type == LaunchType::Ec2 && last_part(instance) == self.engine.instance()
            }
            None => true,
        };
        let wanted = |task: &Task| {
            task.cluster == cluster
                && task.desired_stopped == stopped.unwrap_or(false)
                && family
                    .as_ref()
                    .is_none_or(|family| *family == task.definition.family)
                && started_by
                    .as_ref()
                    .is_none_or(|by| Some(by) == task.started_by.as_ref())
                && launch_type.is_none_or(|launch_type| launch_type == task.launch_type)
                && on_instance(task)
        };
        let tasks = self.engine.tasks().into_iter().map(|handle| handle.task());
        let arns = tasks
            .filter(wanted)
            .map(|task| self.place().task(&cluster, &task.id))
            .collect();
        let page = page(&mut members, arns)?;
        members.finish()?;
        Ok(listed("taskArns", page))
    }

    pub(super) fn stop_task(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let cluster = self.cluster(&mut members)?;
        let name = members.required_string("task")?;
        let reason = members
            .string("reason")?
            .unwrap_or_else(|| "Task stopped by user".into());
        members.finish()?;
        let handle = self
            .engine
            .task(last_part(&name))
            .filter(|handle| handle.task().cluster == cluster);
        let missing = || {
            ApiError::invalid(format!(
                "The referenced task was not found. task is '{name}'"
            ))
        };
        let handle = handle.ok_or_else(missing)?;
        // ECS keeps 1,024 characters of a reason.
        let reason: String = reason.chars().take(1024).collect();
        let task = self.engine.stop(&handle, &reason)?;
        Ok(json!({"task": task.describe(self.place(), &self.instance_arn())}))
    }
}
