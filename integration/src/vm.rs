//! The virtual machine: Debian's own cloud kernel, every cgroup v2 controller, and a root
//! filesystem of ours in memory.
//!
//! The kernel's package is unpacked, not installed. The initramfs holds busybox and the modules
//! of the disk; it unpacks the payload from that disk into a tmpfs and makes it the root, since
//! the initramfs itself can't be pivoted away from. What runs there is `/start`, on the console;
//! its exit code comes out as a line.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The line by which the machine says that it is up.
const UP: &str = "RIG-UP";

/// The line by which `/start` says that it is over, before its exit code.
const EXIT: &str = "RIG-EXIT ";

/// How long a machine under KVM may take to come up before it is given up. A stock kernel hangs
/// under some nested hypervisors though /dev/kvm is there.
const KVM_PATIENCE: Duration = Duration::from_secs(20);

/// How long an emulated machine may take to come up.
const TCG_PATIENCE: Duration = Duration::from_secs(240);

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk virtio_net; do /bin/busybox modprobe $module; done
/bin/busybox mount -t tmpfs -o size=85%,mode=755 tmpfs /new
/bin/busybox tar -x -C /new -f /dev/vda
for folder in proc sys dev; do /bin/busybox mount --move /$folder /new/$folder; done
exec /bin/busybox switch_root /new /bin/sh /init
"#;

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

/// A Debian kernel, unpacked.
pub fn kernel() -> anyhow::Result<PathBuf> {
    let folder = crate::cache()?.join("kernel");
    if folder.join("ready").exists() {
        return Ok(folder);
    }
    crate::say("fetching Debian's cloud kernel");
    crate::packages::apt(&["update", "-q"])?;
    let download = crate::cache()?.join("download");
    fs::create_dir_all(&download)?;
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let package = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.context("apt knows no package linux-image-cloud-amd64")?;
    let status = Command::new("apt-get")
        .args(["download", "-q", package])
        .current_dir(&download)
        .status()?;
    if !status.success() {
        bail!("apt-get download {package}: {status}");
    }
    let mut debs = fs::read_dir(&download)?.flatten().map(|entry| entry.path());
    let deb = debs
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt-get downloaded nothing")?;
    unpack_kernel(&deb, &folder)?;
    fs::remove_dir_all(&download)?;
    fs::write(folder.join("ready"), package)?;
    Ok(folder)
}

/// Keeps of the package what the tests need: the kernel, and the modules of networks and file
/// systems.
fn unpack_kernel(deb: &Path, folder: &Path) -> anyhow::Result<()> {
    let whole = folder.with_extension("whole");
    for path in [folder, &whole] {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path)?;
    }
    run(Command::new("dpkg").arg("-x").arg(deb).arg(&whole))?;
    let named = |path: &Path, start: &str| -> anyhow::Result<PathBuf> {
        let mut entries = fs::read_dir(path)?.flatten();
        let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(start));
        Ok(found
            .with_context(|| format!("{} has no {start}*", path.display()))?
            .path())
    };
    fs::copy(
        named(&whole.join("boot"), "vmlinuz")?,
        folder.join("vmlinuz"),
    )?;
    let modules = named(&whole.join("lib/modules"), "")?;
    let release = modules.file_name().unwrap_or_default().to_owned();
    let to = folder.join("lib/modules").join(&release);
    for part in [
        "net",
        "drivers/net",
        "drivers/block",
        "drivers/virtio",
        "fs/overlayfs",
        "lib",
        "crypto",
        "arch",
    ] {
        let from = modules.join("kernel").join(part);
        if from.exists() {
            let parent = to.join("kernel").join(part);
            fs::create_dir_all(parent.parent().context("a module's folder")?)?;
            run(Command::new("cp").arg("-a").arg(&from).arg(parent))?;
        }
    }
    for drivers in ["ethernet", "wireless", "wwan", "hyperv"] {
        let path = to.join("kernel/drivers/net").join(drivers);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    for list in [
        "modules.builtin",
        "modules.order",
        "modules.builtin.modinfo",
    ] {
        fs::copy(modules.join(list), to.join(list))?;
    }
    run(Command::new("depmod").arg("-b").arg(folder).arg(&release))?;
    Ok(fs::remove_dir_all(whole)?)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Makes the initramfs: busybox, the modules and [`INIT`].
fn initramfs(kernel: &Path) -> anyhow::Result<PathBuf> {
    let path = crate::cache()?.join("initramfs");
    let mut archive = Cpio(Vec::new());
    archive.folder("bin");
    archive.file("bin/busybox", &fs::read("/bin/busybox")?);
    archive.file("init", INIT.as_bytes());
    let modules = kernel.join("lib/modules");
    archive.folder("lib");
    archive.folder("lib/modules");
    archive.tree(
        &modules,
        "lib/modules",
        &[
            "net/core",
            "drivers/block",
            "drivers/virtio",
            "drivers/net",
            "modules.",
            "lib",
            "crypto",
            "arch",
        ],
    )?;
    fs::write(&path, archive.finish())?;
    Ok(path)
}

/// A cpio archive in the kernel's form, "newc" (Documentation/driver-api/early-userspace).
struct Cpio(Vec<u8>);

impl Cpio {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let (links, size, length) = (1, content.len(), name.len() + 1);
        let header = format!(
            "070701{:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}{:08X}{:08X}{length:08X}{:08X}",
            0, 0, 0, 0, 0, 0, 0, 0, 0
        );
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    /// The folders of a tree, and those of its files whose path has one of these parts.
    fn tree(&mut self, folder: &Path, name: &str, parts: &[&str]) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.folder(&inner);
                self.tree(&entry.path(), &inner, parts)?;
            } else if parts.iter().any(|part| inner.contains(part)) {
                self.file(&inner, &fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.0
    }
}

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
                    fs::write(&memory, accelerator)?;
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
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
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
                "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/init random.trust_cpu=on",
            ])
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,readonly=on",
                boot.payload.display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("starting qemu-system-x86_64")?;
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
