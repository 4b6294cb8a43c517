//! A supervisor's plan, from the task's definition and its images.

use anyhow::Context;

use super::Engine;
use super::etc::Etc;
use super::files::TaskFiles;
use super::lifecycle::{isolated_name, namespace_name};
use super::publish::publish_to;
use crate::config::Config;
use crate::image::Image;
use crate::open_files::{self, NOFILE};
use crate::supervisor::protocol::{
    ContainerNetwork, NetworkNamespace, PROTOCOL, Plan, PlannedContainer, PublishedPorts,
};
use crate::task::{Container, Eni, Task};
use crate::task_definition::{ContainerDefinition, LaunchType, NetworkMode};

/// The plan for a task whose interfaces are attached and whose images are there.
pub fn plan(
    engine: &Engine,
    task: &Task,
    files: &TaskFiles,
    images: &[Image],
) -> anyhow::Result<Plan> {
    let config = engine.config();
    let containers = task
        .definition
        .container_definitions
        .iter()
        .zip(&task.containers)
        .zip(images);
    let published = task.interfaces.iter().map(|eni| published(task, eni));
    Ok(Plan {
        protocol: PROTOCOL,
        task: task.id.clone(),
        logs: files.logs.clone(),
        limits: config.limits,
        cpu_units: task.definition.cpu.map(|cpu| cpu.0),
        memory: task.definition.memory.map(|memory| memory.bytes()),
        published: published.collect::<Result<_, _>>()?,
        containers: containers
            .map(|((definition, container), image)| {
                let network = network(engine, task, definition, container, files)?;
                let planned = planned(config, task, definition, container, image, files)?;
                Ok(PlannedContainer { network, ..planned })
            })
            .collect::<anyhow::Result<_>>()?,
    })
}

fn published(task: &Task, eni: &Eni) -> anyhow::Result<PublishedPorts> {
    let attached = eni.attached.as_ref();
    Ok(PublishedPorts {
        address: attached.context("an interface isn't attached")?.address,
        ports: publish_to(task, eni)?,
    })
}

fn network(
    engine: &Engine,
    task: &Task,
    definition: &ContainerDefinition,
    container: &Container,
    files: &TaskFiles,
) -> anyhow::Result<ContainerNetwork> {
    let name = &container.name;
    let namespace = match task.definition.network_mode_of(definition) {
        NetworkMode::Host => NetworkNamespace::Host,
        _ => {
            let netns = match task.interface_of(name) {
                Some(eni) => namespace_name(task, eni),
                None => isolated_name(container),
            };
            NetworkNamespace::At(engine.network().netns_path(&netns?))
        }
    };
    Ok(ContainerNetwork {
        namespace,
        id_range: task.id_range_of(name),
        hostname: Etc::of(task, definition)?.hostname,
        etc: files.etc_of(task, name),
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
        network: ContainerNetwork::default(),
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
        ulimits: ulimits(definition),
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

/// The definition's limits, and one of open files in any case.
fn ulimits(definition: &ContainerDefinition) -> Vec<(String, i64, i64)> {
    let own = definition.ulimits.iter();
    let mut all: Vec<_> = own
        .map(|own| (own.name.clone(), own.soft_limit, own.hard_limit))
        .collect();
    if all.iter().all(|(name, ..)| name != NOFILE) {
        let files = open_files::of_container().cast_signed();
        all.push((NOFILE.to_owned(), files, files));
    }
    all
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
    // Without a network there is no way to any of them.
    if task.definition.network_mode_of(definition) != NetworkMode::None {
        for (name, path) in [
            ("ECS_CONTAINER_METADATA_URI", "v3"),
            ("ECS_CONTAINER_METADATA_URI_V4", "v4"),
            ("ECS_AGENT_URI", "api"),
        ] {
            let endpoint = &container.endpoint_id;
            set(name, &format!("http://169.254.170.2/{path}/{endpoint}"));
        }
    }
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
