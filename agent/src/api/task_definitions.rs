//! The operations on task definitions.

use serde_json::{Value, json};

use super::{Api, last_part, listed, page};
use crate::error::ApiError;
use crate::id::Timestamp;
use crate::members::Members;
use crate::task_definition::{Status, TaskDefinition};

impl Api {
    pub(super) fn register_task_definition(&self, input: Value) -> Result<Value, ApiError> {
        let definition = TaskDefinition::from_request(input)?;
        for container in &definition.container_definitions {
            if container.log_configuration.is_some() {
                tracing::warn!(
                    family = definition.family,
                    container = container.name,
                    "logConfiguration: awslogs is kept and given back; the log itself stays on this host"
                );
            }
        }
        let definition = self
            .engine
            .store()
            .add_definition(definition)
            .map_err(ApiError::server)?;
        self.described(&definition)
    }

    pub(super) fn describe_task_definition(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let name = members.required_string("taskDefinition")?;
        members.strings("include")?;
        members.finish()?;
        self.described(&self.find_definition(&name)?)
    }

    pub(super) fn deregister_task_definition(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let name = members.required_string("taskDefinition")?;
        members.finish()?;
        if !name.contains(':') || last_part(&name).split_once(':').is_none() {
            return Err(ApiError::client(format!(
                "taskDefinition is '{name}'; name the revision to deregister, such as {name}:1"
            )));
        }
        let mut definition = self.find_definition(&name)?;
        definition.status = Status::Inactive;
        definition
            .deregistered_at
            .get_or_insert_with(Timestamp::now);
        self.engine
            .store()
            .put_definition(&definition)
            .map_err(ApiError::server)?;
        self.described(&definition)
    }

    pub(super) fn list_task_definitions(&self, input: Value) -> Result<Value, ApiError> {
        let mut members = Members::root(input)?;
        let prefix = members.string("familyPrefix")?;
        let status = members.word("status", "ACTIVE or INACTIVE", |word| match word {
            "ACTIVE" => Some(Status::Active),
            "INACTIVE" => Some(Status::Inactive),
            _ => None,
        })?;
        let descending = members.word("sort", "ASC or DESC", |word| match word {
            "ASC" => Some(false),
            "DESC" => Some(true),
            _ => None,
        })?;
        let all = self
            .engine
            .store()
            .definitions()
            .map_err(ApiError::server)?;
        let wanted = |definition: &&TaskDefinition| {
            definition.status == status.unwrap_or(Status::Active)
                && prefix
                    .as_ref()
                    .is_none_or(|prefix| *prefix == definition.family)
        };
        let arn = |definition: &TaskDefinition| {
            self.place()
                .task_definition(&definition.family, definition.revision)
        };
        let mut arns: Vec<String> = all.iter().filter(wanted).map(arn).collect();
        if descending == Some(true) {
            arns.reverse();
        }
        let page = page(&mut members, arns)?;
        members.finish()?;
        Ok(listed("taskDefinitionArns", page))
    }

    fn described(&self, definition: &TaskDefinition) -> Result<Value, ApiError> {
        let described = definition.describe(self.place())?;
        Ok(json!({"taskDefinition": described, "tags": definition.tags}))
    }

    /// The definition of that name: `family` (its latest active revision), `family:revision`, or
    /// an ARN of either form.
    pub(super) fn find_definition(&self, name: &str) -> Result<TaskDefinition, ApiError> {
        let missing = || {
            ApiError::client(format!(
                "TaskDefinition not found. taskDefinition is '{name}'"
            ))
        };
        let short = if name.starts_with("arn:") {
            last_part(name)
        } else {
            name
        };
        let (family, revision) = match short.split_once(':') {
            Some((family, revision)) => (
                family,
                Some(revision.parse::<u32>().map_err(|_| missing())?),
            ),
            None => (short, None),
        };
        let mut all = self
            .engine
            .store()
            .definitions_of(family)
            .map_err(ApiError::server)?;
        let wanted = |definition: &TaskDefinition| match revision {
            Some(revision) => definition.revision == revision,
            None => definition.status == Status::Active,
        };
        let place = all.iter().rposition(wanted).ok_or_else(missing)?;
        Ok(all.swap_remove(place))
    }
}
