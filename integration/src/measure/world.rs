//! A place where all contestants see the same: a mount and a network namespace of their own, with
//! the unified cgroup hierarchy, an empty `/run`, and one disk.
//!
//! They belong to the thread that makes them, and vanish with it: what Docker, Podman and we do to
//! mounts, links and firewalls is never seen by the host.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the disk is seen: a short path, since a unix socket's address holds 108 bytes.
pub const DISK: &str = "/mnt";

/// Does something in that place, with this folder as the disk.
pub fn within<T: Send>(
    disk: &Path,
    act: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let act = || {
        enter(disk)?;
        act()
    };
    // The threads of a process may be in different namespaces: the rig's first one stays outside.
    std::thread::scope(|scope| match scope.spawn(act).join() {
        Ok(result) => result,
        Err(_) => bail!("the benchmark broke off"),
    })
}

fn enter(disk: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("making namespaces: the benchmark needs root")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    mount(Some(disk), DISK, none, MsFlags::MS_BIND, none).context("mounting the disk")?;
    let cgroups = "/sys/fs/cgroup";
    mount(
        Some("cgroup2"),
        cgroups,
        Some("cgroup2"),
        MsFlags::empty(),
        none,
    )
    .context("mounting cgroup2")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("covering /run")?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    ensure!(status.success(), "ip link set lo up: {status}");
    Ok(())
}

/// The path of the Docker daemon's socket.
pub const DOCKER: &str = "/run/docker.sock";

/// A Docker daemon of ours, ended with this value.
pub struct Dockerd(Child);

impl Dockerd {
    /// Starts it, and waits until it answers.
    pub fn start() -> anyhow::Result<Self> {
        let log = std::fs::File::create(format!("{DISK}/dockerd.log"))?;
        let child = Command::new("dockerd")
            .args(["--data-root", &format!("{DISK}/docker")])
            .args(["--exec-root", "/run/docker"])
            .args(["--pidfile", "/run/docker.pid"])
            .args(["--host", &format!("unix://{DOCKER}")])
            .args(["--config-file", &config()?])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting dockerd (package docker.io)")?;
        let daemon = Self(child);
        let end = Instant::now() + Duration::from_secs(60);
        while !answers() {
            ensure!(
                Instant::now() < end,
                "dockerd doesn't come up: {}",
                std::fs::read_to_string(format!("{DISK}/dockerd.log"))?
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }
}

/// An empty configuration: the host's is for the host's daemon.
fn config() -> anyhow::Result<String> {
    let path = "/run/docker.json";
    std::fs::write(path, "{}")?;
    Ok(path.to_owned())
}

fn answers() -> bool {
    let asked = docker()
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// The command of the daemon's client.
pub fn docker() -> Command {
    let mut docker = Command::new("docker");
    docker
        .args(["--config", "/run/docker-client", "--host"])
        .arg(format!("unix://{DOCKER}"));
    docker
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Asked to end, so that it ends its own containerd and mounts; it may have died already.
        if let Ok(id) = i32::try_from(self.0.id()) {
            kill(Pid::from_raw(id), Signal::SIGTERM).ok();
        }
        self.0.wait().ok();
        // The hierarchy is the host's own: what the others leave in it goes, as far as it is empty.
        for name in ["docker", "libpod_parent"] {
            remove_empty(&Path::new("/sys/fs/cgroup").join(name));
        }
    }
}

/// Removes a cgroup with those below it; one that has processes stays.
fn remove_empty(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    std::fs::remove_dir(cgroup).ok();
}
