//! The virtual machine: Debian's own cloud kernel, every cgroup v2 controller, and a root
//! filesystem of ours in memory.
//!
//! The initramfs holds busybox and the modules of the disk; it unpacks the payload from that disk
//! into a tmpfs and makes it the root, since the initramfs itself can't be pivoted away from. What
//! runs there is `/start`, on the console; its exit code comes out as a line. An empty disk is at
//! `/disk`, and forgotten afterwards.
//!
//! Or the root is a whole system's disk ([`crate::system`]), which gets the payload's files on top
//! and forgets them afterwards.

mod initramfs;
mod kernel;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use initramfs::initramfs;
pub use kernel::kernel;

/// The line by which the machine says that it is up.
const UP: &str = "RIG-UP";

/// The line by which `/start` says that it is over, before its exit code.
const EXIT: &str = "RIG-EXIT ";

/// How long a machine under KVM may take to come up before it is given up. A stock kernel hangs
/// under some nested hypervisors though /dev/kvm is there.
const KVM_PATIENCE: Duration = Duration::from_secs(20);

/// How long an emulated machine may take to come up.
const TCG_PATIENCE: Duration = Duration::from_secs(480);

/// The first process of the real root: makes the system that `/start` expects.
const SECOND_INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/bin:/sbin HOME=/root
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
for module in overlay bridge veth nf_tables; do modprobe $module; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
hostname rig
echo RIG-UP
/bin/sh /start < /dev/console
echo "RIG-EXIT $?"
sync
poweroff -f
"#;

/// A machine that is up.
pub struct Vm {
    qemu: Child,
    lines: Receiver<String>,
    console: ChildStdin,
}

/// What to boot.
pub struct Boot<'a> {
    /// From [`super::payload::Payload::pack`].
    pub payload: &'a Path,
    /// A TCP port of this host's loopback that leads to a port of the machine.
    pub forward: Option<(u16, u16)>,
    /// A disk with a whole system, instead of a root filesystem in memory and an empty disk. It stays as it is.
    pub system: Option<&'a Path>,
}

impl Vm {
    /// Boots, with KVM where that works, else emulated. `BERTH_RIG_ACCEL` decides without trying.
    pub fn boot(boot: &Boot<'_>) -> anyhow::Result<Self> {
        let memory = crate::cache()?.join("accelerator");
        let told = std::env::var("BERTH_RIG_ACCEL")
            .ok()
            .or_else(|| fs::read_to_string(&memory).ok());
        let choices: &[&str] = match told.as_deref() {
            Some("kvm") => &["kvm"],
            Some(_) => &["tcg"],
            None if Path::new("/dev/kvm").exists() => &["kvm", "tcg"],
            None => &["tcg"],
        };
        for accelerator in choices {
            let patience = if *accelerator == "kvm" {
                KVM_PATIENCE
            } else {
                TCG_PATIENCE
            };
            match Self::try_boot(boot, accelerator, patience) {
                Ok(vm) => {
                    remember(&memory, accelerator)?;
                    return Ok(vm);
                }
                Err(error) => crate::say(&format!(
                    "the virtual machine did not come up with {accelerator}: {error:#}"
                )),
            }
        }
        bail!("the virtual machine does not come up")
    }

    fn try_boot(boot: &Boot<'_>, accelerator: &str, patience: Duration) -> anyhow::Result<Self> {
        let kernel = kernel()?;
        let initramfs = initramfs(&kernel)?;
        let cpu = if accelerator == "kvm" { "host" } else { "max" };
        let mut net = "user,id=net0".to_owned();
        if let Some((host, guest)) = boot.forward {
            net.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-10.0.2.15:{guest}"));
        }
        let accel = if accelerator == "tcg" {
            "tcg,thread=multi"
        } else {
            accelerator
        };
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            accel,
            "-cpu",
            cpu,
            "-smp",
            "2",
            "-m",
            "3072",
            "-nodefaults",
            "-no-reboot",
        ])
        .args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-device",
            "virtio-rng-pci",
        ])
        .args([
            "-netdev",
            &net,
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
        ])
        .arg("-kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(initramfs)
        .args([
            "-append",
            "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/init random.trust_cpu=on systemd.show_status=0",
        ])
        .arg("-drive")
        .arg(format!(
            "file={},format=raw,if=none,id=payload,readonly=on",
            boot.payload.display()
        ))
        .args(["-device", "virtio-blk-pci,drive=payload,serial=payload"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
        let (disk, serial) = match boot.system {
            Some(disk) => (disk.to_owned(), "system"),
            None => (scratch()?, "scratch"),
        };
        qemu.arg("-drive")
            .arg(format!(
                "file={},format=raw,if=none,id=disk,snapshot=on",
                disk.display()
            ))
            .arg("-device")
            .arg(format!("virtio-blk-pci,drive=disk,serial={serial}"));
        let mut qemu = qemu.spawn().context("starting qemu-system-x86_64")?;
        let (Some(stdout), Some(console)) = (qemu.stdout.take(), qemu.stdin.take()) else {
            bail!("qemu has no console");
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line)
                    .trim_end_matches('\r')
                    .to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut vm = Self {
            qemu,
            lines,
            console,
        };
        let mut seen = Vec::new();
        let up = vm.until(patience, |line| {
            seen.push(line.to_owned());
            (line == UP).then_some(())
        });
        up.with_context(|| format!("its console said: {}", seen.join("\n")))?;
        Ok(vm)
    }

    /// Reads the console until `wanted` finds what it looks for.
    pub fn until<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + patience;
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no answer within {} s", patience.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the virtual machine ended"),
            }
        }
    }

    /// Reads the console until `/start` is over, and returns its exit code.
    pub fn finish(mut self, patience: Duration, mut each: impl FnMut(&str)) -> anyhow::Result<i32> {
        self.until(patience, |line| match line.strip_prefix(EXIT) {
            Some(code) => Some(code.trim().parse::<i32>().unwrap_or(255)),
            None => {
                each(line);
                None
            }
        })
    }

    /// Types a line on the console.
    pub fn type_line(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.console, "{line}")?)
    }
}

/// Another machine may be looking for it just now.
fn remember(memory: &Path, accelerator: &str) -> anyhow::Result<()> {
    let new = memory.with_extension(format!("{:?}", std::thread::current().id()));
    fs::write(&new, accelerator)?;
    Ok(fs::rename(new, memory)?)
}

/// An empty disk with a file system, for what the one in memory can't do on older kernels: id-mapped mounts.
fn scratch() -> anyhow::Result<PathBuf> {
    let path = crate::cache()?.join("scratch.ext4");
    if path.exists() {
        return Ok(path);
    }
    let new = path.with_extension("new");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal"])
        .arg(&new)
        .arg("2G")
        .output()
        .context("running mkfs.ext4 (package e2fsprogs)")?;
    if !made.status.success() {
        bail!("mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
    }
    fs::rename(new, &path)?;
    Ok(path)
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

/// Puts the machine's own first program into a payload.
pub fn add_init(payload: &super::payload::Payload) -> anyhow::Result<()> {
    payload.script("init", SECOND_INIT)
}
