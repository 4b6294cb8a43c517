//! Container instances: this host, as ECS sees one.

use serde_json::{Value, json};

use super::{Api, last_part, listed, missing, page};
use crate::error::ApiError;
use crate::members::Members;
use crate::task_definition::LaunchType;

impl Api {
    pub(super) fn instance_arn(&self) -> String {
        self.place()
            .container_instance("default", self.engine.instance())
    }

    pub(super) fn list_container_instances(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let cluster = self.cluster(&mut members)?;
        let status = members.string("status")?;
        let here = cluster == "default" && status.is_none_or(|status| status == "ACTIVE");
        let page = page(
            &mut members,
            here.then(|| self.instance_arn()).into_iter().collect(),
        )?;
        members.finish()?;
        Ok(listed("containerInstanceArns", page))
    }

    pub(super) fn describe_container_instances(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let cluster = self.cluster(&mut members)?;
        let wanted = members.strings("containerInstances")?;
        members.strings("include")?;
        members.finish()?;
        if wanted.is_empty() {
            return Err(ApiError::invalid(
                "Container instances cannot be empty. containerInstances lists none.",
            ));
        }
        let ours = |arn: &&String| cluster == "default" && last_part(arn) == self.engine.instance();
        let (found, lost): (Vec<_>, Vec<_>) = wanted.iter().partition(ours);
        let found = found
            .iter()
            .map(|_| self.describe_instance())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(json!({
            "containerInstances": found,
            "failures": lost.iter().map(|arn| missing(arn)).collect::<Vec<_>>(),
        }))
    }

    fn describe_instance(&self) -> Result<Value, ApiError> {
        let host = Host::read().map_err(ApiError::server)?;
        let tasks: Vec<_> = self
            .engine
            .tasks()
            .iter()
            .map(|handle| handle.task())
            .collect();
        let live = || {
            tasks
                .iter()
                .filter(|task| !task.is_stopped() && task.launch_type == LaunchType::Ec2)
        };
        let cpu: i64 = live()
            .filter_map(|task| task.definition.cpu)
            .map(|cpu| i64::from(cpu.0))
            .sum();
        let memory: i64 = live()
            .filter_map(|task| task.definition.memory)
            .map(|memory| i64::from(memory.0))
            .sum();
        let running = live().filter(|task| task.moments.started.is_some()).count();
        let resources = |cpu: i64, memory: i64| {
            json!([
                integer("CPU", cpu),
                integer("MEMORY", memory),
                {"name": "PORTS", "type": "STRINGSET", "doubleValue": 0.0, "longValue": 0, "integerValue": 0,
                 "stringSetValue": ["22", "51679"]},
                {"name": "PORTS_UDP", "type": "STRINGSET", "doubleValue": 0.0, "longValue": 0, "integerValue": 0,
                 "stringSetValue": []},
            ])
        };
        Ok(json!({
            "containerInstanceArn": self.instance_arn(),
            "status": "ACTIVE",
            "agentConnected": true,
            "version": 1,
            "versionInfo": {"agentVersion": env!("CARGO_PKG_VERSION")},
            "registeredResources": resources(host.cpu_units, host.memory),
            "remainingResources": resources(host.cpu_units - cpu, host.memory - memory),
            "runningTasksCount": running,
            "pendingTasksCount": live().count() - running,
            "attributes": [
                {"name": "ecs.os-type", "value": "linux"},
                {"name": "ecs.cpu-architecture", "value": "x86_64"},
                {"name": "ecs.availability-zone", "value": self.place().zone()},
            ],
            "attachments": [],
            "tags": [],
        }))
    }
}

fn integer(name: &str, value: i64) -> Value {
    json!({"name": name, "type": "INTEGER", "doubleValue": 0.0, "longValue": 0, "integerValue": value})
}

/// What this host has.
pub struct Host {
    /// 1,024 for each CPU.
    pub cpu_units: i64,
    /// MiB.
    pub memory: i64,
}

impl Host {
    /// Asks the kernel.
    pub fn read() -> std::io::Result<Self> {
        let cpus = std::thread::available_parallelism()?.get();
        let text = std::fs::read_to_string("/proc/meminfo")?;
        let kib = text.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<i64>()
                .ok()
        });
        let kib = kib.ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal"))?;
        Ok(Self {
            cpu_units: i64::try_from(cpus).unwrap_or(i64::MAX / 1024) * 1024,
            memory: kib >> 10,
        })
    }
}
