//! Taking a definition's members out of a request, by name and type.

use serde_json::{Value, json};

use super::{
    Condition, ContainerDefinition, CpuUnits, Dependency, KeyValuePair, LaunchType,
    LogConfiguration, Mebibytes, NetworkMode, RuntimePlatform, Status, Tag, TaskDefinition, Ulimit,
    naming, port_mapping,
};
use crate::error::ApiError;
use crate::id::Timestamp;
use crate::members::Members;

/// Members that only a description has. A description can be registered as it is, so they are
/// passed over: they say what we said.
const ANSWERS_ONLY: [&str; 8] = [
    "taskDefinitionArn",
    "revision",
    "status",
    "requiresAttributes",
    "compatibilities",
    "registeredAt",
    "registeredBy",
    "deregisteredAt",
];

/// The largest size that is still a size: 16 TiB.
const MAX_MIB: i64 = 16 << 20;

/// Reads a RegisterTaskDefinition request.
pub fn request(request: Value) -> Result<TaskDefinition, ApiError> {
    let mut members = Members::root(request)?;
    members.pass_over(&ANSWERS_ONLY);
    let network_mode = NetworkMode::take(&mut members)?;
    let definition = TaskDefinition {
        family: members.required_string("family")?,
        revision: 0,
        status: Status::Active,
        network_mode,
        cpu: members.word(
            "cpu",
            "CPU units, such as 256, or vCPUs, such as .25 vCPU",
            CpuUnits::parse,
        )?,
        memory: members.word(
            "memory",
            "MiB, such as 512, or GB, such as 1 GB",
            Mebibytes::parse,
        )?,
        container_definitions: containers(&mut members, network_mode)?,
        execution_role_arn: members.string("executionRoleArn")?,
        task_role_arn: members.string("taskRoleArn")?,
        requires_compatibilities: compatibilities(&mut members)?,
        compatibilities: Vec::new(),
        runtime_platform: members
            .object("runtimePlatform")?
            .map(runtime_platform)
            .transpose()?,
        registered_at: Timestamp::now(),
        deregistered_at: None,
        tags: tags(&mut members)?,
    };
    members.finish()?;
    Ok(definition)
}

fn compatibilities(members: &mut Members) -> Result<Vec<LaunchType>, ApiError> {
    let path = members.path_of("requiresCompatibilities");
    let names = members.strings("requiresCompatibilities")?;
    let parse = |name: &String| {
        LaunchType::from_name(name).ok_or_else(|| {
            ApiError::client(format!("{path} has '{name}'; it may have EC2 and FARGATE"))
        })
    };
    names.iter().map(parse).collect()
}

fn runtime_platform(mut members: Members) -> Result<RuntimePlatform, ApiError> {
    let one_of = |allowed: &'static [&str]| {
        move |word: &str| allowed.contains(&word).then(|| word.to_owned())
    };
    let platform = RuntimePlatform {
        cpu_architecture: members.word(
            "cpuArchitecture",
            "X86_64 or ARM64",
            one_of(&["X86_64", "ARM64"]),
        )?,
        operating_system_family: members.word(
            "operatingSystemFamily",
            "LINUX",
            one_of(&["LINUX"]),
        )?,
    };
    members.finish()?;
    Ok(platform)
}

/// Reads the member `tags`, of a definition or a RunTask.
pub fn tags(members: &mut Members) -> Result<Vec<Tag>, ApiError> {
    let mut tags: Vec<Tag> = Vec::new();
    for mut tag in members.objects("tags")? {
        let path = tag.path_of("key");
        let key = tag.required_string("key")?;
        if tags.iter().any(|other| other.key == key) {
            return Err(ApiError::invalid(format!(
                "{path} is '{key}', which an earlier tag has already"
            )));
        }
        tags.push(Tag {
            key,
            value: tag.string("value")?.unwrap_or_default(),
        });
        tag.finish()?;
    }
    Ok(tags)
}

fn containers(
    members: &mut Members,
    mode: NetworkMode,
) -> Result<Vec<ContainerDefinition>, ApiError> {
    let containers = members.objects("containerDefinitions")?;
    if containers.is_empty() {
        return Err(ApiError::client(
            "containerDefinitions is missing or empty; a task has at least one container",
        ));
    }
    containers
        .into_iter()
        .map(|members| container(members, mode))
        .collect()
}

fn container(mut members: Members, mode: NetworkMode) -> Result<ContainerDefinition, ApiError> {
    mode.refuse_others(&members)?;
    let container = ContainerDefinition {
        name: members.required_string("name")?,
        image: members.required_string("image")?,
        cpu: number(&mut members, "cpu", 0..=262_144)?.unwrap_or(0),
        memory: number(&mut members, "memory", 6..=MAX_MIB)?,
        memory_reservation: number(&mut members, "memoryReservation", 6..=MAX_MIB)?,
        essential: members.boolean("essential")?.unwrap_or(true),
        depends_on: members
            .objects("dependsOn")?
            .into_iter()
            .map(dependency)
            .collect::<Result<_, _>>()?,
        entry_point: members.strings("entryPoint")?,
        command: members.strings("command")?,
        environment: environment(&mut members)?,
        port_mappings: port_mapping::take_all(&mut members, mode)?,
        naming: naming::take(&mut members)?,
        disable_networking: members.boolean("disableNetworking")?,
        working_directory: members.string("workingDirectory")?,
        user: members.string("user")?,
        ulimits: members
            .objects("ulimits")?
            .into_iter()
            .map(ulimit)
            .collect::<Result<_, _>>()?,
        readonly_root_filesystem: members.boolean("readonlyRootFilesystem")?,
        stop_timeout: number(&mut members, "stopTimeout", 0..=86_400)?,
        log_configuration: members
            .object("logConfiguration")?
            .map(log_configuration)
            .transpose()?,
    };
    members.finish()?;
    Ok(container)
}

fn number<T: TryFrom<i64>>(
    members: &mut Members,
    name: &str,
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<T>, ApiError> {
    // Zero is how a description says "not set"; a range that starts above it would refuse that.
    let from_zero = 0.min(*range.start())..=*range.end();
    let path = members.path_of(name);
    match members.integer(name, from_zero)? {
        None => Ok(None),
        Some(0) if *range.start() > 0 => Ok(None),
        Some(n) if n < *range.start() => Err(ApiError::client(format!(
            "{path} is {n}; it must be between {} and {}",
            range.start(),
            range.end()
        ))),
        Some(n) => Ok(T::try_from(n).ok()),
    }
}

fn environment(members: &mut Members) -> Result<Vec<KeyValuePair>, ApiError> {
    let mut all = Vec::new();
    for mut pair in members.objects("environment")? {
        let path = pair.path_of("name");
        let name = pair.required_string("name")?;
        let value = pair.string("value")?.unwrap_or_default();
        if name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ApiError::client(format!(
                "{path} is '{}'; a name has no '=' and neither name nor value a zero byte",
                name.escape_debug()
            )));
        }
        all.push(KeyValuePair { name, value });
        pair.finish()?;
    }
    Ok(all)
}

fn dependency(mut members: Members) -> Result<Dependency, ApiError> {
    let condition = |word: &str| match word {
        "START" => Some(Condition::Start),
        "COMPLETE" => Some(Condition::Complete),
        "SUCCESS" => Some(Condition::Success),
        _ => None,
    };
    let path = members.path_of("condition");
    let dependency = Dependency {
        container_name: members.required_string("containerName")?,
        condition: members
            .word(
                "condition",
                "START, COMPLETE or SUCCESS (health checks aren't supported yet)",
                condition,
            )?
            .ok_or_else(|| {
                ApiError::client(format!(
                    "{path} is missing; it must be START, COMPLETE or SUCCESS"
                ))
            })?,
    };
    members.finish()?;
    Ok(dependency)
}

fn ulimit(mut members: Members) -> Result<Ulimit, ApiError> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let path = members.path_of("softLimit");
    let name = members.word("name", &NAMES.join(", "), |word| {
        NAMES.contains(&word).then(|| word.to_owned())
    })?;
    let name =
        name.ok_or_else(|| ApiError::client(format!("{} is missing", members.path_of("name"))))?;
    let soft_limit = members.integer("softLimit", -1..=i64::MAX)?.unwrap_or(0);
    let hard_limit = members.integer("hardLimit", -1..=i64::MAX)?.unwrap_or(0);
    let unlimited = |limit: i64| if limit == -1 { i64::MAX } else { limit };
    if unlimited(soft_limit) > unlimited(hard_limit) {
        return Err(ApiError::client(format!(
            "{path} is {soft_limit}; it must not be above hardLimit, {hard_limit}"
        )));
    }
    members.finish()?;
    Ok(Ulimit {
        name,
        soft_limit,
        hard_limit,
    })
}

fn log_configuration(mut members: Members) -> Result<LogConfiguration, ApiError> {
    let allowed = "awslogs (this version of Berth has no other driver)";
    let path = members.path_of("logDriver");
    let log_driver = members
        .word("logDriver", allowed, |word| {
            (word == "awslogs").then(|| word.to_owned())
        })?
        .ok_or_else(|| ApiError::client(format!("{path} is missing; it must be {allowed}")))?;
    let options = members
        .string_map("options")?
        .into_iter()
        .map(|(k, v)| (k, Value::String(v)))
        .collect();
    members.finish()?;
    Ok(LogConfiguration {
        log_driver,
        options,
    })
}

/// Applies `overrides.containerOverrides` of a RunTask to the task's own copy of its definition,
/// and returns them as a description gives them.
pub fn container_overrides(
    mut overrides: Members,
    definition: &mut TaskDefinition,
) -> Result<Value, ApiError> {
    let mut described = Vec::new();
    for mut members in overrides.objects("containerOverrides")? {
        let path = members.path_of("name");
        let name = members.required_string("name")?;
        let command = members.strings("command")?;
        let environment = environment(&mut members)?;
        members.finish()?;
        let container = definition
            .container_definitions
            .iter_mut()
            .find(|container| container.name == name);
        let container = container.ok_or_else(|| {
            ApiError::invalid(format!(
                "{path} is '{name}', which is no container of the task definition"
            ))
        })?;
        described.push(json!({"name": name, "command": command, "environment": environment}));
        if !command.is_empty() {
            container.command = command;
        }
        for pair in environment {
            container
                .environment
                .retain(|other| other.name != pair.name);
            container.environment.push(pair);
        }
    }
    overrides.finish()?;
    Ok(json!({"containerOverrides": described}))
}
