//! The floor's arguments: a configuration, as the system calls that it can't do without.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde_json::Value;

use super::configuration::Configuration;
use super::contestant::{Sleeper, timed};
use super::{CGROUP, DISK};

/// The devices that every container has.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What the floor program is asked to do.
pub struct Floor {
    run: Vec<String>,
    exec: Vec<String>,
}

impl Floor {
    /// The same as this configuration asks of a runtime; and a process in that container.
    pub fn new(configuration: &Configuration, sleeper: &Sleeper<'_>) -> anyhow::Result<Self> {
        let config = &configuration.content;
        let rootfs = config.pointer("/root/path").and_then(Value::as_str);
        let mut run = vec![
            "run".to_owned(),
            rootfs.context("a root")?.to_owned(),
            format!("/sys/fs/cgroup{CGROUP}/floor"),
            namespaces(config).to_string(),
        ];
        run.extend(items(config)?);
        let command = ["--", "/bin/true"].map(str::to_owned);
        run.extend(command.clone());
        let cgroup = format!("/sys/fs/cgroup{}", sleeper.cgroup);
        let mut exec = vec!["exec".to_owned(), sleeper.pid.to_string(), cgroup];
        exec.extend(command);
        Ok(Self { run, exec })
    }

    /// A container.
    pub fn run(&self) -> anyhow::Result<Duration> {
        timed(&mut self.run_command())
    }

    /// A process in one.
    pub fn exec(&self) -> anyhow::Result<Duration> {
        timed(&mut self.exec_command())
    }

    pub fn run_command(&self) -> Command {
        command(&self.run)
    }

    pub fn exec_command(&self) -> Command {
        command(&self.exec)
    }
}

fn command(args: &[String]) -> Command {
    let mut command = Command::new(format!("{DISK}/bin/floor"));
    command.args(args).stdin(Stdio::null());
    command
}

/// All but the cgroup's, which begins at the container's own cgroup only once that is entered.
fn namespaces(config: &Value) -> u64 {
    let named = |name: &str| match name {
        "mount" => CloneFlags::CLONE_NEWNS,
        "pid" => CloneFlags::CLONE_NEWPID,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "network" => CloneFlags::CLONE_NEWNET,
        _ => CloneFlags::empty(),
    };
    let all = list(config, "/linux/namespaces").map(|entry| named(text(entry, "type")));
    let bits = all.fold(CloneFlags::empty(), |all, one| all | one).bits();
    u64::from(bits.cast_unsigned())
}

fn items(config: &Value) -> anyhow::Result<Vec<String>> {
    let mut items = Vec::new();
    for mount in list(config, "/mounts") {
        items.push(mount_item(mount)?);
        if text(mount, "destination") == "/dev" {
            let device = |(name, major, minor)| format!("device\tdev/{name}\t{major}\t{minor}");
            items.extend(DEVICES.map(device));
        }
    }
    let paths = |pointer, action: &'static str| {
        let relative = |path: &Value| path.as_str().unwrap_or_default()[1..].to_owned();
        list(config, pointer).map(move |path| format!("{action}\t{}", relative(path)))
    };
    items.extend(paths("/linux/readonlyPaths", "readonly"));
    items.extend(paths("/linux/maskedPaths", "hide"));
    items.push(format!("hostname\t{}", text(config, "hostname")));
    Ok(items)
}

fn mount_item(mount: &Value) -> anyhow::Result<String> {
    let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
    for option in list(mount, "/options").filter_map(Value::as_str) {
        match flag(option) {
            Some(flag) => flags |= flag,
            None => data.push(option),
        }
    }
    let kind = match text(mount, "type") {
        "cgroup" => "cgroup2",
        kind => kind,
    };
    let target = text(mount, "destination").strip_prefix('/');
    Ok(format!(
        "mount\t{kind}\t{}\t{}\t{}\t{}",
        text(mount, "source"),
        target.context("an absolute path")?,
        flags.bits(),
        data.join(",")
    ))
}

fn flag(option: &str) -> Option<MsFlags> {
    Some(match option {
        "nosuid" => MsFlags::MS_NOSUID,
        "noexec" => MsFlags::MS_NOEXEC,
        "nodev" => MsFlags::MS_NODEV,
        "ro" => MsFlags::MS_RDONLY,
        "relatime" => MsFlags::MS_RELATIME,
        "strictatime" => MsFlags::MS_STRICTATIME,
        "bind" => MsFlags::MS_BIND,
        // All mounts are private here.
        "rprivate" | "private" => MsFlags::empty(),
        _ => return None,
    })
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let array = value.pointer(pointer).and_then(Value::as_array);
    array.into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
