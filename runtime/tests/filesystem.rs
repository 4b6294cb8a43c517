//! What a container sees as its files.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::bundle::Bundle;
use crate::machine::wait_until;

crate::tests! {
    the_default_mounts_are_there;
    the_default_devices_work;
    a_file_is_bound_where_the_image_has_none;
    a_file_is_bound_over_a_dangling_link_inside_the_root;
    a_readonly_bind_is_readonly;
    a_recursive_option_reaches_submounts;
    a_bind_without_r_leaves_submounts_behind;
    a_tmpfs_takes_the_mode_of_what_it_covers;
    mounts_inside_do_not_show_outside;
    mounts_come_in_their_order;
    a_configured_device_is_made;
    an_unknown_filesystem_is_an_error_that_names_it;
}

fn the_default_mounts_are_there() {
    let said = Bundle::new("while read _ where kind _; do echo $where $kind; done < /proc/mounts")
        .run()
        .success();
    for mount in [
        "/proc proc",
        "/dev tmpfs",
        "/dev/pts devpts",
        "/dev/shm tmpfs",
        "/dev/mqueue mqueue",
        "/sys sysfs",
        "/sys/fs/cgroup cgroup2",
    ] {
        assert!(said.lines().any(|line| line == mount), "{mount}: {said}");
    }
}

fn the_default_devices_work() {
    let script = "echo x > /dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; \
        echo > /dev/full; for l in fd stdin ptmx; do readlink /dev/$l; done; echo via >> /dev/stdout";
    let said = Bundle::new(script).run();
    assert_eq!(
        said.stdout,
        "2\n3\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\nvia"
    );
    assert!(said.stderr.contains("No space left"), "{said:?}");
}

fn a_file_is_bound_where_the_image_has_none() {
    let mut bundle = Bundle::new("cat /etc/hosts /deep/er/file");
    fs::write(bundle.host("hosts"), "127.0.0.1 localhost\n").unwrap();
    let source = bundle.host("hosts");
    bundle.bind(&source, "/etc/hosts", &["ro"]);
    bundle.bind(&source, "/deep/er/file", &[]);
    assert_eq!(
        bundle.run().success(),
        "127.0.0.1 localhost\n127.0.0.1 localhost"
    );
}

fn a_file_is_bound_over_a_dangling_link_inside_the_root() {
    let mut bundle = Bundle::new("cat /etc/resolv.conf; cat /run/systemd/resolve/stub-resolv.conf");
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        bundle.rootfs().join("etc/resolv.conf"),
    )
    .unwrap();
    fs::write(bundle.host("resolv"), "nameserver 192.0.2.1\n").unwrap();
    let source = bundle.host("resolv");
    bundle.bind(&source, "/etc/resolv.conf", &[]);
    assert_eq!(bundle.run().success().lines().count(), 2);
}

fn a_readonly_bind_is_readonly() {
    let mut bundle = Bundle::new("cat /mnt/file; echo x > /mnt/file");
    fs::create_dir(bundle.host("volume")).unwrap();
    fs::write(bundle.host("volume/file"), "content\n").unwrap();
    let source = bundle.host("volume");
    bundle.bind(&source, "/mnt", &["ro", "nosuid"]);
    let said = bundle.run();
    assert_eq!(said.stdout, "content");
    assert!(said.stderr.contains("Read-only"), "{said:?}");
}

/// A volume with another mount in it, and both taken away again.
struct Nested(Bundle);

impl Nested {
    fn new(script: &str, options: &[&str]) -> Self {
        let mut bundle = Bundle::new(script);
        let sub = bundle.host("volume/sub");
        fs::create_dir_all(&sub).unwrap();
        let none = None::<&str>;
        nix::mount::mount(
            Some("t"),
            &sub,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            none,
        )
        .unwrap();
        fs::write(sub.join("file"), "below").unwrap();
        let volume = bundle.host("volume");
        let mount =
            json!({"type": "bind", "source": volume, "destination": "/mnt", "options": options});
        bundle.push("/mounts", mount);
        Self(bundle)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        nix::mount::umount(&self.0.host("volume/sub")).unwrap();
    }
}

fn a_recursive_option_reaches_submounts() {
    let nested = Nested::new(
        "cat /mnt/sub/file; echo x > /mnt/sub/file",
        &["rbind", "rro"],
    );
    let said = nested.0.run();
    assert_eq!(said.stdout, "below");
    assert!(said.stderr.contains("Read-only"), "{said:?}");
    let nested = Nested::new(
        "echo x > /mnt/sub/file && echo x > /mnt/file",
        &["rbind", "ro"],
    );
    assert!(nested.0.run().failure().contains("/mnt/file: Read-only"));
}

fn a_bind_without_r_leaves_submounts_behind() {
    let nested = Nested::new("ls /mnt/sub | wc -l", &["bind"]);
    assert_eq!(nested.0.run().success(), "0");
}

fn a_tmpfs_takes_the_mode_of_what_it_covers() {
    use std::os::unix::fs::PermissionsExt;
    let mut bundle = Bundle::new("stat -c %a /covered /new");
    let covered = bundle.rootfs().join("covered");
    fs::create_dir(&covered).unwrap();
    fs::set_permissions(&covered, fs::Permissions::from_mode(0o1751)).unwrap();
    bundle.push(
        "/mounts",
        json!({"type": "tmpfs", "source": "tmpfs", "destination": "/covered"}),
    );
    let options = ["mode=700"];
    bundle.push(
        "/mounts",
        json!({"type": "tmpfs", "source": "t", "destination": "/new", "options": options}),
    );
    assert_eq!(bundle.run().success(), "1751\n700");
}

fn mounts_inside_do_not_show_outside() {
    let mut bundle =
        Bundle::new("mkdir -p /mnt/x && mount -t tmpfs inside-only /mnt/x && sleep 1000");
    bundle.capabilities(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    fs::create_dir(bundle.host("volume")).unwrap();
    let source = bundle.host("volume");
    bundle.bind(&source, "/mnt", &[]);
    bundle.run_detached();
    let inside = || {
        bundle
            .exec(&[&bundle.id, "grep", "-c", "inside-only", "/proc/mounts"])
            .stdout
    };
    wait_until(|| inside() == "1");
    assert!(
        !fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains("inside-only")
    );
}

fn mounts_come_in_their_order() {
    let mut bundle = Bundle::new("cat /a/b/file");
    fs::create_dir(bundle.host("b")).unwrap();
    fs::write(bundle.host("b/file"), "in b").unwrap();
    let source = bundle.host("b");
    bundle.push(
        "/mounts",
        json!({"type": "tmpfs", "source": "tmpfs", "destination": "/a"}),
    );
    bundle.bind(&source, "/a/b", &[]);
    assert_eq!(bundle.run().success(), "in b");
}

fn a_configured_device_is_made() {
    let mut bundle = Bundle::new("stat -c '%a %u %g %t %T' /dev/net/tun");
    let tun = json!({"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 3, "gid": 4});
    bundle.set("/linux/devices", json!([tun]));
    assert_eq!(bundle.run().success(), "640 3 4 a c8");
}

fn an_unknown_filesystem_is_an_error_that_names_it() {
    let mut bundle = Bundle::new("true");
    bundle.push(
        "/mounts",
        json!({"type": "nosuchfs", "source": "x", "destination": "/x"}),
    );
    let said = bundle.run().failure();
    assert!(
        said.contains("mount nosuchfs on /x") && said.contains("no such filesystem"),
        "{said}"
    );
}
