//! The OCI configuration of a container, from its plan and its root filesystem.

use std::path::Path;

use anyhow::Context;
use berth_netns::IdRange;
use berth_runtime::spec as oci;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResources, LinuxResourcesBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, ProcessBuilder, RootBuilder, Spec, UserBuilder,
};

use super::protocol::{NetworkNamespace, Plan, PlannedContainer, task_cgroup};
use super::user::{self, User};
use super::user_namespace::UserNamespace;

/// The period of the CPU quota, in microseconds: ECS's own.
const CPU_PERIOD: u64 = 100_000;

/// As in the namespaces that the network makes: a port below 1024 and ping need no privilege.
const UNPRIVILEGED: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// The configuration of one container whose root filesystem is mounted at `rootfs`.
pub fn container(
    plan: &Plan,
    container: &PlannedContainer,
    rootfs: &Path,
    user_namespace: Option<&UserNamespace>,
) -> anyhow::Result<Spec> {
    let user = user::resolve(rootfs, &container.user)?;
    if let Some(user_namespace) = user_namespace {
        user_namespace.check(&user)?;
    }
    let mut spec = oci::container(oci::default_capabilities());
    spec.set_root(Some(
        RootBuilder::default()
            .path(rootfs)
            .readonly(container.readonly)
            .build()?,
    ));
    spec.set_hostname(Some(container.network.hostname.clone()));
    let base = spec
        .process()
        .clone()
        .context("the default configuration has no process")?;
    let mut process = base;
    process.set_terminal(Some(false));
    process.set_args(Some(container.args.clone()));
    process.set_env(Some(environment(container, &user)));
    process.set_cwd(container.cwd.clone().into());
    process.set_user(
        UserBuilder::default()
            .uid(user.uid)
            .gid(user.gid)
            .additional_gids(user.groups)
            .build()?,
    );
    process.set_rlimits(Some(rlimits(container)?));
    spec.set_process(Some(process));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for name in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(oci::bind(
            &container.network.etc.join(name),
            &Path::new("/etc").join(name),
            &["bind", "rw", "nosuid", "nodev"],
        ));
    }
    spec.set_mounts(Some(mounts));
    join_network(&mut spec, &container.network.namespace)?;
    if let Some(user_namespace) = user_namespace {
        join_user_namespace(&mut spec, user_namespace)?;
    }
    let mut linux = spec
        .linux()
        .clone()
        .context("the default configuration has no linux part")?;
    linux.set_cgroups_path(Some(
        format!("/{}/{}", task_cgroup(&plan.task), container.name).into(),
    ));
    let mut resources = linux.resources().clone().unwrap_or_default();
    limit_container(&mut resources, plan, container)?;
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// Puts a container into its network namespace. The default configuration has none, which means the host's.
fn join_network(spec: &mut Spec, namespace: &NetworkNamespace) -> anyhow::Result<()> {
    let kind = LinuxNamespaceType::Network;
    match namespace {
        NetworkNamespace::At(path) => oci::join_namespace(spec, kind, path),
        NetworkNamespace::Host => {}
        NetworkNamespace::Own => {
            let own = LinuxNamespaceBuilder::default().typ(kind).build()?;
            let linux = spec
                .linux_mut()
                .as_mut()
                .context("the default configuration has no linux part")?;
            linux.namespaces_mut().get_or_insert_default().push(own);
            let sysctls = UNPRIVILEGED.map(|(key, value)| (key.to_owned(), value.to_owned()));
            linux.set_sysctl(Some(sysctls.into()));
        }
    }
    Ok(())
}

fn join_user_namespace(spec: &mut Spec, namespace: &UserNamespace) -> anyhow::Result<()> {
    oci::join_namespace(spec, LinuxNamespaceType::User, &namespace.path());
    let ids = LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(namespace.range().first)
        .size(IdRange::SIZE)
        .build()?;
    let linux = spec.linux_mut().get_or_insert_default();
    linux.set_uid_mappings(Some(vec![ids]));
    linux.set_gid_mappings(Some(vec![ids]));
    Ok(())
}

/// The process that `berth exec` runs: as the container's own, but for its arguments.
pub fn exec_process(
    container: &Spec,
    args: &[String],
    terminal: bool,
) -> anyhow::Result<oci_spec::runtime::Process> {
    let mut process = match container.process() {
        Some(process) => process.clone(),
        None => ProcessBuilder::default().build()?,
    };
    process.set_args(Some(args.to_vec()));
    process.set_terminal(Some(terminal));
    if terminal {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|pair| pair.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        process.set_env(Some(env));
    }
    Ok(process)
}

fn environment(container: &PlannedContainer, user: &User) -> Vec<String> {
    let has = |name: &str| {
        container
            .env
            .iter()
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let mut env = Vec::with_capacity(container.env.len() + 3);
    if !has("PATH") {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    if !has("HOSTNAME") {
        env.push(format!("HOSTNAME={}", container.network.hostname));
    }
    if !has("HOME") {
        env.push(format!("HOME={}", user.home));
    }
    env.extend(container.env.iter().cloned());
    env
}

fn rlimits(container: &PlannedContainer) -> anyhow::Result<Vec<PosixRlimit>> {
    let limit = |(name, soft, hard): &(String, i64, i64)| {
        // -1 is setrlimit's RLIM_INFINITY, all bits set.
        let typ: PosixRlimitType =
            serde_json::from_value(format!("RLIMIT_{}", name.to_uppercase()).into())?;
        Ok(PosixRlimitBuilder::default()
            .typ(typ)
            .soft(soft.cast_unsigned())
            .hard(hard.cast_unsigned())
            .build()?)
    };
    container.ulimits.iter().map(limit).collect()
}

/// The container's own limits. Where it has none of memory or CPU time it gets the task's: they
/// hold anyway, and inside its cgroup namespace it would see no other. Runtimes size their heaps
/// and thread pools by what they see there.
fn limit_container(
    resources: &mut LinuxResources,
    plan: &Plan,
    container: &PlannedContainer,
) -> anyhow::Result<()> {
    // ECS counts anything below 2 shares as 2.
    let mut cpu = LinuxCpuBuilder::default().shares(u64::from(container.cpu_shares).max(2));
    if let Some(quota) = quota(plan) {
        cpu = cpu.quota(quota).period(CPU_PERIOD);
    }
    resources.set_cpu(Some(cpu.build()?));
    let mut memory = LinuxMemoryBuilder::default();
    let limit = container.memory.or(plan.memory);
    if let Some(bytes) = limit.and_then(|bytes| i64::try_from(bytes).ok()) {
        // Memory and swap together: no swap, as on Fargate.
        memory = memory.limit(bytes).swap(bytes);
    }
    if let Some(bytes) = container
        .memory_reservation
        .and_then(|bytes| i64::try_from(bytes).ok())
    {
        memory = memory.reservation(bytes);
    }
    if limit.is_some() || container.memory_reservation.is_some() {
        resources.set_memory(Some(memory.build()?));
    }
    Ok(())
}

/// The task's CPU time in each period, in microseconds.
fn quota(plan: &Plan) -> Option<i64> {
    plan.cpu_units
        .map(|units| i64::from(units) * CPU_PERIOD.cast_signed() / 1024)
}

/// The limits of the task as a whole.
pub fn task_resources(plan: &Plan) -> anyhow::Result<LinuxResources> {
    let mut resources = LinuxResourcesBuilder::default().build()?;
    // The builder's own default lists devices; the task's cgroup has no say in those.
    resources.set_devices(None);
    if let Some(quota) = quota(plan) {
        resources.set_cpu(Some(
            LinuxCpuBuilder::default()
                .quota(quota)
                .period(CPU_PERIOD)
                .build()?,
        ));
    }
    if let Some(bytes) = plan.memory {
        let bytes = i64::try_from(bytes)?;
        resources.set_memory(Some(
            LinuxMemoryBuilder::default()
                .limit(bytes)
                .swap(bytes)
                .build()?,
        ));
    }
    Ok(resources)
}
