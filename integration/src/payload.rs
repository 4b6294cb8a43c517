//! What the virtual machine works with: a folder that becomes its root filesystem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A root filesystem under construction.
pub struct Payload {
    folder: PathBuf,
}

impl Payload {
    /// An empty system with busybox, the kernel's modules, and nft as the tests' oracle.
    pub fn new(name: &str, kernel: &Path) -> anyhow::Result<Self> {
        let folder = crate::cache()?.join(format!("payload-{name}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        for path in [
            "bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "lib", "usr/sbin",
            "usr/bin", "var/lib", "tests",
        ] {
            fs::create_dir_all(folder.join(path))?;
        }
        let payload = Self { folder };
        payload.program(Path::new("/bin/busybox"), "bin/busybox")?;
        let applets = Command::new("/bin/busybox").arg("--list").output()?;
        for applet in String::from_utf8(applets.stdout)?
            .lines()
            .filter(|name| *name != "busybox")
        {
            std::os::unix::fs::symlink("/bin/busybox", payload.folder.join("bin").join(applet))?;
        }
        // Where the kernel looks for it when it wants a module.
        std::os::unix::fs::symlink("/bin/busybox", payload.folder.join("sbin/modprobe"))?;
        fs::write(
            payload.folder.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n",
        )?;
        fs::write(payload.folder.join("etc/group"), "root:x:0:\n")?;
        fs::write(
            payload.folder.join("etc/resolv.conf"),
            "nameserver 10.0.2.3\n",
        )?;
        payload.copy_tree(&kernel.join("lib/modules"), "lib/modules")?;
        payload.dynamic_program("/usr/sbin/nft")?;
        payload.dynamic_program("/usr/sbin/ip")?;
        Ok(payload)
    }

    /// What a whole system gets in addition: the kernel's modules.
    pub fn addition(name: &str, kernel: &Path) -> anyhow::Result<Self> {
        let folder = crate::cache()?.join(format!("payload-{name}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        for path in ["usr/lib", "rig", "etc/systemd/system", "etc/criu"] {
            fs::create_dir_all(folder.join(path))?;
        }
        let payload = Self { folder };
        payload.copy_tree(&kernel.join("lib/modules"), "usr/lib/modules")?;
        Ok(payload)
    }

    fn copy_tree(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let to = self.folder.join(to);
        let status = Command::new("cp").arg("-a").arg(from).arg(&to).status()?;
        if !status.success() {
            bail!("copying {} failed", from.display());
        }
        Ok(())
    }

    /// A static program, without its debugging information.
    pub fn program(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let to = self.folder.join(to);
        let stripped = Command::new("strip").arg("-o").arg(&to).arg(from).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A program of this host with the libraries that it loads.
    fn dynamic_program(&self, path: &str) -> anyhow::Result<()> {
        let output = Command::new("ldd")
            .arg(path)
            .output()
            .with_context(|| format!("asking ldd about {path}"))?;
        let text = String::from_utf8(output.stdout)?;
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain([path]) {
            let to = self.folder.join(file.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            fs::copy(file, &to).with_context(|| format!("copying {file}"))?;
        }
        Ok(())
    }

    /// A file with this content, executable.
    pub fn script(&self, to: &str, content: &str) -> anyhow::Result<()> {
        let to = self.folder.join(to);
        fs::write(&to, content)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A symbolic link.
    pub fn link(&self, target: &str, at: &str) -> anyhow::Result<()> {
        let at = self.folder.join(at);
        fs::create_dir_all(at.parent().context("a link's folder")?)?;
        Ok(std::os::unix::fs::symlink(target, at)?)
    }

    /// A copy of a file.
    pub fn file(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        fs::copy(from, self.folder.join(to))
            .with_context(|| format!("copying {}", from.display()))?;
        Ok(())
    }

    /// Packs it: the machine unpacks this from a disk.
    pub fn pack(self) -> anyhow::Result<PathBuf> {
        let archive = self.folder.with_extension("tar");
        crate::image::tar(&self.folder, &archive)?;
        fs::remove_dir_all(&self.folder)?;
        // The machine's disk has whole sectors; what follows the archive's end is ignored.
        let file = fs::File::options().write(true).open(&archive)?;
        file.set_len(file.metadata()?.len().next_multiple_of(1 << 20))?;
        Ok(archive)
    }
}
