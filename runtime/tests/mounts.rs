//! The rarer kinds of mounts, and the rarer ways to get a mount namespace.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use berth_runtime::id_mapped;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde_json::json;

use crate::bundle::Bundle;

crate::tests! {
    tmpcopyup_fills_a_tmpfs_with_what_it_covers;
    an_id_mapped_bind_mount_shifts_owners;
    an_id_mapped_mount_takes_the_containers_map;
    an_id_mapped_tmpfs_shifts_owners;
    a_folder_is_bound_with_the_ids_of_a_user_namespace;
    a_link_is_copied_as_a_link;
    a_link_is_bound_as_itself;
    a_mount_namespace_is_joined_by_path;
    the_runtimes_own_mount_namespace_is_not_joined;
    the_root_changes_without_pivot_root;
    a_selinux_label_needs_selinux;
}

fn tmpcopyup_fills_a_tmpfs_with_what_it_covers() {
    let mut bundle = Bundle::new(
        "cd /data; cat sub/file; readlink link; stat -c '%a %u %Y' sub/file sub; echo > new; \
         mount | grep -c ' /data type tmpfs'",
    );
    let data = bundle.rootfs().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("sub/file"), "x".repeat(100_000)).unwrap();
    fs::write(data.join("sub/file"), "content\n").unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    chown(data.join("sub/file"), Some(77), None).unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("../etc", data.join("link")).unwrap();
    // More entries than one read of a directory gives.
    for number in 0..500 {
        fs::write(data.join(format!("a-file-with-a-long-name-{number}")), "").unwrap();
    }
    let times = |path: &str| fs::metadata(data.join(path)).unwrap().mtime();
    let want = format!(
        "content\n../etc\n4755 77 {}\n755 0 {}\n1",
        times("sub/file"),
        times("sub")
    );
    let mount = json!({"type": "tmpfs", "source": "tmpfs", "destination": "/data",
        "options": ["tmpcopyup", "nosuid"]});
    bundle.push("/mounts", mount);
    assert_eq!(bundle.run().success(), want);
    assert!(!data.join("new").exists());
    // Read-only, it is filled all the same; and its mode is the option's, not the directory's.
    bundle.script("ls /data | wc -l; stat -c %a /data; echo > /data/new");
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    bundle.config["mounts"][last]["options"] = json!(["tmpcopyup", "ro", "mode=1770"]);
    let said = bundle.run();
    assert_eq!(said.stdout, "502\n1770");
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
}

/// Before Linux 6.3 a tmpfs, which the temporary directory may be, couldn't be id-mapped: then that is
/// what must have been said.
fn can_not_be_mapped(said: &crate::bundle::Said) -> bool {
    said.code != 0 && said.stderr.contains("can't be id-mapped by this kernel")
}

fn owned_file(bundle: &Bundle, owner: u32) -> std::path::PathBuf {
    let directory = bundle.host("shared");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "").unwrap();
    chown(directory.join("file"), Some(owner), Some(owner)).unwrap();
    directory
}

fn an_id_mapped_bind_mount_shifts_owners() {
    let mut bundle = Bundle::new("stat -c '%u %g' /shared/file; echo > /shared/new");
    let shared = owned_file(&bundle, 1005);
    bundle.bind(&shared, "/shared", &[]);
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    let map = json!([{"containerID": 1000, "hostID": 3000, "size": 10},
        {"containerID": 0, "hostID": 0, "size": 1}]);
    bundle.config["mounts"][last]["uidMappings"] = map.clone();
    bundle.config["mounts"][last]["gidMappings"] = map;
    let said = bundle.run();
    if can_not_be_mapped(&said) {
        return;
    }
    assert_eq!(said.success(), "3005 3005");
    assert_eq!(fs::metadata(shared.join("new")).unwrap().uid(), 0);
}

fn in_user_namespace(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
    for directory in ["dev", "proc", "sys", "tmp"] {
        chown(
            bundle.rootfs().join(directory),
            Some(100_000),
            Some(100_000),
        )
        .unwrap();
    }
    chown(bundle.rootfs(), Some(100_000), Some(100_000)).unwrap();
}

fn an_id_mapped_mount_takes_the_containers_map() {
    let mut bundle = Bundle::new("stat -c '%u' /shared/file; echo > /shared/new");
    in_user_namespace(&mut bundle);
    let shared = owned_file(&bundle, 1005);
    fs::create_dir(bundle.rootfs().join("shared")).unwrap();
    // Without a map the host's files belong to nobody inside.
    bundle.bind(&shared, "/shared", &[]);
    assert_eq!(bundle.run().stdout, "65534");
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    bundle.config["mounts"][last]["options"] = json!(["rbind", "idmap"]);
    let said = bundle.run();
    if can_not_be_mapped(&said) {
        return;
    }
    assert_eq!(said.success(), "1005");
    assert_eq!(fs::metadata(shared.join("new")).unwrap().uid(), 0);
}

fn a_folder_is_bound_with_the_ids_of_a_user_namespace() {
    let mut holder = Bundle::new("sleep 1000");
    in_user_namespace(&mut holder);
    let pid = holder.run_detached();
    let namespace = fs::File::open(format!("/proc/{pid}/ns/user")).unwrap();
    let (source, target) = (owned_file(&holder, 1005), holder.host("target"));
    let missing = id_mapped::bind(&source, &target, namespace.as_fd()).unwrap_err();
    assert_eq!(missing.errno(), Some(Errno::ENOENT));
    assert!(missing.to_string().contains("target"), "{missing}");
    fs::create_dir(&target).unwrap();
    match id_mapped::bind(&source, &target, namespace.as_fd()) {
        // A tmpfs before Linux 6.3.
        Err(error) => {
            assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
            assert!(id_mapped::check(&source, namespace.as_fd()).is_err());
        }
        Ok(()) => {
            assert_eq!(fs::metadata(target.join("file")).unwrap().uid(), 101_005);
            assert_eq!(fs::metadata(source.join("file")).unwrap().uid(), 1005);
            umount2(&target, MntFlags::MNT_DETACH).unwrap();
            id_mapped::check(&source, namespace.as_fd()).unwrap();
        }
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    let error = id_mapped::check(Path::new("/proc"), namespace.as_fd()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL));
    assert!(
        error.to_string().contains("id-map a mount of /proc"),
        "{error}"
    );
}

fn an_id_mapped_tmpfs_shifts_owners() {
    let mut bundle = Bundle::new("stat -c '%u' /data");
    let map = json!([{"containerID": 0, "hostID": 500, "size": 1}]);
    let mount = json!({"type": "tmpfs", "source": "tmpfs", "destination": "/data",
        "uidMappings": map, "gidMappings": map});
    bundle.push("/mounts", mount);
    let said = bundle.run();
    match said.code {
        0 => assert_eq!(said.stdout, "500"),
        // Before Linux 6.3 tmpfs couldn't be id-mapped.
        _ => assert!(said.stderr.contains("can't be id-mapped"), "{said:?}"),
    }
}

fn a_link_is_copied_as_a_link() {
    let mut bundle = Bundle::new("readlink /deep/er/link");
    symlink("/somewhere/else", bundle.host("link")).unwrap();
    let source = bundle.host("link");
    bundle.bind(&source, "/deep/er/link", &["copy-symlink"]);
    assert_eq!(bundle.run().success(), "/somewhere/else");
    // It is there already, and says the same; and then something else.
    assert_eq!(bundle.run().success(), "/somewhere/else");
    fs::remove_file(bundle.rootfs().join("deep/er/link")).unwrap();
    symlink("/other", bundle.rootfs().join("deep/er/link")).unwrap();
    assert!(bundle.run().failure().contains("a link on /deep/er/link"));
}

fn a_link_is_bound_as_itself() {
    let mut bundle = Bundle::new("readlink /link; readlink /kept");
    symlink("/somewhere/else", bundle.host("link")).unwrap();
    let source = bundle.host("link");
    bundle.bind(&source, "/link", &["src-nofollow"]);
    // What is mounted on a link that isn't followed covers the link, not what it leads to.
    symlink("/etc", bundle.rootfs().join("kept")).unwrap();
    bundle.bind(&source, "/kept", &["src-nofollow", "dest-nofollow"]);
    assert_eq!(bundle.run().success(), "/somewhere/else\n/somewhere/else");
}

fn a_mount_namespace_is_joined_by_path() {
    // A namespace in which the root filesystem has something that the host's has not.
    let mut bundle = Bundle::new("cat /tmp/only-there");
    let root = bundle.rootfs().display().to_string();
    let script = format!(
        "mount --make-rprivate /; mount -t tmpfs tmpfs {root}/tmp; echo secret > {root}/tmp/only-there; \
         echo > {}; exec sleep 1000",
        bundle.host("ready").display()
    );
    let mut holder = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .spawn()
        .unwrap();
    crate::machine::wait_until(|| bundle.host("ready").exists());
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "mount");
    let path = format!("/proc/{}/ns/mnt", holder.id());
    namespaces.push(json!({"type": "mount", "path": path}));
    // The root is taken with what is mounted below it.
    let said = bundle.run();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(said.success(), "secret");
    assert!(!bundle.rootfs().join("tmp/only-there").exists());
}

fn the_runtimes_own_mount_namespace_is_not_joined() {
    let mut bundle = Bundle::new("true");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "mount");
    namespaces.push(json!({"type": "mount", "path": "/proc/self/ns/mnt"}));
    let said = bundle.run().failure();
    assert!(said.contains("the runtime's own"), "{said}");
}

fn the_root_changes_without_pivot_root() {
    let bundle = Bundle::new("ls /; cd /; cd ../../..; ls; mount | head -1 | cut -d' ' -f3");
    bundle.write();
    let said = bundle.runtime(&["run", "--no-pivot", &bundle.id]).success();
    let (listed, last) = said.rsplit_once('\n').unwrap();
    let half = listed.len() / 2;
    assert_eq!(&listed[..half], &listed[half + 1..], "{said}");
    assert!(listed.starts_with("bin\ndev\netc"), "{said}");
    assert_eq!(last, "/");
}

fn a_selinux_label_needs_selinux() {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    for (pointer, name) in [
        ("/process/selinuxLabel", "process.selinuxLabel"),
        ("/linux/mountLabel", "linux.mountLabel"),
    ] {
        let mut bundle = Bundle::new("true");
        bundle.set(pointer, json!("system_u:system_r:container_t:s0:c1,c2"));
        let said = bundle.run().failure();
        // runc's words.
        assert!(
            said.contains("selinux label is specified in config"),
            "{said}"
        );
        assert!(said.contains(name), "{said}");
    }
}
