//! The commands that only tell: `state`, `list`, `features`, `spec`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use berth_runtime::{ContainerId, features as supported, spec};
use clap::{Args, ValueEnum};
use nix::unistd::{getegid, geteuid};
use serde_json::Value;

use super::Global;
use super::state::StateDirectory;

pub(crate) fn state(global: &Global, id: &ContainerId) -> Result<()> {
    let directory = StateDirectory::of(global, id);
    print(&directory.describe(&directory.load()?))
}

fn print(value: &Value) -> Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut output, value)?;
    Ok(writeln!(output)?)
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    format: ListFormat,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Json,
}

/// Lists the containers. One that is just being created or deleted isn't there.
pub(crate) fn list(global: &Global, options: &List) -> Result<()> {
    let containers = containers(global)?;
    if options.format == ListFormat::Json && !options.quiet {
        return print(&Value::Array(containers));
    }
    let mut output = std::io::stdout().lock();
    if !options.quiet {
        writeln!(
            output,
            "{:<24} {:>8} {:<8} {:<40} CREATED",
            "ID", "PID", "STATUS", "BUNDLE"
        )?;
    }
    for container in &containers {
        let text = |field: &str| {
            container
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let pid = container
            .get("pid")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        let (id, status, bundle, created) =
            (text("id"), text("status"), text("bundle"), text("created"));
        match options.quiet {
            true => writeln!(output, "{id}")?,
            false => writeln!(
                output,
                "{id:<24} {pid:>8} {status:<8} {bundle:<40} {created}"
            )?,
        }
    }
    Ok(())
}

fn containers(global: &Global) -> Result<Vec<Value>> {
    let root = global.root();
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("read {}", root.display()))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ids.extend(name.parse::<ContainerId>());
    }
    ids.sort();
    let directories = ids.iter().map(|id| StateDirectory::of(global, id));
    Ok(directories
        .filter_map(|directory| Some(directory.describe(&directory.load().ok()?)))
        .collect())
}

#[derive(Debug, Args)]
pub(crate) struct WriteSpec {
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For a user without rights: this one becomes root of a user namespace
    #[arg(long)]
    rootless: bool,
}

/// Writes config.json, unless there is one.
pub(crate) fn write_spec(options: &WriteSpec) -> Result<()> {
    let file = options.bundle.join("config.json");
    let mut open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&file)
        .with_context(|| format!("make {}", file.display()))?;
    let spec = match options.rootless {
        true => spec::rootless(geteuid().as_raw(), getegid().as_raw()),
        false => spec::default(),
    };
    serde_json::to_writer_pretty(&mut open, &spec)?;
    Ok(writeln!(open)?)
}

pub(crate) fn features() -> Result<()> {
    print(&supported::features())
}
