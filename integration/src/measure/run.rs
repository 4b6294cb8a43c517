//! `cargo measure run`: a container that does nothing, from the command to its exit, by us, Podman
//! and Docker. The image is there; each makes a root filesystem, a network interface, a cgroup and
//! a container, runs `/bin/true` in it, and removes all of that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::json;

use super::world::{self, DISK, Dockerd};
use super::{Comparison, Series};

const WARM_UP: usize = 3;
const RUNS: usize = 30;

/// Beyond the rig's: Podman's network, which Debian only recommends.
const PACKAGES: &[&str] = &["runc", "netavark", "iptables"];

/// Runs the benchmark.
pub fn compare(runs: Option<usize>) -> anyhow::Result<Comparison> {
    crate::packages::install(crate::packages::FOR_BENCHES)?;
    crate::packages::install(PACKAGES)?;
    let berth = crate::build::program("berth", true)?;
    let rootfs = crate::image::busybox()?;
    let disk = crate::cache()?.join("measure");
    if disk.exists() {
        std::fs::remove_dir_all(&disk).with_context(|| format!("emptying {}", disk.display()))?;
    }
    std::fs::create_dir_all(&disk)?;
    crate::say("measuring berth run, podman run and docker run");
    let compared = world::within(&disk, || inside(&berth, &rootfs, runs.unwrap_or(RUNS)));
    std::fs::remove_dir_all(&disk).with_context(|| format!("emptying {}", disk.display()))?;
    compared
}

fn inside(berth: &Path, rootfs: &Path, runs: usize) -> anyhow::Result<Comparison> {
    let _dockerd = Dockerd::start()?;
    let mut comparison = Comparison {
        benchmark: "run",
        what: "One container that runs /bin/true, with its network, from the command to its exit"
            .into(),
        series: vec![ours(berth, rootfs)?, podman(rootfs)?, docker(rootfs)?],
        expected: 0.2,
    };
    comparison.take_turns(WARM_UP, runs)?;
    Ok(comparison)
}

fn ours(berth: &Path, rootfs: &Path) -> anyhow::Result<Series> {
    let command = || {
        let mut command = Command::new(berth);
        command
            .env("BERTH_ROOT", format!("{DISK}/berth"))
            .env("BERTH_RUN", "/run/berth")
            // On a host with cgroup v1 the unified hierarchy has no controllers; the others leave
            // their limits out as well.
            .env("BERTH_LIMITS", "best-effort");
        command
    };
    said(
        command()
            .args(["image", "import", "--name", "bench"])
            .arg(rootfs),
    )?;
    let definition = json!({
        "family": "bench",
        "networkMode": "awsvpc",
        "containerDefinitions": [
            {"name": "true", "image": "bench", "command": ["/bin/true"], "memory": 64},
        ],
    });
    let path = format!("{DISK}/task.json");
    std::fs::write(&path, definition.to_string())?;
    let name = said(command().arg("--version"))?;
    let mut run = command();
    run.arg("run").arg(path);
    Ok(Series::new(name, run))
}

/// Podman as it comes, on the disk of all: with its faster network, and with the faster runtime
/// that this host lets run.
fn podman(rootfs: &Path) -> anyhow::Result<Series> {
    let command = |runtime: &str| world::podman(runtime.as_ref());
    said(
        command("runc")?
            .args(["import", "-q"])
            .arg(rootfs)
            .arg("bench"),
    )?;
    let version = said(command("runc")?.arg("--version"))?;
    let mut complaints = String::new();
    for runtime in ["crun", "runc"] {
        let mut run = command(runtime)?;
        run.args(["run", "--rm", "--network", "bridge", "--pids-limit", "0"])
            .args(world::ULIMITS)
            .args(["localhost/bench", "/bin/true"]);
        match said(&mut run) {
            Ok(_) => {
                let name = format!("{version} ({runtime}, netavark)");
                return Ok(Series::new(name, run));
            }
            Err(error) => complaints.push_str(&format!("{error:#}\n")),
        }
    }
    bail!("podman runs nothing here: {complaints}")
}

fn docker(rootfs: &Path) -> anyhow::Result<Series> {
    said(world::docker().arg("import").arg(rootfs).arg("bench"))?;
    let version = said(world::docker().args(["version", "--format", "{{.Server.Version}}"]))?;
    let driver = said(world::docker().args(["info", "--format", "{{.Driver}}"]))?;
    let mut run = world::docker();
    run.args(["run", "--rm", "bench", "/bin/true"]);
    let name = format!("docker version {version} (runc, {driver})");
    Ok(Series::new(name, run))
}

/// What a command prints.
pub fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
