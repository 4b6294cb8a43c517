//! `cargo demo`: the main job on a real task. On this host where it has the controllers, else in
//! the virtual machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::payload::Payload;
use crate::vm::{Boot, Vm};
use crate::{build, image, packages, say, vm, workspace};

/// Runs it. Whether all went well.
pub fn demo() -> anyhow::Result<bool> {
    if has_controllers() && nix::unistd::geteuid().is_root() {
        packages::install(&["busybox-static"])?;
        say("building");
        return here(&build::program("berth", false)?);
    }
    say("this host lacks root, or cgroup v2 with cpu, memory and pids: using a virtual machine");
    packages::install(packages::FOR_VM)?;
    say("building");
    in_machine(&build::program("berth", false)?)
}

/// Whether the unified hierarchy has what limits need.
fn has_controllers() -> bool {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["cpu", "memory", "pids"]
        .iter()
        .all(|name| text.split_whitespace().any(|word| word == *name))
}

fn here(berth: &Path) -> anyhow::Result<bool> {
    let folder = crate::cache()?.join("demo");
    let path = format!(
        "{}:{}",
        berth.parent().unwrap_or(Path::new(".")).display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let status = Command::new("sh")
        .arg(workspace().join("integration/demo/demo.sh"))
        .arg(image::busybox()?)
        .arg(workspace().join("integration/demo/task.json"))
        .env("PATH", &path)
        .env("BERTH_ROOT", folder.join("root"))
        .env("BERTH_RUN", "/run/berth-demo")
        .status()?;
    Ok(status.success())
}

fn in_machine(berth: &Path) -> anyhow::Result<bool> {
    let kernel = vm::kernel()?;
    let payload = Payload::new("demo", &kernel)?;
    vm::add_init(&payload)?;
    payload.program(berth, "bin/berth")?;
    payload.file(&image::busybox()?, "rootfs.tar")?;
    let demo = workspace().join("integration/demo");
    payload.file(&demo.join("demo.sh"), "demo.sh")?;
    payload.file(&demo.join("task.json"), "task.json")?;
    // In the file system of its disk, since what is in memory has no id-mapped mounts before Linux 6.3.
    let start = "BERTH_ROOT=/disk/berth sh /demo.sh /rootfs.tar /task.json\n";
    payload.script("start", start)?;
    let payload = payload.pack()?;
    say("booting");
    let vm = Vm::boot(&Boot {
        payload: &payload,
        forward: None,
        system: None,
    })?;
    Ok(vm.finish(Duration::from_secs(300), |line| println!("{line}"))? == 0)
}
