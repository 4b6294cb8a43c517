//! `update`: other limits for a container in use.
//!
//! What isn't given stays. Some limits are only whole together with another (a quota with its period,
//! swap with memory), so the container's record keeps what is in force and fills in the other half.

mod flags;
mod record;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::{Cgroup, Limits, Warning};
use berth_runtime::{ContainerId, change_class};
use clap::Args;
use oci_spec::runtime::{Linux, LinuxResources};

use super::pause::alive;
use super::state::{State, StateDirectory};
use super::{Global, log};
use flags::{Flags, given};
use record::{complete, merge};

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The container's id
    id: ContainerId,
    /// Limits in the form of linux.resources, or - for standard input; other options are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    /// Accepted: cgroup v2 counts the kernel's memory with the rest
    #[arg(long, value_name = "BYTES", hide = true)]
    kernel_memory: Option<String>,
    /// Accepted: cgroup v2 counts the kernel's memory with the rest
    #[arg(long, value_name = "BYTES", hide = true)]
    kernel_memory_tcp: Option<String>,
    /// The container's part of the L3 cache, a line of resctrl's schemata
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Its part of the memory bandwidth, likewise
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// Changes the limits of a container.
pub(crate) fn update(global: &Global, options: &Update) -> Result<()> {
    let directory = StateDirectory::of(global, &options.id);
    let mut state = directory.load()?;
    let container = alive(&state)?;
    let wanted = match &options.resources {
        Some(file) => from_file(file)?,
        None => options.flags.resources()?,
    };
    for (flag, value) in [
        ("kernel-memory", &options.kernel_memory),
        ("kernel-memory-tcp", &options.kernel_memory_tcp),
    ] {
        if given(value).is_some() {
            log::warn(
                global,
                &format!("--{flag} is not in force: cgroup v2 has no such limit"),
            );
        }
    }
    let Some(cgroup) = container.cgroup() else {
        bail!(
            "container {} has no cgroup of its own to be limited",
            options.id
        );
    };
    change_schemata(&mut state, options)?;
    let recorded = recorded(&state);
    let completed = complete(wanted, &recorded);
    if let Some(unit) = &state.unit {
        unit.update(cgroup, &completed)?;
    }
    for warning in apply(cgroup, &completed, global.limits.into())? {
        log::warn(global, &warning.to_string());
    }
    record(&mut state, merge(&recorded, &completed)?);
    directory.save(&state)
}

fn apply(cgroup: &Cgroup, resources: &LinuxResources, limits: Limits) -> Result<Vec<Warning>> {
    let mut warnings = cgroup.apply(resources, limits)?;
    // Without any word of devices they stay as they are: an engine's hook may have added some.
    if let Some(devices) = resources.devices() {
        warnings.extend(cgroup.allow_devices(devices, limits)?);
    }
    Ok(warnings)
}

/// Both lines by one write: the kernel takes all of them or none.
fn change_schemata(state: &mut State, options: &Update) -> Result<()> {
    let flags = [
        ("--l3-cache-schema", given(&options.l3_cache_schema)),
        ("--mem-bw-schema", given(&options.mem_bw_schema)),
    ];
    let (names, lines): (Vec<_>, Vec<_>) = flags
        .into_iter()
        .filter_map(|(name, line)| Some((name, line?)))
        .unzip();
    if lines.is_empty() {
        return Ok(());
    }
    change_class(&mut state.config, &options.id, &lines).with_context(|| names.join(" "))
}

fn from_file(file: &Path) -> Result<LinuxResources> {
    let name = || format!("--resources {}", file.display());
    let bytes = match file == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        }
        false => fs::read(file),
    };
    serde_json::from_slice(&bytes.with_context(name)?).with_context(name)
}

/// The limits in force.
fn recorded(state: &State) -> LinuxResources {
    let linux = state.config.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().clone());
    resources.unwrap_or_default()
}

fn record(state: &mut State, resources: LinuxResources) {
    let linux = state.config.linux_mut().get_or_insert_with(Linux::default);
    linux.set_resources(Some(resources));
}
