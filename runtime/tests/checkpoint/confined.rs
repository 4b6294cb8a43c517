//! What bounds a container bounds it after a restore, too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sched::CloneFlags;
use serde_json::{Value, json};

use super::{COUNTER, checkpoint, counting, counts_on, restore, saveable};
use crate::bundle::Bundle;
use crate::namespaces::Kept;

crate::tests! {
    limits_hold_after_a_restore needs "criu", "memory", "pids";
    a_network_namespace_is_joined_again needs "criu";
    a_network_of_its_own_is_as_it_was_made needs "criu";
    a_confined_container_stays_confined needs "criu";
    no_new_privileges_are_kept needs "criu";
    a_processs_own_no_new_privs_are_kept_or_refused needs "criu";
}

fn limits_hold_after_a_restore() {
    let mut bundle = saveable(COUNTER);
    bundle.set("/linux/cgroupsPath", json!(format!("/berth-{}", bundle.id)));
    let resources = |pids: u32| {
        json!({
            "memory": {"limit": 64 << 20},
            "pids": {"limit": pids},
            "devices": [{"allow": false, "access": "rwm"}],
        })
    };
    bundle.set("/linux/resources", resources(17));
    bundle.capabilities(&["CAP_MKNOD"]);
    counting(&bundle);
    checkpoint(&bundle, &[]).success();
    let cgroup = Path::new("/sys/fs/cgroup").join(format!("berth-{}", bundle.id));
    assert!(!cgroup.exists());
    // Those of the configuration count, where it has changed.
    bundle.set("/linux/resources", resources(23));
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    for (file, value) in [("memory.max", "67108864"), ("pids.max", "23")] {
        let found = fs::read_to_string(cgroup.join(file)).unwrap();
        assert_eq!(found.trim(), value, "{file}");
    }
    let pid = bundle.state()["pid"].to_string();
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    assert!(processes.lines().any(|line| line == pid), "{processes}");
    let script = "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg";
    let said = bundle.exec(&[&bundle.id, "sh", "-c", script]).failure();
    assert!(said.contains("not permitted"), "{said}");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    // The cgroup of the configuration may be another one, if CRIU is to leave cgroups alone.
    let other = format!("/berth-{}-other", bundle.id);
    bundle.set("/linux/cgroupsPath", json!(other));
    restore(&bundle, &["--manage-cgroups-mode", "ignore"]).success();
    let pid = bundle.state()["pid"].to_string();
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(membership.trim(), format!("0::{other}"));
}

fn add_namespace(bundle: &mut Bundle, namespace: Value) {
    let listed = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    listed.retain(|listed| listed["type"] != namespace["type"]);
    listed.push(namespace);
}

fn a_network_namespace_is_joined_again() {
    let mut bundle = saveable(COUNTER);
    let network = Kept::new(&bundle, CloneFlags::CLONE_NEWNET, "net");
    add_namespace(
        &mut bundle,
        json!({"type": "network", "path": network.path()}),
    );
    counting(&bundle);
    checkpoint(&bundle, &[]).success();
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    let args = [&bundle.id, "readlink", "/proc/1/ns/net"];
    let wanted = format!("net:[{}]", network.identity());
    assert_eq!(bundle.exec(&args).success(), wanted);
}

fn a_network_of_its_own_is_as_it_was_made() {
    let mut bundle = saveable(COUNTER);
    add_namespace(&mut bundle, json!({"type": "network"}));
    bundle.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}),
    );
    counting(&bundle);
    checkpoint(&bundle, &[]).success();
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    let said = bundle
        .exec(&[&bundle.id, "ip", "addr", "show", "lo"])
        .success();
    assert!(
        said.contains("127.0.0.1/8") && said.contains("UP"),
        "{said}"
    );
    for file in ["net/ipv4/ip_forward", "kernel/shm_rmid_forced"] {
        let file = format!("/proc/sys/{file}");
        assert_eq!(bundle.exec(&[&bundle.id, "cat", &file]).success(), "1");
    }
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    let pid = &bundle.state()["pid"];
    assert_ne!(fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(), ours);
}

/// What the kernel says of a process that is about rights.
fn rights(bundle: &Bundle) -> Vec<String> {
    let pid = &bundle.state()["pid"];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let names = [
        "Uid",
        "Gid",
        "Groups",
        "Cap",
        "NoNewPrivs",
        "Seccomp:",
        "Seccomp_filters",
    ];
    let is_about = |line: &&str| names.iter().any(|name| line.starts_with(name));
    status.lines().filter(is_about).map(str::to_owned).collect()
}

/// As Podman has them: everything hidden and filtered, and another user.
fn a_confined_container_stays_confined() {
    let mut bundle = saveable(COUNTER);
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(bundle.rootfs().join("tmp"), all).unwrap();
    bundle.set("/root/readonly", json!(true));
    let tmp = bundle.rootfs().join("tmp");
    bundle.bind(&tmp, "/tmp", &["rw"]);
    bundle.set(
        "/process/user",
        json!({"uid": 1000, "gid": 1000, "additionalGids": [7]}),
    );
    bundle.capabilities(&[]);
    for kind in ["cgroup", "ipc", "uts"] {
        add_namespace(&mut bundle, json!({"type": kind}));
    }
    bundle.set("/hostname", json!("saved"));
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}),
    );
    counting(&bundle);
    let before = rights(&bundle);
    assert!(before.contains(&"Seccomp:\t2".to_owned()), "{before:?}");
    checkpoint(&bundle, &[]).success();
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    assert_eq!(rights(&bundle), before);
    let inside = |script: &str| {
        let args = ["--user", "0", &bundle.id, "sh", "-c", script];
        bundle.exec(&args)
    };
    assert_eq!(
        inside("hostname; cat /proc/keys; ls /sys/firmware").success(),
        "saved"
    );
    assert_eq!(inside("cat /proc/self/cgroup").success(), "0::/");
    for (script, words) in [
        ("echo > /new", "Read-only"),
        ("echo > /proc/sys/kernel/hostname", "Read-only"),
        ("echo > /sys/firmware/x", "Read-only"),
    ] {
        let said = inside(script).failure();
        assert!(said.contains(words), "{said}");
    }
}

/// CRIU keeps it since 3.19. Without, the container would have more rights than it had.
fn no_new_privileges_are_kept() {
    let mut bundle = Bundle::new(COUNTER);
    let has_it = |bundle: &Bundle| rights(bundle).contains(&"NoNewPrivs:\t1".to_owned());
    for before in [true, false] {
        bundle.set("/process/noNewPrivileges", json!(before));
        counting(&bundle);
        assert_eq!(has_it(&bundle), before);
        checkpoint(&bundle, &[]).success();
        // That of the configuration, in whose place there may be another since.
        bundle.set("/process/noNewPrivileges", json!(true));
        restore(&bundle, &[]).success();
        assert!(has_it(&bundle));
        counts_on(&bundle);
        bundle.runtime(&["delete", "--force", &bundle.id]).success();
        fs::remove_file(bundle.rootfs().join("tmp/starts")).unwrap();
    }
}

/// Of one process it can't be given back to that process alone.
fn a_processs_own_no_new_privs_are_kept_or_refused() {
    let bundle = saveable(&format!("exec busybox setpriv --nnp sh -c '{COUNTER}'"));
    counting(&bundle);
    let said = checkpoint(&bundle, &[]);
    if said.code == 0 {
        restore(&bundle, &[]).success();
    } else {
        let said = said.failure();
        assert!(
            said.contains("no_new_privs") && said.contains("3.19"),
            "{said}"
        );
    }
    assert!(rights(&bundle).contains(&"NoNewPrivs:\t1".to_owned()));
    counts_on(&bundle);
}
