//! Debian's own cloud kernel: its package is unpacked, not installed, and of its modules those are
//! kept that the tests need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, bail};

/// Marks a folder that is complete. Counts up when more of the package is kept.
const READY: &str = "ready-2";

/// A Debian kernel, unpacked.
pub fn kernel() -> anyhow::Result<PathBuf> {
    static FETCHING: Mutex<()> = Mutex::new(());
    let _one = FETCHING.lock();
    let folder = crate::cache()?.join("kernel");
    if folder.join(READY).exists() {
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
    fs::write(folder.join(READY), package)?;
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
        "fs/autofs",
        "fs/ext4",
        "fs/jbd2",
        "fs/mbcache.ko",
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
