//! Where the engines work: on a host a mount and a network namespace with the unified hierarchy, an
//! empty `/run` and one folder for all data; in the rig's machine its own system.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::{containerd, docker, podman, rootless};

/// Where engines keep their data. In memory on a host: nothing of it outlives the tests.
pub const DATA: &str = "/run/callers";

/// The parent of all containers' cgroups.
pub const CGROUPS: &str = "berth-callers";

/// The same where systemd makes them.
pub const SLICE: &str = "berthcallers.slice";

/// The place, entered.
pub struct Place;

impl Place {
    pub fn enter() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the callers' tests need root"
        );
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        if !in_machine() {
            enter_own_namespaces();
        }
        std::fs::create_dir_all(DATA).unwrap();
        unpack();
        Self
    }

    /// Ends the daemons and takes the data away.
    pub fn leave(self) {
        docker::end();
        containerd::end();
        rootless::end();
        podman::end();
        // Podman makes its own even where it is told of another.
        for name in [CGROUPS, "libpod_parent"] {
            remove_cgroups(&Path::new("/sys/fs/cgroup").join(name));
        }
        let left = std::fs::remove_dir_all(DATA);
        if in_machine() {
            left.unwrap();
        }
    }
}

pub fn in_machine() -> bool {
    std::env::var_os("BERTH_RIG_MACHINE").is_some()
}

/// How engines make cgroups: `cgroupfs` or `systemd`.
pub fn cgroup_driver() -> &'static str {
    match std::env::var("BERTH_RIG_CGROUP_DRIVER").as_deref() {
        Ok("systemd") => "systemd",
        _ => "cgroupfs",
    }
}

/// The runtime under test.
pub fn runtime() -> PathBuf {
    let path = std::env::var_os("BERTH_RUNTIME");
    path.expect("BERTH_RUNTIME names the program under test: run `cargo verify`")
        .into()
}

/// The small image's archive.
pub fn archive() -> PathBuf {
    let path = std::env::var_os("BERTH_ROOTFS");
    path.expect("BERTH_ROOTFS names the image's archive: run `cargo verify`")
        .into()
}

/// The same, unpacked.
pub fn rootfs() -> String {
    format!("{DATA}/rootfs")
}

fn unpack() {
    std::fs::create_dir_all(rootfs()).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("-f").arg(archive());
    assert!(tar.args(["-C", &rootfs()]).status().unwrap().success());
}

fn enter_own_namespaces() {
    // The calls are for this thread only: libtest-mimic's come after it.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(none, "/", none, flags, none).unwrap();
    for (kind, path) in [("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run")] {
        mount(Some(kind), path, Some(kind), MsFlags::empty(), none).unwrap();
    }
    let mut up = Command::new("ip");
    up.args(["link", "set", "lo", "up"]);
    assert!(up.status().unwrap().success());
}

pub fn has_controllers() -> bool {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["cpu", "memory", "pids"]
        .iter()
        .all(|name| text.split_whitespace().any(|word| word == *name))
}

pub fn has_all_capabilities() -> bool {
    let number = |file: &str, name: &str, radix| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap_or_default().trim(), radix).unwrap_or(0)
    };
    let last = number("/proc/sys/kernel/cap_last_cap", "", 10);
    number("/proc/self/status", "CapBnd:", 16) == (2 << last) - 1
}

pub fn has_apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.trim() == "Y") && Path::new("/sbin/apparmor_parser").exists()
}

pub fn has_criu() -> bool {
    let checked = Command::new("criu").arg("check").output();
    checked.is_ok_and(|output| output.status.success())
}

/// The weights that version 1's shares become: runtimes changed the formula in 2025, so that the
/// default of one is that of the other.
pub fn weights(shares: u32) -> &'static [&'static str] {
    match shares {
        512 => &["20", "59"],
        1024 => &["39", "100"],
        _ => &[],
    }
}

/// Removes empty cgroups; one that has processes stays, and is seen by the next checker.
pub fn remove_cgroups(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    std::fs::remove_dir(folder).ok();
}
