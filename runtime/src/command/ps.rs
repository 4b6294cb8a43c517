//! `ps`: a container's processes.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};
use berth_runtime::ContainerId;
use clap::{Args, ValueEnum};

use super::Global;
use super::state::StateDirectory;

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// The container's id
    id: ContainerId,
    /// Options for ps(1), which makes the table
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PS OPTIONS"
    )]
    options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Prints the processes of the container, those in cgroups that it made included.
pub(crate) fn ps(global: &Global, options: &Ps) -> Result<()> {
    let state = StateDirectory::of(global, &options.id).load()?;
    let pids = state.processes()?.into_iter();
    let pids: Vec<i32> = pids.map(nix::unistd::Pid::as_raw).collect();
    let mut output = std::io::stdout().lock();
    let text = match options.format {
        Format::Json => serde_json::to_string(&pids)? + "\n",
        Format::Table => filtered(&table(&options.options)?, &pids)?,
    };
    Ok(output.write_all(text.as_bytes())?)
}

/// What ps(1) says of all processes.
fn table(options: &[String]) -> Result<String> {
    let mut ps = Command::new("ps");
    match options.is_empty() {
        true => ps.arg("-ef"),
        false => ps.args(options),
    };
    let output = ps.output().context("run ps")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ps {}: {}", options.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The heading, and the lines of these processes.
fn filtered(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let mut titles = heading.split_whitespace();
    let column = titles
        .position(|title| title == "PID")
        .context("the output of ps has no column PID: leave it in the options")?;
    let is_wanted = |line: &&str| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    let wanted = std::iter::once(heading).chain(lines.filter(is_wanted));
    Ok(wanted.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_its_heading_and_the_containers_lines() {
        let table = "UID   PID  PPID CMD\nroot  1    0 init\nroot  12   1 sh 1\nroot 120 12 x\n";
        let want = "UID   PID  PPID CMD\nroot  12   1 sh 1\n";
        assert_eq!(filtered(table, &[12]).unwrap(), want);
        assert!(filtered("UID CMD\nroot sh\n", &[12]).is_err());
    }
}
