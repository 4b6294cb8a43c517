//! Namespaces made and joined.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::bundle::Bundle;

crate::tests! {
    all_namespaces_are_new;
    the_container_sees_only_its_processes;
    the_cgroup_namespace_begins_at_the_containers_cgroup;
    a_new_network_has_its_loopback_up;
    a_network_namespace_is_joined_by_path;
    what_is_no_namespace_is_refused;
    a_new_user_namespace_makes_root_nobody_outside;
    a_user_namespace_can_join_the_hosts_network_namespace;
    a_user_namespace_and_the_network_that_it_owns_are_joined;
    hard_limits_are_raised_for_a_user_namespace needs "CAP_SYS_RESOURCE";
    a_pid_namespace_is_joined_by_path;
}

fn set_namespaces(bundle: &mut Bundle, more: &[Value]) {
    let mut namespaces = vec![
        json!({"type": "mount"}),
        json!({"type": "uts"}),
        json!({"type": "ipc"}),
    ];
    namespaces.extend_from_slice(more);
    bundle.set("/linux/namespaces", json!(namespaces));
}

fn all_namespaces_are_new() {
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let bundle =
        Bundle::new("for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done");
    let inside = bundle.run().success();
    for (kind, inside) in kinds.iter().zip(inside.lines()) {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(ours.display().to_string(), inside);
    }
}

fn the_container_sees_only_its_processes() {
    assert_eq!(
        Bundle::new("set -- /proc/[0-9]*; echo $$ $*")
            .run()
            .success(),
        "1 /proc/1"
    );
}

fn the_cgroup_namespace_begins_at_the_containers_cgroup() {
    let bundle = Bundle::new("grep 0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs");
    assert_eq!(bundle.run().success(), "0::/\n1");
}

fn a_new_network_has_its_loopback_up() {
    let said = Bundle::new("ip addr show lo").run().success();
    assert!(said.contains("127.0.0.1/8"), "{said}");
}

/// A namespace of a thread, kept by a bind mount as engines do.
pub(crate) struct Kept(PathBuf);

impl Kept {
    pub(crate) fn new(bundle: &Bundle, flags: CloneFlags, kind: &str) -> Self {
        let path = bundle.host(kind);
        File::create(&path).unwrap();
        let (thread_path, kind) = (path.clone(), kind.to_owned());
        // A thread of its own: this one's namespaces stay.
        std::thread::spawn(move || {
            unshare(flags).unwrap();
            let own = format!("/proc/thread-self/ns/{kind}");
            let none = None::<&str>;
            mount(
                Some(own.as_str()),
                &thread_path,
                none,
                MsFlags::MS_BIND,
                none,
            )
            .unwrap();
        })
        .join()
        .unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn identity(&self) -> String {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&self.0).unwrap().ino().to_string()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn a_network_namespace_is_joined_by_path() {
    let mut bundle = Bundle::new("readlink /proc/self/ns/net");
    let network = Kept::new(&bundle, CloneFlags::CLONE_NEWNET, "net");
    set_namespaces(
        &mut bundle,
        &[
            json!({"type": "pid"}),
            json!({"type": "network", "path": network.0}),
        ],
    );
    assert_eq!(
        bundle.run().success(),
        format!("net:[{}]", network.identity())
    );
}

fn what_is_no_namespace_is_refused() {
    let mut bundle = Bundle::new("true");
    let file = bundle.host("file");
    fs::write(&file, "").unwrap();
    set_namespaces(
        &mut bundle,
        &[
            json!({"type": "pid"}),
            json!({"type": "network", "path": file}),
        ],
    );
    let said = bundle.run().failure();
    assert!(said.contains("not a namespace file"), "{said}");
}

/// Ids that the root filesystem's files don't have, so it must be readable by others.
const MAPPING: &str = r#"[{"containerID": 0, "hostID": 100000, "size": 65536}]"#;

fn map_ids(bundle: &mut Bundle) {
    let mapping: Value = serde_json::from_str(MAPPING).unwrap();
    bundle.set("/linux/uidMappings", mapping.clone());
    bundle.set("/linux/gidMappings", mapping);
    let root = bundle.rootfs();
    for path in ["", "bin", "etc", "tmp", "proc", "sys", "dev"] {
        std::os::unix::fs::chown(root.join(path), Some(100_000), Some(100_000)).unwrap();
    }
}

fn a_new_user_namespace_makes_root_nobody_outside() {
    let mut bundle = Bundle::new(
        "id -u; cat /proc/self/uid_map; echo x > /dev/null; echo > /tmp/made; mkdir /tmp/dir",
    );
    map_ids(&mut bundle);
    set_namespaces(
        &mut bundle,
        &[
            json!({"type": "pid"}),
            json!({"type": "network"}),
            json!({"type": "cgroup"}),
            json!({"type": "user"}),
        ],
    );
    let said = bundle.run().success();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        fs::metadata(bundle.rootfs().join("tmp/made"))
            .unwrap()
            .uid(),
        100_000
    );
}

fn a_user_namespace_can_join_the_hosts_network_namespace() {
    let mut bundle = Bundle::new("readlink /proc/self/ns/net; id -u");
    map_ids(&mut bundle);
    let network = Kept::new(&bundle, CloneFlags::CLONE_NEWNET, "net");
    // The kernel shows sysfs only to the owner of the network.
    bundle.drop_mount("/sys");
    bundle.drop_mount("/sys/fs/cgroup");
    set_namespaces(
        &mut bundle,
        &[
            json!({"type": "pid"}),
            json!({"type": "user"}),
            json!({"type": "network", "path": network.0}),
        ],
    );
    assert_eq!(
        bundle.run().success(),
        format!("net:[{}]\n0", network.identity())
    );
}

fn a_user_namespace_and_the_network_that_it_owns_are_joined() {
    let mut holder = Bundle::new("sleep 1000");
    map_ids(&mut holder);
    set_namespaces(
        &mut holder,
        &[
            json!({"type": "pid"}),
            json!({"type": "user"}),
            json!({"type": "network"}),
            json!({"type": "cgroup"}),
        ],
    );
    let pid = holder.run_detached();
    let mut bundle = Bundle::new(
        "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; ls /sys/class/net",
    );
    map_ids(&mut bundle);
    set_namespaces(
        &mut bundle,
        &[
            json!({"type": "pid"}),
            json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}),
            json!({"type": "network", "path": format!("/proc/{pid}/ns/net")}),
        ],
    );
    bundle.drop_mount("/sys/fs/cgroup");
    let link = |kind| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        bundle.run().success(),
        format!("{}\n{}\n0\nlo", link("user"), link("net"))
    );
}

/// Nobody has the right to in there.
fn hard_limits_are_raised_for_a_user_namespace() {
    let raised = json!([{"type": "RLIMIT_NOFILE", "soft": 1_000_000, "hard": 1_000_000},
        {"type": "RLIMIT_MEMLOCK", "soft": u64::MAX, "hard": u64::MAX}]);
    let show = "ulimit -Hn; ulimit -Sn; ulimit -Hl";
    let shown = "1000000\n1000000\nunlimited";
    let mut holder = Bundle::new(&format!("{show}; exec sleep 1000"));
    map_ids(&mut holder);
    holder.set("/process/rlimits", raised.clone());
    let own = ["pid", "user", "network", "cgroup"].map(|kind| json!({"type": kind}));
    set_namespaces(&mut holder, &own);
    let pid = holder.run_detached();
    assert_eq!(
        holder.exec(&[&holder.id, "sh", "-c", show]).success(),
        shown
    );
    let mut bundle = Bundle::new(show);
    map_ids(&mut bundle);
    bundle.set("/process/rlimits", raised);
    let joined = |kind, file| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    let namespaces = [
        json!({"type": "pid"}),
        joined("user", "user"),
        joined("network", "net"),
    ];
    set_namespaces(&mut bundle, &namespaces);
    bundle.drop_mount("/sys/fs/cgroup");
    assert_eq!(bundle.run().success(), shown);
}

fn a_pid_namespace_is_joined_by_path() {
    let holder = Bundle::new("sleep 1000");
    let pid = holder.run_detached();
    let mut bundle = Bundle::new("grep -c sleep /proc/1/cmdline; test $$ -ne 1");
    set_namespaces(
        &mut bundle,
        &[
            json!({"type": "network"}),
            json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}),
        ],
    );
    assert_eq!(bundle.run().success(), "1");
}
