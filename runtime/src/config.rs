//! Loading a configuration and refusing one that is wrong, before anything is made.
//!
//! What OCI lets a configuration ask for and this runtime doesn't do is refused by name. Passing over
//! it would run a container with less confinement than was asked for.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, Process, Spec};
use thiserror::Error as ThisError;

use crate::plan::{check_mount, inside};
use crate::{cgroup, plan, seccomp};

/// What is wrong with a configuration.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The file couldn't be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file isn't a configuration.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field has a value that it must not have.
    #[error("{field}: {value} {expected}")]
    Value {
        /// The field's path.
        field: String,
        /// What it has.
        value: String,
        /// What is right.
        expected: String,
    },
    /// A field that must be there isn't.
    #[error("{field} is missing: {expected}")]
    Missing {
        /// The field's path.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A field that this runtime doesn't honour.
    #[error("{field} is not supported by this runtime{hint}")]
    Unsupported {
        /// The field's path.
        field: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The filter of system calls is wrong.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// The limits are wrong.
    #[error(transparent)]
    Limits(#[from] cgroup::Error),
}

impl Error {
    pub(crate) fn no_process() -> Self {
        Self::Missing {
            field: "process",
            expected: "a container runs one",
        }
    }

    pub(crate) fn no_root() -> Self {
        Self::Missing {
            field: "root",
            expected: "the root filesystem's path",
        }
    }
}

fn value(
    field: impl Into<String>,
    value: impl std::fmt::Debug,
    expected: impl Into<String>,
) -> Error {
    Error::Value {
        field: field.into(),
        value: format!("{value:?}"),
        expected: expected.into(),
    }
}

fn refuse(given: &[(&str, bool)]) -> Result<(), Error> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((field, _)) => Err(Error::Unsupported {
            field: (*field).to_owned(),
            hint: "",
        }),
        None => Ok(()),
    }
}

/// Loads a configuration and validates it.
pub fn load(path: &Path) -> Result<Spec, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let spec = serde_json::from_slice(&bytes).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source,
    })?;
    validate(&spec)?;
    Ok(spec)
}

/// Tells what is wrong with a configuration, if anything.
pub fn validate(spec: &Spec) -> Result<(), Error> {
    let major = spec.version().split('.').next().unwrap_or_default();
    if major != "1" {
        return Err(value("ociVersion", spec.version(), "must be 1.x.y"));
    }
    validate_process(spec.process().as_ref().ok_or_else(Error::no_process)?)?;
    refuse(&[
        ("vm", spec.vm().is_some()),
        ("windows", spec.windows().is_some()),
    ])?;
    if let Some(hooks) = spec.hooks() {
        refuse_hooks(&serde_json::to_value(hooks).unwrap_or_default())?;
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        validate_mount(index, mount)?;
    }
    let linux = spec.linux().as_ref();
    validate_linux(linux.ok_or(Error::Missing {
        field: "linux",
        expected: "its namespaces",
    })?)?;
    validate_names(spec, linux)
}

fn refuse_hooks(hooks: &serde_json::Value) -> Result<(), Error> {
    let given = hooks.as_object().into_iter().flatten();
    let mut given = given.filter(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
    match given.next() {
        Some((name, _)) => Err(Error::Unsupported {
            field: format!("hooks.{name}"),
            hint: "",
        }),
        None => Ok(()),
    }
}

/// The same for a process alone.
pub fn validate_process(process: &Process) -> Result<(), Error> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::Missing {
            field: "process.args",
            expected: "the program and its arguments",
        });
    }
    for (field, list) in [
        ("process.args", process.args()),
        ("process.env", process.env()),
    ] {
        if let Some(bad) = list.iter().flatten().find(|text| text.contains('\0')) {
            return Err(value(field, bad, "must have no null bytes"));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(value(
            "process.cwd",
            process.cwd(),
            "must be an absolute path",
        ));
    }
    if process
        .oom_score_adj()
        .is_some_and(|score| !(-1000..=1000).contains(&score))
    {
        return Err(value(
            "process.oomScoreAdj",
            process.oom_score_adj(),
            "must be -1000 to 1000",
        ));
    }
    validate_rlimits(process)?;
    refuse(&[
        (
            "process.selinuxLabel",
            process
                .selinux_label()
                .as_ref()
                .is_some_and(|l| !l.is_empty()),
        ),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        (
            "process.execCPUAffinity",
            process.exec_cpu_affinity().is_some(),
        ),
    ])
}

fn validate_rlimits(process: &Process) -> Result<(), Error> {
    let rlimits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in rlimits.iter().enumerate() {
        if limit.soft() > limit.hard() {
            let field = format!("process.rlimits[{index}].soft ({})", limit.typ());
            return Err(value(
                field,
                limit.soft(),
                format!("must be at most hard, {}", limit.hard()),
            ));
        }
        if rlimits
            .iter()
            .take(index)
            .any(|other| other.typ() == limit.typ())
        {
            let field = format!("process.rlimits[{index}].type");
            return Err(value(field, limit.typ(), "must not be listed twice"));
        }
    }
    Ok(())
}

fn validate_mount(index: usize, mount: &Mount) -> Result<(), Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let destination = inside(mount.destination());
    if destination.as_os_str().is_empty() {
        return Err(value(
            field("destination"),
            mount.destination(),
            "must be below the root",
        ));
    }
    let is_proc = mount.typ().as_deref() == Some("proc");
    let covers_proc = destination.starts_with("proc");
    let is_whole = destination == Path::new("proc");
    if covers_proc && !(is_whole && is_proc) && !plan::may_stand_on_proc(&destination) {
        return Err(value(
            field("destination"),
            mount.destination(),
            "must not cover /proc or part of it, except /proc by a mount of type proc, and files such \
             as /proc/cpuinfo",
        ));
    }
    let maps = [mount.uid_mappings(), mount.gid_mappings()];
    refuse(&[(
        &field("uidMappings"),
        maps.iter()
            .any(|map| map.as_ref().is_some_and(|m| !m.is_empty())),
    )])?;
    check_mount(mount).map_err(|reason| {
        value(
            field("options"),
            mount.options().as_deref().unwrap_or_default(),
            format!("are wrong: {reason}"),
        )
    })
}

fn validate_linux(linux: &Linux) -> Result<(), Error> {
    validate_namespaces(linux)?;
    refuse(&[
        (
            "linux.netDevices",
            linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()),
        ),
        (
            "linux.mountLabel",
            linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()),
        ),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        (
            "linux.timeOffsets",
            linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty()),
        ),
    ])?;
    let known = [
        "shared",
        "slave",
        "private",
        "unbindable",
        "rshared",
        "rslave",
        "rprivate",
        "runbindable",
    ];
    if let Some(name) = linux
        .rootfs_propagation()
        .as_deref()
        .filter(|name| !name.is_empty())
        && !known.contains(&name)
    {
        return Err(value(
            "linux.rootfsPropagation",
            name,
            format!("must be one of {known:?}"),
        ));
    }
    if let Some(path) = linux.cgroups_path() {
        validate_cgroups_path(path)?;
    }
    if let Some(resources) = linux.resources() {
        cgroup::check_limits(resources)?;
    }
    if let Some(profile) = linux.seccomp() {
        seccomp::check(profile)?;
    }
    validate_sysctls(linux)
}

fn validate_namespaces(linux: &Linux) -> Result<(), Error> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        if namespaces
            .iter()
            .take(index)
            .any(|other| other.typ() == namespace.typ())
        {
            return Err(value(field, namespace.typ(), "must not be listed twice"));
        }
        let path = namespace
            .path()
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        match (namespace.typ(), path) {
            (LinuxNamespaceType::Time, _) => {
                return Err(Error::Unsupported {
                    field: format!("{field} (time)"),
                    hint: "",
                });
            }
            (LinuxNamespaceType::Mount, Some(_)) => {
                let hint = ": a container has a mount namespace of its own";
                return Err(Error::Unsupported {
                    field: format!("{field}.path (mount)"),
                    hint,
                });
            }
            (_, Some(path)) if !path.is_absolute() => {
                return Err(value(
                    format!("{field}.path"),
                    path,
                    "must be an absolute path",
                ));
            }
            _ => {}
        }
    }
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    if !has(LinuxNamespaceType::Mount) {
        return Err(value("linux.namespaces", "", "must have one of type mount"));
    }
    validate_id_maps(linux, namespaces)
}

fn validate_id_maps(
    linux: &Linux,
    namespaces: &[oci_spec::runtime::LinuxNamespace],
) -> Result<(), Error> {
    let is_new = |ns: &oci_spec::runtime::LinuxNamespace| {
        ns.path()
            .as_deref()
            .is_none_or(|p| p.as_os_str().is_empty())
    };
    let new_user = namespaces
        .iter()
        .any(|ns| ns.typ() == LinuxNamespaceType::User && is_new(ns));
    for (field, maps) in [
        ("linux.uidMappings", linux.uid_mappings()),
        ("linux.gidMappings", linux.gid_mappings()),
    ] {
        let maps = maps.as_deref().unwrap_or_default();
        if new_user
            && !maps
                .iter()
                .any(|map| map.container_id() == 0 && map.size() > 0)
        {
            return Err(value(
                field,
                maps.len(),
                "mappings: a new user namespace needs one of id 0",
            ));
        }
        if !new_user
            && !maps.is_empty()
            && !namespaces
                .iter()
                .any(|ns| ns.typ() == LinuxNamespaceType::User)
        {
            return Err(value(
                field,
                maps.len(),
                "mappings: need a namespace of type user",
            ));
        }
    }
    Ok(())
}

fn validate_cgroups_path(path: &Path) -> Result<(), Error> {
    let text = path.to_string_lossy();
    let is_systemd = text.matches(':').count() == 2 && !text.starts_with('/');
    if is_systemd {
        let expected = "is in systemd's form: give a path, as with the cgroupfs driver";
        return Err(value("linux.cgroupsPath", path, expected));
    }
    let goes_up = path
        .components()
        .any(|c| c == std::path::Component::ParentDir);
    if goes_up || inside(path).as_os_str().is_empty() {
        return Err(value(
            "linux.cgroupsPath",
            path,
            "must be a path below the root, without \"..\"",
        ));
    }
    Ok(())
}

/// A sysctl that isn't of a namespace of the container would change the host's.
fn validate_sysctls(linux: &Linux) -> Result<(), Error> {
    let has = |kind| {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        namespaces.iter().any(|ns| ns.typ() == kind)
    };
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let path = plan::sysctl_path(name);
        let needs = match path.as_str() {
            path if path.split('/').any(|part| part.is_empty() || part == "..") => None,
            path if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
            "kernel/domainname" | "kernel/hostname" => Some(LinuxNamespaceType::Uts),
            path if path.starts_with("fs/mqueue/") || is_ipc_sysctl(path) => {
                Some(LinuxNamespaceType::Ipc)
            }
            path if path.starts_with("user/") => Some(LinuxNamespaceType::User),
            _ => None,
        };
        match needs {
            Some(kind) if has(kind) => {}
            Some(kind) => {
                return Err(value(
                    "linux.sysctl",
                    name,
                    format!("needs a namespace of type {kind}"),
                ));
            }
            None => {
                return Err(value(
                    "linux.sysctl",
                    name,
                    "is not a parameter of any namespace",
                ));
            }
        }
    }
    Ok(())
}

fn is_ipc_sysctl(path: &str) -> bool {
    let names = [
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    ];
    path.strip_prefix("kernel/")
        .is_some_and(|name| names.contains(&name))
}

fn validate_names(spec: &Spec, linux: Option<&Linux>) -> Result<(), Error> {
    let namespaces = linux
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    let has_uts = namespaces
        .iter()
        .any(|ns| ns.typ() == LinuxNamespaceType::Uts);
    for (field, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        match name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) if !has_uts => {
                return Err(value(
                    field,
                    name,
                    "needs a namespace of type uts, or it would be the host's",
                ));
            }
            Some(name) if name.len() > 64 || name.contains('\0') => {
                return Err(value(field, name, "must be at most 64 bytes"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
