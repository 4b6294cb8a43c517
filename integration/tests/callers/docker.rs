//! Docker on the runtime: a daemon of the tests' own with `--add-runtime`, and its client.

mod compose;
mod life;
mod limits;
mod run;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Case;
use crate::place::{self, CGROUPS, DATA, SLICE};
use crate::ran::{Ran, bounded, printing, until};

/// The tests, by what a user does.
pub const CASES: [&[Case<Docker>]; 4] = [run::CASES, life::CASES, limits::CASES, compose::CASES];

/// The daemon's socket.
const SOCKET: &str = "unix:///run/callers/docker.sock";

static DAEMON: Mutex<Option<Child>> = Mutex::new(None);

/// A client of the daemon, which has the tests' image.
pub struct Docker;

/// The one that all tests use; the first of them starts the daemon.
pub fn engine() -> &'static Docker {
    static ENGINE: OnceLock<Docker> = OnceLock::new();
    ENGINE.get_or_init(|| {
        *DAEMON.lock().unwrap() = Some(start());
        until("dockerd answers", || Docker.does(&["version"]).code == 0);
        let archive = place::archive();
        Docker
            .does(&["import", archive.to_str().unwrap(), "box"])
            .ok();
        Docker
    })
}

fn start() -> Child {
    let config = format!("{DATA}/daemon.json");
    std::fs::write(&config, "{}").unwrap();
    let log = std::fs::File::create(format!("{DATA}/dockerd.log")).unwrap();
    let mut dockerd = Command::new("dockerd");
    dockerd
        .args(["--config-file", &config, "--host", SOCKET])
        .args(["--data-root", &format!("{DATA}/docker")])
        .args(["--exec-root", &format!("{DATA}/docker-run")])
        .args(["--pidfile", &format!("{DATA}/docker.pid")])
        .arg("--add-runtime")
        .arg(format!("berth={}", place::runtime().display()))
        .args(["--default-runtime", "berth"])
        .args(["--cgroup-parent", cgroup_parent()])
        .arg("--exec-opt")
        .arg(format!("native.cgroupdriver={}", place::cgroup_driver()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    dockerd.spawn().expect("dockerd, of Debian's docker.io")
}

fn cgroup_parent() -> &'static str {
    match place::cgroup_driver() {
        "systemd" => SLICE,
        _ => CGROUPS,
    }
}

/// Ends the daemon, if one was started.
pub fn end() {
    let Some(mut daemon) = DAEMON.lock().unwrap().take() else {
        return;
    };
    kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).ok();
    daemon.wait().unwrap();
    // It leaves its folder's mount of the network namespaces.
    let mounts = Path::new(DATA).join("docker-run/netns");
    nix::mount::umount2(&mounts, nix::mount::MntFlags::MNT_DETACH).ok();
}

impl Docker {
    /// A command of the client.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = bounded("docker");
        command
            .args(["--config", &format!("{DATA}/docker-client")])
            .args(["--host", SOCKET])
            .args(words);
        command
    }

    /// Runs a command of the client.
    pub fn does(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(words))
    }

    /// `docker run` of the image, to its end.
    pub fn run(&self, options: &[&str], args: &[&str]) -> Ran {
        let words = [&["run", "--rm"], options, &["box"], args].concat();
        self.does(&words)
    }

    /// The same of what prints something.
    pub fn prints(&self, options: &[&str], args: &[&str]) -> Ran {
        printing(|| self.run(options, args))
    }

    /// Starts a container that goes on.
    pub fn start(&self, name: &str, options: &[&str], args: &[&str]) -> Running<'_> {
        let words = ["run", "--detach", "--name", name];
        let words = [&words, options, &["box"], args].concat();
        self.does(&words).ok();
        Running {
            docker: self,
            name: name.to_owned(),
        }
    }
}

/// A container, removed with this value.
pub struct Running<'a> {
    pub docker: &'a Docker,
    pub name: String,
}

impl Running<'_> {
    pub fn exec(&self, options: &[&str], args: &[&str]) -> Ran {
        let words = [&["exec"], options, &[&self.name], args].concat();
        self.docker.does(&words)
    }

    /// A part of what `docker inspect` tells.
    pub fn inspect(&self, template: &str) -> String {
        let words = ["inspect", "--format", template, &self.name];
        self.docker.does(&words).ok().to_owned()
    }

    pub fn logs(&self) -> String {
        let ran = self.docker.does(&["logs", &self.name]);
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
        self.docker.does(&["rm", "--force", &self.name]);
    }
}
