//! A place where all contestants see the same: a mount and a network namespace of their own, with
//! the unified cgroup hierarchy, an empty `/run`, and one disk.
//!
//! Programs of another Debian run there too, with that one's files as the root of all.
//!
//! They belong to the thread that makes them, and vanish with it: what Docker, Podman and we do to
//! mounts, links and firewalls is never seen by the host.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chdir, pivot_root};

/// Where the disk is seen: a short path, since a unix socket's address holds 108 bytes.
pub const DISK: &str = "/mnt";

/// Does something in that place, with this folder as the disk.
pub fn within<T: Send>(
    disk: &Path,
    act: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    apart(|| {
        leave_host()?;
        furnish(disk, Path::new("/"))?;
        act()
    })
}

/// The same with another system's files, which stay as they are.
pub fn within_root<T: Send>(
    root: &Path,
    disk: &Path,
    act: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    apart(|| {
        leave_host()?;
        mount(Some(root), root, NONE, MsFlags::MS_BIND, NONE).context("mounting the root")?;
        for folder in ["dev", "proc", "sys"] {
            let (from, to) = (Path::new("/").join(folder), root.join(folder));
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(&from), &to, NONE, flags, NONE)
                .with_context(|| format!("mounting {}", to.display()))?;
        }
        furnish(disk, root)?;
        chdir(root)?;
        pivot_root(".", ".").context("pivot_root")?;
        umount2(".", MntFlags::MNT_DETACH).context("leaving the host's root")?;
        chdir("/")?;
        act()
    })
}

const NONE: Option<&str> = None;

/// The threads of a process may be in different namespaces: the rig's first one stays outside.
fn apart<T: Send>(act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| match scope.spawn(act).join() {
        Ok(result) => result,
        Err(_) => bail!("the benchmark broke off"),
    })
}

fn leave_host() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("making namespaces: the benchmark needs root")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(NONE, "/", NONE, private, NONE)?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    ensure!(status.success(), "ip link set lo up: {status}");
    Ok(())
}

/// The disk, the unified hierarchy and an empty `/run`, below this root.
fn furnish(disk: &Path, root: &Path) -> anyhow::Result<()> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    mount(Some(disk), &at(DISK), NONE, MsFlags::MS_BIND, NONE).context("mounting the disk")?;
    for (kind, path) in [("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run")] {
        mount(Some(kind), &at(path), Some(kind), MsFlags::empty(), NONE)
            .with_context(|| format!("mounting {kind} on {path}"))?;
    }
    Ok(())
}

/// Podman on the disk of all, with this runtime.
pub fn podman(runtime: &Path) -> anyhow::Result<Command> {
    let config = "/run/containers.conf";
    std::fs::write(config, "[network]\nnetwork_backend = \"netavark\"\n")?;
    let mut command = Command::new("podman");
    command
        .env("CONTAINERS_CONF", config)
        .args(["--root", &format!("{DISK}/podman")])
        .args(["--runroot", "/run/podman", "--tmpdir", "/run/libpod"])
        .args(["--network-config-dir", "/run/networks"])
        .args(["--storage-driver", "overlay"])
        .args(["--cgroup-manager", "cgroupfs"])
        .args(["--events-backend", "file", "--runtime"])
        .arg(runtime);
    Ok(command)
}

/// Podman's limits: without CAP_SYS_RESOURCE, root can't raise these above its own.
pub const ULIMITS: [&str; 4] = [
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1000:1000",
];

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
pub fn remove_empty(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    std::fs::remove_dir(cgroup).ok();
}
