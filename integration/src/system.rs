//! The second machine's disk: a whole Debian 12 with systemd and the engines that call the runtime.
//! Made once by debootstrap; each boot gets a fresh view of it, with the payload's files on top.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::payload::Payload;

/// The disk's name. Counts up when something else is on it.
const DISK: &str = "debian-12-3.ext4";

const PACKAGES: [&str; 24] = [
    "apparmor",
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "containerd",
    "containernetworking-plugins",
    "criu",
    "crun",
    "dbus",
    "dbus-user-session",
    "docker-compose",
    "docker.io",
    "iproute2",
    "iptables",
    "kmod",
    "libpam-systemd",
    "netavark",
    "nftables",
    "podman",
    "procps",
    "runc",
    "systemd-sysv",
    "udev",
    "uidmap",
];

/// Units that would only take time: the tests start daemons of their own, and nobody logs in.
const UNITS: [&str; 16] = [
    "apparmor.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "containerd.service",
    "docker.service",
    "docker.socket",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "podman-auto-update.timer",
    "podman-restart.service",
    "podman.socket",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
];

/// Runs the payload's `/start` on the console, as the small machine does.
const UNIT: &str = "[Unit]
Description=What the rig has the machine do
After=basic.target dbus.service
[Service]
Type=oneshot
Environment=HOME=/root
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh /rig/console
";

/// CRIU's settings for containers, where the runtime has it look: the ten seconds that it gives processes to stop are
/// too few for a busy emulated machine.
const CRIU: &str = "timeout 300\n";

const CONSOLE: &str = "
for module in overlay bridge veth nf_tables; do modprobe $module; done
echo RIG-UP
/bin/sh /rig/start
echo \"RIG-EXIT $?\"
sync
systemctl poweroff --force --force
";

/// The disk.
pub fn disk() -> anyhow::Result<PathBuf> {
    let disk = crate::cache()?.join(DISK);
    if disk.exists() {
        return Ok(disk);
    }
    crate::say("making a Debian 12 with the engines");
    let folder = crate::cache()?.join("debian-12");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    crate::packages::system("bookworm", &folder, &PACKAGES)?;
    settle(&folder)?;
    let new = disk.with_extension("new");
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .args([&folder, &new])
        .arg("4G")
        .output()
        .context("running mkfs.ext4 (package e2fsprogs)")?;
    if !output.status.success() {
        bail!("mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::rename(new, &disk)?;
    fs::remove_dir_all(folder)?;
    Ok(disk)
}

/// The few files that make an installation a machine.
fn settle(root: &Path) -> anyhow::Result<()> {
    fs::write(root.join("etc/hostname"), "rig\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost rig\n")?;
    // One that is empty makes the first boot, which each is, turn on every unit.
    let id = "0123456789abcdef0123456789abcdef\n";
    fs::write(root.join("etc/machine-id"), id)?;
    for unit in UNITS {
        let link = root.join("etc/systemd/system").join(unit);
        if link.is_symlink() || link.exists() {
            fs::remove_file(&link)?;
        }
        symlink("/dev/null", link)?;
    }
    let archives = root.join("var/cache/apt/archives");
    for entry in fs::read_dir(archives)?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "deb") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What makes a booted system do the payload's `rig/start`, at a busy machine's pace.
pub fn add_unit(payload: &Payload) -> anyhow::Result<()> {
    payload.script("rig/console", CONSOLE)?;
    payload.script("etc/systemd/system/rig.service", UNIT)?;
    payload.script("etc/criu/runc.conf", CRIU)?;
    payload.link(
        "/etc/systemd/system/rig.service",
        "etc/systemd/system/multi-user.target.wants/rig.service",
    )
}
