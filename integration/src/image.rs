//! The small image of the demonstration and the tests: busybox, as a root filesystem's archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Makes `rootfs.tar`, once.
pub fn busybox() -> anyhow::Result<PathBuf> {
    let archive = crate::cache()?.join("rootfs.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let rootfs = crate::cache()?.join("rootfs");
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "www"] {
        std::fs::create_dir_all(rootfs.join(folder))?;
    }
    let busybox = rootfs.join("bin/busybox");
    std::fs::copy("/bin/busybox", &busybox).context("copying busybox (package busybox-static)")?;
    let list = Command::new(&busybox)
        .arg("--list")
        .output()
        .context("asking busybox for its applets")?;
    for applet in String::from_utf8(list.stdout)?
        .lines()
        .filter(|name| *name != "busybox")
    {
        let link = rootfs.join("bin").join(applet);
        if !link.is_symlink() {
            std::os::unix::fs::symlink("busybox", link)?;
        }
    }
    std::fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nweb:x:33:33:web:/www:/bin/sh\n",
    )?;
    std::fs::write(
        rootfs.join("etc/group"),
        "root:x:0:\nweb:x:33:\nlog:x:40:web\n",
    )?;
    std::fs::write(rootfs.join("www/index.html"), "hello over localhost\n")?;
    tar(&rootfs, &archive)?;
    Ok(archive)
}

/// Packs a folder's content.
pub fn tar(folder: &Path, archive: &Path) -> anyhow::Result<()> {
    let new = archive.with_extension("new");
    let status = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .arg("-cf")
        .arg(&new)
        .arg(".")
        .status()?;
    if !status.success() {
        bail!("packing {} failed", folder.display());
    }
    Ok(std::fs::rename(new, archive)?)
}
