//! The machine that the tests run on, made ready for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// How long something that must happen may take: an emulated processor may be busy elsewhere.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What the tests may need and a machine may lack: cgroup v2 controllers by their names, `systemd`,
/// `apparmor`, `criu`, `newuidmap`, `CAP_SYS_RESOURCE`, `user 54321` for a user of that number.
pub(crate) struct Machine {
    has: Vec<String>,
}

impl Machine {
    /// Enters a mount namespace with the unified hierarchy, and adopts orphans from here on.
    pub(crate) fn enter() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make containers: run them as root"
        );
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("make / private");
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            mount(
                Some("cgroup2"),
                "/sys/fs/cgroup",
                Some("cgroup2"),
                MsFlags::empty(),
                none,
            )
            .expect("mount cgroup2");
        }
        nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        let mut has: Vec<String> = controllers.split_whitespace().map(str::to_owned).collect();
        // As sd_booted(3) has it.
        if Path::new("/run/systemd/system").is_dir() {
            has.push("systemd".into());
        }
        if has_apparmor() {
            has.push("apparmor".into());
        }
        if has_criu() {
            has.push("criu".into());
        }
        if Path::new("/usr/bin/newuidmap").exists() {
            has.push("newuidmap".into());
        }
        // Of the capabilities in effect, that of number 24.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        if effective.is_some_and(|set| set & 1 << 24 != 0) {
            has.push("CAP_SYS_RESOURCE".into());
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        if users.contains(":54321:") {
            has.push("user 54321".into());
        }
        Self { has }
    }

    pub(crate) fn missing(&self, needed: &[&str]) -> Vec<String> {
        let needed = needed.iter().map(|name| (*name).to_owned());
        needed.filter(|name| !self.has.contains(name)).collect()
    }
}

/// Whether CRIU is there and says that it can work on this kernel.
fn has_criu() -> bool {
    let checked = Command::new("criu").arg("check").output();
    checked.is_ok_and(|output| output.status.success())
}

/// For conditions of another process that tells nobody when they come true.
#[track_caller]
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A number that must have stopped growing, and what it is. What a process did last before it stood still may be
/// counted a little later.
#[track_caller]
pub(crate) fn stands_still(number: impl Fn() -> u64) -> u64 {
    let a_while = Duration::from_millis(50);
    wait_until(|| {
        let before = number();
        std::thread::sleep(a_while);
        number() == before
    });
    let last = number();
    std::thread::sleep(a_while);
    assert_eq!(number(), last, "it goes on");
    last
}

fn has_apparmor() -> bool {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.trim() == "Y") && Path::new("/sbin/apparmor_parser").exists()
}

/// Whether this machine can limit memory, as the limits' tests need it.
pub(crate) fn has_controller(name: &str) -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    controllers
        .split_whitespace()
        .any(|controller| controller == name)
}

pub(crate) fn runtime() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_berth-runtime").into();
    std::env::var_os("BERTH_RUNTIME").map_or_else(built, PathBuf::from)
}

pub(crate) fn busybox() -> PathBuf {
    let path =
        std::env::var_os("BERTH_BUSYBOX").map_or_else(|| "/bin/busybox".into(), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: apt-get install busybox-static",
        path.display()
    );
    path
}
