//! The configurations that are compared, as bundles on the disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::super::run::said;
use super::super::world;
use super::{CGROUP, DISK};

/// A runtime that keeps the configuration that it is given, and then fails.
const CAPTURE: &str = r#"#!/bin/sh
while [ $# -gt 1 ]; do
    [ "$1" = --bundle ] && cp "$2/config.json" /mnt/podman.json
    shift
done
exit 1
"#;

/// The content of a config.json, and the bundle that has it.
pub struct Configuration {
    pub name: &'static str,
    pub bundle: String,
    pub content: Value,
}

/// What Podman writes for `podman run`.
pub fn of_podman(rootfs: &Path) -> anyhow::Result<Value> {
    let runtime = Path::new(DISK).join("bin/capture");
    std::fs::write(&runtime, CAPTURE)?;
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755))?;
    let podman = || world::podman(&runtime);
    said(podman()?.args(["import", "-q"]).arg(rootfs).arg("bench"))?;
    let mut run = podman()?;
    run.args(["run", "--name", "one", "--network", "none"])
        .args(world::ULIMITS)
        .args(["localhost/bench", "/bin/true"]);
    // It fails, as the runtime does.
    let output = run.output().context("running podman")?;
    said(podman()?.args(["rm", "--force", "one"]))?;
    // The hierarchy is the host's own.
    world::remove_empty(Path::new("/sys/fs/cgroup/libpod_parent"));
    let file = format!("{DISK}/podman.json");
    let bytes = std::fs::read(file).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("podman wrote no configuration: {said}")
    })?;
    Ok(serde_json::from_slice(&bytes)?)
}

impl Configuration {
    /// Podman's own, as far as this host can do it.
    pub fn podman(mut config: Value) -> anyhow::Result<Self> {
        set(&mut config, "/root/path", json!(unpacked()?))?;
        let resources = config.pointer_mut("/linux/resources");
        let resources = resources.and_then(Value::as_object_mut);
        // The unified hierarchy need not have the controller, and then nobody can do this.
        resources.context("resources")?.remove("pids");
        own_files(&mut config)?;
        let seccomp = config.pointer("/linux/seccomp/syscalls");
        ensure!(seccomp.is_some(), "podman wrote no seccomp profile");
        Self::new("Podman's default", "podman", config)
    }

    /// As little as a container can be.
    pub fn minimal() -> anyhow::Result<Self> {
        let namespaces = ["mount", "pid", "ipc", "uts", "network", "cgroup"];
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/true"],
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": unpacked()?},
            "hostname": "minimal",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            ],
            "linux": {
                "namespaces": namespaces.map(|name| json!({"type": name})),
                "cgroupsPath": "",
            },
        });
        Self::new("a minimal", "minimal", config)
    }

    fn new(name: &'static str, folder: &str, mut content: Value) -> anyhow::Result<Self> {
        set(&mut content, "/process/args", json!(["/bin/true"]))?;
        let bundle = format!("{DISK}/{folder}");
        let cgroup = format!("{CGROUP}/one");
        set(&mut content, "/linux/cgroupsPath", json!(cgroup))?;
        write(&bundle, &content)?;
        Ok(Self {
            name,
            bundle,
            content,
        })
    }

    /// The same for a container that sleeps: its bundle and its cgroup.
    pub fn sleeper(&self, name: &str) -> anyhow::Result<(String, String)> {
        let mut content = self.content.clone();
        let (bundle, cgroup) = (
            format!("{}-{name}", self.bundle),
            format!("{CGROUP}/{name}"),
        );
        set(
            &mut content,
            "/process/args",
            json!(["/bin/sleep", "86400"]),
        )?;
        set(&mut content, "/linux/cgroupsPath", json!(cgroup))?;
        write(&bundle, &content)?;
        Ok((bundle, cgroup))
    }
}

/// Files of Podman's that the container gets: they went with it, so others take their places.
fn own_files(config: &mut Value) -> anyhow::Result<()> {
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.context("mounts")? {
        if mount.get("type").and_then(Value::as_str) != Some("bind") {
            continue;
        }
        let target = mount.get("destination").and_then(Value::as_str);
        let target = target.context("a destination")?.to_owned();
        let source = format!("{DISK}/files{target}");
        let folder = Path::new(&source).parent().context("a folder")?;
        std::fs::create_dir_all(folder)?;
        if target == "/dev/shm" {
            std::fs::create_dir(&source)?;
        } else {
            std::fs::write(&source, "")?;
        }
        // The floor makes no mount points.
        let point = format!("{DISK}/rootfs{target}");
        if target != "/dev/shm" {
            std::fs::create_dir_all(Path::new(&point).parent().context("a folder")?)?;
            std::fs::write(&point, "")?;
        }
        set(mount, "/source", json!(source))?;
    }
    Ok(())
}

fn unpacked() -> anyhow::Result<String> {
    let rootfs = format!("{DISK}/rootfs");
    if !Path::new(&rootfs).exists() {
        std::fs::create_dir(&rootfs)?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "-f", &format!("{DISK}/rootfs.tar"), "-C", &rootfs]);
        said(&mut tar)?;
    }
    Ok(rootfs)
}

fn set(value: &mut Value, pointer: &str, new: Value) -> anyhow::Result<()> {
    let place = value.pointer_mut(pointer);
    *place.with_context(|| format!("{pointer} is missing"))? = new;
    Ok(())
}

fn write(bundle: &str, content: &Value) -> anyhow::Result<()> {
    std::fs::create_dir_all(bundle)?;
    Ok(std::fs::write(
        format!("{bundle}/config.json"),
        content.to_string(),
    )?)
}
