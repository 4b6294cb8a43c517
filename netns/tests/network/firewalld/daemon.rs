//! The real firewalld, and a bus of its own, in the test's network and mount namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the tests need beside `nft`.
pub fn is_installed() -> bool {
    ["firewalld", "firewall-cmd", "dbus-daemon"]
        .iter()
        .all(|program| {
            let paths = ["/usr/sbin", "/usr/bin"];
            paths
                .iter()
                .any(|path| PathBuf::from(path).join(program).exists())
        })
}

/// How long something that must happen may take; an emulated processor takes its time for a program in Python.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub fn firewall_cmd(arguments: &[&str]) -> Output {
    let output = Command::new("firewall-cmd").args(arguments).output();
    output.expect("it runs")
}

/// What firewalld answers.
pub fn ask(arguments: &[&str]) -> String {
    let output = firewall_cmd(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "firewall-cmd {arguments:?}: {said}"
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn end(child: &mut Child) {
    // One that a test has stopped goes on, to its end.
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
    }
    child.wait().expect("ended");
}

/// A bus, and a folder for firewalld's configuration that is empty: what it has then is what it comes with.
pub struct Bus {
    daemon: Child,
}

impl Bus {
    pub fn start() -> Self {
        let none = None::<&str>;
        for at in ["/run", "/var/log", "/etc/firewalld"] {
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), none).expect("mounted");
        }
        fs::create_dir("/run/dbus").expect("made");
        let daemon = start("dbus-daemon", &["--system", "--nofork", "--nopidfile"]);
        let socket = Path::new("/run/dbus/system_bus_socket");
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(Instant::now() < deadline, "there is no bus: {}", log());
            thread::sleep(Duration::from_millis(10));
        }
        Self { daemon }
    }

    /// Starts firewalld, and waits until it answers.
    pub fn firewalld(&self) -> Firewalld {
        fs::create_dir_all("/run/firewalld").expect("made");
        let daemon = start("firewalld", &["--nofork", "--nopid"]);
        let firewalld = Firewalld { daemon };
        let deadline = Instant::now() + PATIENCE;
        while !firewall_cmd(&["--state"]).status.success() {
            assert!(Instant::now() < deadline, "no firewalld: {}", log());
            thread::sleep(Duration::from_millis(50));
        }
        firewalld
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        end(&mut self.daemon);
    }
}

pub struct Firewalld {
    daemon: Child,
}

impl Firewalld {
    pub fn tell(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon.id().cast_signed()), signal).expect("it runs");
    }
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        end(&mut self.daemon);
    }
}

fn start(program: &str, arguments: &[&str]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(LOG)
        .expect("made");
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a copy"))
        .stderr(log)
        .spawn()
        .expect("it runs")
}

pub const LOG: &str = "/run/log-of-test";

pub fn log() -> String {
    fs::read_to_string(LOG).unwrap_or_default()
}
