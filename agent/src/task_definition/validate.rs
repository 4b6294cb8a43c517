//! What the members of a definition must say together.

use std::collections::HashSet;

use super::{
    Condition, ContainerDefinition, LaunchType, NetworkMode, TaskDefinition, dependencies, fargate,
    naming,
};
use crate::error::ApiError;

/// The ports of the host's that a task can have: each is a socket in two families, and a process usually has 1,024.
const MOST_PORTS: usize = 128;

/// Refuses a definition that ECS would refuse, before anything is stored.
pub fn check(definition: &TaskDefinition) -> Result<(), ApiError> {
    check_name("family", &definition.family)?;
    check_names(&definition.container_definitions)?;
    naming::check_links(&definition.container_definitions)?;
    check_dependencies(&definition.container_definitions)?;
    check_task_size(definition)?;
    check_containers_fit(definition)?;
    definition
        .container_definitions
        .iter()
        .enumerate()
        .try_for_each(|(i, c)| check_container(i, c))?;
    check_host_ports(definition)?;
    if definition
        .requires_compatibilities
        .contains(&LaunchType::Fargate)
    {
        check_fargate(definition)?;
    }
    check_ec2_memory(definition)
}

/// ECS's rule for families and container names.
fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.len() <= 255 && name.bytes().all(good) {
        return Ok(());
    }
    Err(ApiError::client(format!(
        "{field} is '{}'; it must be up to 255 letters, digits, hyphens and underscores",
        name.escape_debug()
    )))
}

fn check_names(containers: &[ContainerDefinition]) -> Result<(), ApiError> {
    let mut seen = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        check_name(&format!("containerDefinitions[{i}].name"), &container.name)?;
        if !seen.insert(&container.name) {
            return Err(ApiError::client(format!(
                "containerDefinitions[{i}].name is '{}', which an earlier container has already; names must be unique",
                container.name
            )));
        }
    }
    if containers.iter().any(|container| container.essential) {
        return Ok(());
    }
    Err(ApiError::client(
        "containerDefinitions: no container has 'essential' true; a task needs at least one",
    ))
}

fn check_dependencies(containers: &[ContainerDefinition]) -> Result<(), ApiError> {
    for (i, container) in containers.iter().enumerate() {
        for (k, dependency) in container.depends_on.iter().enumerate() {
            let field = format!("containerDefinitions[{i}].dependsOn[{k}]");
            let name = &dependency.container_name;
            let Some(other) = containers.iter().find(|c| &c.name == name) else {
                return Err(ApiError::client(format!(
                    "{field}.containerName is '{name}', which is no container of this definition"
                )));
            };
            if other.essential && dependency.condition != Condition::Start {
                return Err(ApiError::client(format!(
                    "{field}.condition waits for the exit of '{name}', which is essential, so that its exit ends \
                     the task; set 'essential' of '{name}' to false"
                )));
            }
        }
    }
    dependencies::start_order(containers).map(drop).map_err(|cycle| {
        ApiError::client(format!(
            "containerDefinitions: dependsOn and links have a cycle among: {}; a container can't wait for itself",
            cycle.join(", ")
        ))
    })
}

fn check_task_size(definition: &TaskDefinition) -> Result<(), ApiError> {
    match definition.cpu {
        // The kernel's smallest quota is 1 ms in 100 ms; ECS's own range on EC2 starts at 128.
        Some(cpu) if !(128..=196_608).contains(&cpu.0) => Err(ApiError::client(format!(
            "Invalid 'cpu' setting for task. cpu is {cpu}; it must be between 128 and 196608 units"
        ))),
        _ => match definition.memory {
            Some(memory) if !(6..=16 << 20).contains(&memory.0) => Err(ApiError::client(format!(
                "Invalid 'memory' setting for task. memory is {memory}; it must be between 6 and 16777216 MiB"
            ))),
            _ => Ok(()),
        },
    }
}

fn check_containers_fit(definition: &TaskDefinition) -> Result<(), ApiError> {
    let containers = &definition.container_definitions;
    if let Some(task) = definition.cpu {
        let sum: u64 = containers.iter().map(|c| u64::from(c.cpu)).sum();
        if sum > u64::from(task.0) {
            return Err(ApiError::client(format!(
                "containerDefinitions: 'cpu' of all containers adds up to {sum}; the task's cpu is {task}"
            )));
        }
    }
    let Some(task) = definition.memory else {
        return Ok(());
    };
    for (i, container) in containers.iter().enumerate() {
        if let Some(memory) = container.memory.filter(|memory| *memory > task.0) {
            return Err(ApiError::client(format!(
                "containerDefinitions[{i}].memory is {memory}; it must not be above the task's memory, {task}"
            )));
        }
    }
    let reserved =
        |c: &ContainerDefinition| u64::from(c.memory_reservation.or(c.memory).unwrap_or(0));
    let sum: u64 = containers.iter().map(reserved).sum();
    if sum > u64::from(task.0) {
        return Err(ApiError::client(format!(
            "containerDefinitions: the memory of all containers (memoryReservation, else memory) adds up to {sum}; \
             the task's memory is {task}"
        )));
    }
    Ok(())
}

fn check_container(i: usize, container: &ContainerDefinition) -> Result<(), ApiError> {
    let field = |name: &str| format!("containerDefinitions[{i}].{name}");
    if let (Some(limit), Some(reservation)) = (container.memory, container.memory_reservation)
        && reservation > limit
    {
        return Err(ApiError::client(format!(
            "{} is {reservation}; it must not be above memory, {limit}",
            field("memoryReservation")
        )));
    }
    if container.disable_networking == Some(true) {
        let links = (!container.naming.links.is_empty()).then_some("links");
        let ports = (!container.port_mappings.is_empty()).then_some("portMappings");
        if let Some(name) = links.or(ports) {
            return Err(ApiError::client(format!(
                "{} is true; such a container has no network: remove {}",
                field("disableNetworking"),
                field(name)
            )));
        }
    }
    if let Some(directory) = &container.working_directory
        && !directory.starts_with('/')
    {
        return Err(ApiError::client(format!(
            "{} is '{directory}'; it must be an absolute path",
            field("workingDirectory")
        )));
    }
    let strings = container
        .command
        .iter()
        .chain(&container.entry_point)
        .chain(&container.user);
    if strings
        .chain(&container.working_directory)
        .any(|text| text.contains('\0'))
    {
        return Err(ApiError::client(format!(
            "{} has a string with a zero byte",
            field("command")
        )));
    }
    Ok(())
}

/// No two containers of a task can have the same port of the host's, and its supervisor holds a socket for each.
fn check_host_ports(definition: &TaskDefinition) -> Result<(), ApiError> {
    if definition.network_mode == NetworkMode::Awsvpc {
        return Ok(());
    }
    let mut taken = HashSet::new();
    let mut count = 0;
    for (i, container) in definition.container_definitions.iter().enumerate() {
        for (k, mapping) in container.port_mappings.iter().enumerate() {
            let field = format!("containerDefinitions[{i}].portMappings[{k}]");
            count += mapping.ports.container().count();
            if definition.network_mode == NetworkMode::Bridge && count > MOST_PORTS {
                return Err(ApiError::client(format!(
                    "{field} is one too many: the port mappings add up to {count} ports of the host's; a task can \
                     have {MOST_PORTS}"
                )));
            }
            let fixed = mapping.ports.fixed();
            if let Some(port) = fixed.filter(|port| !taken.insert((mapping.protocol, *port))) {
                return Err(ApiError::client(format!(
                    "{field}.hostPort is {port}, which an earlier mapping of the task has already"
                )));
            }
        }
    }
    Ok(())
}

fn check_fargate(definition: &TaskDefinition) -> Result<(), ApiError> {
    if definition.network_mode != NetworkMode::Awsvpc {
        return Err(ApiError::client(format!(
            "Fargate only supports network mode \u{2018}awsvpc\u{2019}. networkMode is '{}'",
            definition.network_mode.name()
        )));
    }
    let (Some(cpu), Some(memory)) = (definition.cpu, definition.memory) else {
        let missing = if definition.cpu.is_none() {
            "cpu"
        } else {
            "memory"
        };
        return Err(ApiError::client(format!(
            "Fargate requires task definition to have {missing}; set '{missing}' of the task"
        )));
    };
    if !fargate::offers(cpu.0, memory.0) {
        return Err(ApiError::client(format!(
            "No Fargate configuration exists for given values: cpu {cpu}, memory {memory}; \
             with 256 units it offers 512, 1024 and 2048 MiB, for example"
        )));
    }
    for (i, container) in definition.container_definitions.iter().enumerate() {
        if let Some(timeout) = container
            .stop_timeout
            .filter(|timeout| !(2..=120).contains(timeout))
        {
            return Err(ApiError::client(format!(
                "containerDefinitions[{i}].stopTimeout is {timeout}; on Fargate it must be between 2 and 120"
            )));
        }
    }
    Ok(())
}

/// EC2 needs to know how much memory to set aside: the task's, or each container's.
fn check_ec2_memory(definition: &TaskDefinition) -> Result<(), ApiError> {
    let unsized_container = definition
        .container_definitions
        .iter()
        .find(|c| c.memory.is_none() && c.memory_reservation.is_none());
    match unsized_container {
        Some(container) if definition.memory.is_none() => Err(ApiError::client(format!(
            "Invalid setting for container '{}'. At least one of 'memory' or 'memoryReservation' must be specified.",
            container.name
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
