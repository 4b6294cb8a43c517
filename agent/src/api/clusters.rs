//! Clusters: names under which tasks are grouped. This host is a member of `default`.

use serde_json::{Value, json};

use super::{Api, last_part, listed, missing, page};
use crate::error::ApiError;
use crate::members::Members;
use crate::task::LastStatus;

impl Api {
    pub(super) fn create_cluster(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let name = members
            .string("clusterName")?
            .unwrap_or_else(|| "default".into());
        members.finish()?;
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.len() > 255 || !name.bytes().all(good) {
            return Err(ApiError::invalid(format!(
                "clusterName is '{}'; it must be up to 255 letters, digits, hyphens and underscores",
                name.escape_debug()
            )));
        }
        self.engine
            .store()
            .add_cluster(&name)
            .map_err(ApiError::server)?;
        Ok(json!({"cluster": self.describe_cluster(&name)}))
    }

    pub(super) fn describe_clusters(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let mut wanted = members.strings("clusters")?;
        // More detail than we have: tags, settings.
        members.strings("include")?;
        members.finish()?;
        if wanted.is_empty() {
            wanted.push("default".into());
        }
        let known = self.engine.store().clusters().map_err(ApiError::server)?;
        let (found, lost): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|name| known.iter().any(|known| known == last_part(name)));
        Ok(json!({
            "clusters": found.iter().map(|name| self.describe_cluster(last_part(name))).collect::<Vec<_>>(),
            "failures": lost.iter().map(|name| missing(&self.place().cluster(last_part(name)))).collect::<Vec<_>>(),
        }))
    }

    pub(super) fn list_clusters(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let names = self.engine.store().clusters().map_err(ApiError::server)?;
        let arns = names
            .iter()
            .map(|name| self.place().cluster(name))
            .collect();
        let page = page(&mut members, arns)?;
        members.finish()?;
        Ok(listed("clusterArns", page))
    }

    fn describe_cluster(&self, name: &str) -> Value {
        let tasks: Vec<_> = self
            .engine
            .tasks()
            .iter()
            .map(|handle| handle.task())
            .collect();
        let count = |running: bool| {
            let of_cluster = tasks
                .iter()
                .filter(|task| task.cluster == name && !task.is_stopped());
            of_cluster
                .filter(|task| (task.last_status >= LastStatus::Running) == running)
                .count()
        };
        json!({
            "clusterArn": self.place().cluster(name),
            "clusterName": name,
            "status": "ACTIVE",
            "registeredContainerInstancesCount": usize::from(name == "default"),
            "runningTasksCount": count(true),
            "pendingTasksCount": count(false),
            "activeServicesCount": 0,
            "statistics": [],
            "tags": [],
            "settings": [],
            "capacityProviders": ["FARGATE"],
            "defaultCapacityProviderStrategy": [],
        })
    }
}
