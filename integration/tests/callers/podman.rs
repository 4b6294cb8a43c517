//! Podman on the runtime: `--runtime`, one image, no daemon.

mod checkpoint;
mod confinement;
mod life;
mod limits;
mod mounts;
mod pods;
mod run;

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Case;
use crate::place::{self, CGROUPS, DATA, SLICE};
use crate::ran::{Ran, bounded, until};

/// The tests, by what a user does.
pub const CASES: [&[Case<Podman>]; 7] = [
    run::CASES,
    life::CASES,
    mounts::CASES,
    confinement::CASES,
    limits::CASES,
    pods::CASES,
    checkpoint::CASES,
];

/// With systemd the log would go through journald, and what that doesn't take is printed nowhere.
const CONFIG: &str = "[network]\nnetwork_backend = \"netavark\"\n\
    [containers]\nlog_driver = \"k8s-file\"\n";

/// Without CAP_SYS_RESOURCE, root can't raise limits above its own.
const LIMITS: &str = "default_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";

/// Podman with the tests' image.
pub struct Podman;

/// The one that all tests use.
pub fn engine() -> &'static Podman {
    static ENGINE: OnceLock<Podman> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut config = CONFIG.to_owned();
        if !place::in_machine() {
            config.push_str(LIMITS);
        }
        std::fs::write(format!("{DATA}/containers.conf"), config).unwrap();
        let archive = place::archive();
        Podman
            .does(&["import", "-q", archive.to_str().unwrap(), "box"])
            .ok();
        Podman
    })
}

/// Takes its storage's own mount away, which Podman leaves after it has saved a container.
pub fn end() {
    let storage = format!("{DATA}/podman/overlay");
    nix::mount::umount2(storage.as_str(), nix::mount::MntFlags::MNT_DETACH).ok();
}

impl Podman {
    /// A command of it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = bounded("podman");
        command
            .env("CONTAINERS_CONF", format!("{DATA}/containers.conf"))
            .args(["--root", &format!("{DATA}/podman")])
            .args(["--runroot", &format!("{DATA}/podman-run")])
            .args(["--tmpdir", &format!("{DATA}/podman-tmp")])
            .args(["--volumepath", &format!("{DATA}/podman-volumes")])
            .args(["--network-config-dir", &format!("{DATA}/podman-networks")])
            .args(["--storage-driver", "overlay"])
            .args(["--cgroup-manager", place::cgroup_driver()])
            .args(["--events-backend", "file", "--runtime"])
            .arg(place::runtime())
            .args(words);
        command
    }

    /// Runs a command of it.
    pub fn does(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(words))
    }

    /// `podman run` or `create` of the image: options, then the container's command.
    pub fn words<'a>(&self, verb: &'a str, options: &[&'a str], args: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec![verb, "--cgroup-parent", cgroup_parent()];
        if !options.contains(&"--network") {
            words.extend(["--network", "none"]);
        }
        // Without the controllers nothing can be limited, and Podman limits the processes by default.
        if !place::has_controllers() {
            words.extend(["--pids-limit", "0"]);
        }
        words.extend(options);
        words.push("localhost/box");
        words.extend(args);
        words
    }

    /// Runs a container to its end. What it printed is read from its log: on a busy machine conmon has been
    /// seen to hand on nothing of it.
    pub fn run(&self, options: &[&str], args: &[&str]) -> Ran {
        let log = new_log(DATA);
        let path = format!("path={log}");
        let options = [&["--rm", "--log-opt", &path], options].concat();
        let mut ran = self.does(&self.words("run", &options, args));
        take_log(&log, &mut ran);
        ran
    }

    /// Starts a container that goes on.
    pub fn start(&self, name: &str, options: &[&str], args: &[&str]) -> Running<'_> {
        let options = [&["--detach", "--name", name], options].concat();
        self.does(&self.words("run", &options, args)).ok();
        Running {
            podman: self,
            name: name.to_owned(),
        }
    }
}

/// Where a container's log is to be.
pub fn new_log(folder: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{folder}/podman-run-{number}.log")
}

/// Reads from a container's log what it printed, and removes it.
pub fn take_log(log: &str, ran: &mut Ran) {
    let Ok(lines) = std::fs::read_to_string(log) else {
        return;
    };
    ran.stdout = printed(&lines, "stdout");
    // Podman's own words are there, too.
    let errors = printed(&lines, "stderr");
    if !ran.stderr.contains(&errors) {
        ran.stderr.push_str(&errors);
    }
    std::fs::remove_file(log).unwrap();
}

/// What a container's log has of a stream. Each line is a time, the stream, `F` or, where it has no end, `P`, and
/// the text.
fn printed(log: &str, stream: &str) -> String {
    let parts = log.lines().map(|line| line.splitn(4, ' '));
    let of_stream = parts.filter_map(|mut part| {
        part.nth(1).filter(|name| *name == stream)?;
        Some((part.next()?, part.next()?))
    });
    let lines = of_stream.map(|(end, text)| match end {
        "F" => format!("{text}\n"),
        _ => text.to_owned(),
    });
    lines.collect()
}

/// The parent of the containers' cgroups.
fn cgroup_parent() -> &'static str {
    match place::cgroup_driver() {
        "systemd" => SLICE,
        _ => CGROUPS,
    }
}

/// A container, removed with this value.
pub struct Running<'a> {
    pub podman: &'a Podman,
    pub name: String,
}

impl Running<'_> {
    pub fn exec(&self, options: &[&str], args: &[&str]) -> Ran {
        let words = [&["exec"], options, &[&self.name], args].concat();
        self.podman.does(&words)
    }

    /// A part of what `podman inspect` tells.
    pub fn inspect(&self, template: &str) -> String {
        let words = ["inspect", "--format", template, &self.name];
        self.podman.does(&words).ok().to_owned()
    }

    pub fn logs(&self) -> String {
        let ran = self.podman.does(&["logs", &self.name]);
        ran.ok().to_owned()
    }

    pub fn until_status(&self, status: &str) {
        until(&format!("{} is {status}", self.name), || {
            self.inspect("{{.State.Status}}") == status
        });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // If this fails, the checker finds what is left.
        self.podman
            .does(&["rm", "--force", "--time", "1", &self.name]);
    }
}
