//! The initramfs: busybox and the modules of the disks. It finds the root filesystem and leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk virtio_net; do /bin/busybox modprobe $module; done
/bin/busybox modprobe ext4
for disk in /sys/block/vd*; do
    eval "$(/bin/busybox cat $disk/serial)=/dev/${disk##*/}"
done
init="/bin/sh /init"
if [ -n "$system" ]; then
    /bin/busybox mount -t ext4 $system /new
    init=/sbin/init
else
    /bin/busybox mount -t tmpfs -o size=85%,mode=755 tmpfs /new
    /bin/busybox mkdir /new/disk
    /bin/busybox mount -t ext4 $scratch /new/disk
fi
/bin/busybox tar -x -C /new -f $payload
for folder in proc sys dev; do /bin/busybox mount --move /$folder /new/$folder; done
exec /bin/busybox switch_root /new $init
"#;

/// Makes the initramfs: busybox, the modules and [`INIT`].
pub fn initramfs(kernel: &Path) -> anyhow::Result<PathBuf> {
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
            "fs/ext4",
            "fs/jbd2",
            "fs/mbcache",
            "modules.",
            "lib",
            "crypto",
            "arch",
        ],
    )?;
    // Another machine may just be reading the one before.
    static WRITING: Mutex<()> = Mutex::new(());
    let _one = WRITING.lock();
    let new = path.with_extension("new");
    fs::write(&new, archive.finish())?;
    fs::rename(new, &path)?;
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
