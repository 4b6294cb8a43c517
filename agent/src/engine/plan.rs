//! A supervisor's plan, from the task's definition and its images.

use anyhow::Context;

use super::files::TaskFiles;
use super::publish::{PUBLISH_TAG, publish};
use crate::config::Config;
use crate::image::Image;
use crate::supervisor::protocol::{PROTOCOL, Plan, PlannedContainer};
use crate::task::{AttachedEni, Container, Task};
use crate::task_definition::{ContainerDefinition, LaunchType};

/// The plan for a task whose interface is attached and whose images are there.
pub fn plan(
    config: &Config,
    task: &Task,
    eni: &AttachedEni,
    netns: std::path::PathBuf,
    files: &TaskFiles,
    images: &[Image],
) -> anyhow::Result<Plan> {
    let containers = task
        .definition
        .container_definitions
        .iter()
        .zip(&task.containers)
        .zip(images);
    Ok(Plan {
        protocol: PROTOCOL,
        task: task.id.clone(),
        netns,
        hostname: eni.private_dns_name.clone(),
        etc: files.etc.clone(),
        logs: files.logs.clone(),
        limits: config.limits,
        cpu_units: task.definition.cpu.map(|cpu| cpu.0),
        memory: task.definition.memory.map(|memory| memory.bytes()),
        address: eni.address,
        publish: publish(task.tag(PUBLISH_TAG).unwrap_or_default())?,
        containers: containers
            .map(|((definition, container), image)| {
                planned(config, task, definition, container, image, files)
            })
            .collect::<Result<_, _>>()?,
    })
}

fn planned(
    config: &Config,
    task: &Task,
    definition: &ContainerDefinition,
    container: &Container,
    image: &Image,
    files: &TaskFiles,
) -> anyhow::Result<PlannedContainer> {
    let mebibytes = |size: u32| u64::from(size) << 20;
    let of_image = image.config.config().clone().unwrap_or_default();
    let cwd = definition
        .working_directory
        .clone()
        .or_else(|| of_image.working_dir().clone());
    let cwd = cwd
        .filter(|cwd| !cwd.is_empty())
        .unwrap_or_else(|| "/".into());
    Ok(PlannedContainer {
        name: definition.name.clone(),
        layers: image.layers.clone(),
        writable: files.writable.join(&definition.name),
        args: arguments(definition, &of_image)
            .with_context(|| format!("container '{}' has nothing to run", definition.name))?,
        env: environment(
            config,
            task,
            definition,
            container,
            of_image.env().as_deref().unwrap_or_default(),
        ),
        cwd: if cwd.starts_with('/') {
            cwd
        } else {
            format!("/{cwd}")
        },
        user: definition
            .user
            .clone()
            .or_else(|| of_image.user().clone())
            .unwrap_or_default(),
        ulimits: definition
            .ulimits
            .iter()
            .map(|u| (u.name.clone(), u.soft_limit, u.hard_limit))
            .collect(),
        readonly: definition.readonly_root_filesystem == Some(true),
        cpu_shares: definition.cpu,
        memory: definition.memory.map(mebibytes),
        memory_reservation: definition.memory_reservation.map(mebibytes),
        stop_signal: of_image
            .stop_signal()
            .clone()
            .unwrap_or_else(|| "SIGTERM".into()),
    })
}

/// Docker's rule: an entry point of the definition also sets the image's command aside.
fn arguments(
    definition: &ContainerDefinition,
    image: &oci_spec::image::Config,
) -> Option<Vec<String>> {
    let of_image = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let own_entry_point = !definition.entry_point.is_empty();
    let mut args = if own_entry_point {
        definition.entry_point.clone()
    } else {
        of_image(image.entrypoint())
    };
    match definition.command.is_empty() {
        false => args.extend(definition.command.iter().cloned()),
        true if own_entry_point => {}
        true => args.extend(of_image(image.cmd())),
    }
    (!args.is_empty()).then_some(args)
}

/// The image's variables, those that ECS adds, and the definition's, which come last and win.
fn environment(
    config: &Config,
    task: &Task,
    definition: &ContainerDefinition,
    container: &Container,
    image: &[String],
) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| {
        env.retain(|(other, _)| other != name);
        env.push((name.to_owned(), value.to_owned()));
    };
    for pair in image {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(name, value);
    }
    let base = "http://169.254.170.2";
    let endpoint = &container.endpoint_id;
    set(
        "ECS_CONTAINER_METADATA_URI",
        &format!("{base}/v3/{endpoint}"),
    );
    set(
        "ECS_CONTAINER_METADATA_URI_V4",
        &format!("{base}/v4/{endpoint}"),
    );
    set("ECS_AGENT_URI", &format!("{base}/api/{endpoint}"));
    let fargate = task.launch_type == LaunchType::Fargate;
    set(
        "AWS_EXECUTION_ENV",
        if fargate {
            "AWS_ECS_FARGATE"
        } else {
            "AWS_ECS_EC2"
        },
    );
    let own = |name: &str| definition.environment.iter().any(|pair| pair.name == name);
    let of_image = |name: &str| {
        image
            .iter()
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let regions = ["AWS_REGION", "AWS_DEFAULT_REGION"];
    // ECS sets both, or neither if one of them is set by somebody else.
    if !regions.iter().any(|name| own(name) || of_image(name)) {
        regions
            .iter()
            .for_each(|name| set(name, &config.place.region));
    }
    for pair in &definition.environment {
        set(&pair.name, &pair.value);
    }
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(entry_point: &[&str], command: &[&str]) -> ContainerDefinition {
        crate::task_definition::TaskDefinition::from_request(json!({
            "family": "f", "networkMode": "awsvpc", "memory": "64",
            "containerDefinitions": [{"name": "c", "image": "i", "entryPoint": entry_point, "command": command}]
        }))
        .unwrap()
        .container_definitions
        .remove(0)
    }

    #[test]
    fn arguments_follow_dockers_rule() {
        let image: oci_spec::image::Config =
            serde_json::from_value(json!({"Entrypoint": ["/entry"], "Cmd": ["serve"]})).unwrap();
        let args = |entry: &[&str], command: &[&str]| {
            arguments(&definition(entry, command), &image).unwrap()
        };
        assert_eq!(args(&[], &[]), ["/entry", "serve"]);
        assert_eq!(args(&[], &["x"]), ["/entry", "x"]);
        assert_eq!(args(&["/own"], &[]), ["/own"]);
        assert_eq!(args(&["/own"], &["x"]), ["/own", "x"]);
        assert_eq!(arguments(&definition(&[], &[]), &Default::default()), None);
    }
}
