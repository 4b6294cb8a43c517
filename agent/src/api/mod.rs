//! The ECS API: JSON 1.1 over HTTP, as AWS clients speak it.
//!
//! [`Api::call`] is the API itself, an operation and its input; [`server`] carries it over TCP
//! and over the unix socket; [`client`] is our own command's end of that.

pub mod client;
mod clusters;
pub mod credentials;
mod instances;
pub mod server;
mod sigv4;
mod task_definitions;
mod tasks;

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::error::{ApiError, Code};
use crate::id::Place;
use crate::members::Members;

/// The prefix of an operation's name in the header `X-Amz-Target`.
pub const TARGET: &str = "AmazonEC2ContainerServiceV20141113.";

/// The API of one engine. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    engine: Engine,
}

impl Api {
    /// The API of that engine.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn place(&self) -> &Place {
        &self.engine.config().place
    }

    /// Does one operation.
    pub fn call(&self, operation: &str, input: Value) -> Result<Value, ApiError> {
        match operation {
            "RegisterTaskDefinition" => self.register_task_definition(input),
            "DescribeTaskDefinition" => self.describe_task_definition(input),
            "ListTaskDefinitions" => self.list_task_definitions(input),
            "DeregisterTaskDefinition" => self.deregister_task_definition(input),
            "RunTask" => self.run_task(input),
            "DescribeTasks" => self.describe_tasks(input),
            "ListTasks" => self.list_tasks(input),
            "StopTask" => self.stop_task(input),
            "CreateCluster" => self.create_cluster(input),
            "DescribeClusters" => self.describe_clusters(input),
            "ListClusters" => self.list_clusters(input),
            "DescribeContainerInstances" => self.describe_container_instances(input),
            "ListContainerInstances" => self.list_container_instances(input),
            other => Err(ApiError::new(
                Code::UnknownOperation,
                format!(
                    "'{}' is not an operation of this version of Berth",
                    other.escape_debug()
                ),
            )),
        }
    }

    /// The cluster that a request means: `default`, a name, or an ARN. It must exist.
    fn cluster(&self, members: &mut Members) -> Result<String, ApiError> {
        let given = members
            .string("cluster")?
            .unwrap_or_else(|| "default".into());
        let name = last_part(&given).to_owned();
        let known = self.engine.store().clusters().map_err(ApiError::server)?;
        if known.contains(&name) {
            Ok(name)
        } else {
            Err(ApiError::new(Code::ClusterNotFound, "Cluster not found."))
        }
    }
}

/// The last part of an ARN, or the whole of what is none.
fn last_part(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// One page of a list: `maxResults` (1 to 100) and `nextToken`, which is the place to go on from.
fn page(
    members: &mut Members,
    all: Vec<String>,
) -> Result<(Vec<String>, Option<String>), ApiError> {
    let size = members
        .integer("maxResults", 1..=100)?
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(100);
    let start = match members.string("nextToken")? {
        None => 0,
        Some(token) => token
            .parse::<usize>()
            .map_err(|_| ApiError::invalid(format!("Invalid token. nextToken is '{token}'")))?,
    };
    let left = all.len().saturating_sub(start);
    let next = (left > size).then(|| (start + size).to_string());
    Ok((all.into_iter().skip(start).take(size).collect(), next))
}

/// A list's answer.
fn listed(name: &str, (items, next): (Vec<String>, Option<String>)) -> Value {
    let mut answer = json!({ name: items });
    if let (Some(map), Some(next)) = (answer.as_object_mut(), next) {
        map.insert("nextToken".into(), json!(next));
    }
    answer
}

/// An entry of `failures` for something that isn't there.
fn missing(arn: &str) -> Value {
    json!({"arn": arn, "reason": "MISSING"})
}
