//! What a container sees of file systems: volumes, temporary ones, a root that it can't change.

use super::Podman;
use crate::place::DATA;
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[
    Case(
        "a_volume_can_be_written_and_one_with_ro_not",
        Needs::Kernel,
        volumes,
    ),
    Case(
        "a_named_volume_outlives_the_container",
        Needs::Kernel,
        named,
    ),
    Case("a_single_file_is_mounted", Needs::Kernel, file),
    Case(
        "mount_options_of_a_volume_are_in_force",
        Needs::Kernel,
        options,
    ),
    Case(
        "a_volume_shares_later_mounts_if_it_is_to",
        Needs::Kernel,
        propagation,
    ),
    Case("read_only_leaves_tmpfs_writable", Needs::Kernel, read_only),
    Case("tmpfs_has_its_size_and_mode", Needs::Kernel, tmpfs),
    Case("a_device_is_there_and_can_be_used", Needs::Kernel, device),
    Case("a_volumes_mount_point_is_made", Needs::Kernel, mount_point),
];

/// A folder of the host, removed with this value.
struct Folder(String);

impl Folder {
    fn new(name: &str) -> Self {
        let path = format!("{DATA}/{name}");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(format!("{path}/file"), "content\n").unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn volumes(podman: &Podman) {
    let folder = Folder::new("volumes");
    let (writable, readonly) = (format!("{}:/w", folder.0), format!("{}:/r:ro", folder.0));
    let script = "cat /w/file; echo more > /w/new; cat /r/new; echo no > /r/other";
    let ran = podman.run(&["-v", &writable, "-v", &readonly], &["sh", "-c", script]);
    ran.fails_with(1);
    assert_eq!(ran.stdout, "content\nmore\n");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:#?}");
}

fn named(podman: &Podman) {
    podman
        .run(
            &["-v", "kept:/data"],
            &["sh", "-c", "echo kept > /data/file"],
        )
        .ok();
    let ran = podman.run(&["-v", "kept:/data"], &["cat", "/data/file"]);
    podman.does(&["volume", "rm", "kept"]).ok();
    assert_eq!(ran.ok(), "kept");
}

fn file(podman: &Podman) {
    let folder = Folder::new("single");
    let mount = format!("{}/file:/etc/motd:ro", folder.0);
    assert_eq!(
        podman.run(&["-v", &mount], &["cat", "/etc/motd"]).ok(),
        "content"
    );
}

fn options(podman: &Podman) {
    let folder = Folder::new("options");
    let mount = format!("{}:/data:noexec,nosuid,nodev", folder.0);
    let ran = podman.run(
        &["-v", &mount],
        &["sh", "-c", "grep ' /data ' /proc/self/mountinfo"],
    );
    for option in ["noexec", "nosuid", "nodev"] {
        assert!(ran.ok().contains(option), "{ran:#?}");
    }
}

fn propagation(podman: &Podman) {
    let folder = Folder::new("shared");
    let mount = format!(
        "type=bind,source={},target=/data,bind-propagation=rshared",
        folder.0
    );
    let ran = podman.run(
        &["--mount", &mount],
        &["grep", " /data ", "/proc/self/mountinfo"],
    );
    // A folder of a private mount can't be shared, and Podman says so; a shared one is.
    assert!(ran.code != 0 || ran.stdout.contains("shared:"), "{ran:#?}");
}

fn read_only(podman: &Podman) {
    let script = "touch /tmp/yes /run/yes /dev/shm/yes && touch /no";
    let ran = podman.run(&["--read-only"], &["sh", "-c", script]);
    ran.fails_with(1);
    assert!(
        ran.stderr.contains("/no: Read-only file system"),
        "{ran:#?}"
    );
}

fn tmpfs(podman: &Podman) {
    let option = "/scratch:rw,size=1m,mode=1777";
    let script = "stat -c %a /scratch; grep -o 'size=1024k' /proc/self/mountinfo";
    let ran = podman.run(&["--tmpfs", option], &["sh", "-c", script]);
    assert_eq!(ran.ok(), "1777\nsize=1024k");
}

fn device(podman: &Podman) {
    let script = "stat -c '%t %T' /dev/source && head -c 4 /dev/source | wc -c";
    let ran = podman.run(
        &["--device", "/dev/zero:/dev/source:r"],
        &["sh", "-c", script],
    );
    assert_eq!(ran.ok(), "1 5\n4");
}

fn mount_point(podman: &Podman) {
    let folder = Folder::new("point");
    let mount = format!("{}:/a/new/place", folder.0);
    assert_eq!(
        podman
            .run(&["-v", &mount], &["cat", "/a/new/place/file"])
            .ok(),
        "content"
    );
}
