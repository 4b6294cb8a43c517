//! Configurations that are wrong, by the command: refused before anything is made.
//!
//! Which ones are wrong, and that the error names the field, is for the tests of `config`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use berth_runtime::failpoint::VARIABLE;
use serde_json::{Value, json};

use crate::bundle::Bundle;

crate::tests! {
    a_wrong_configuration_is_refused_before_a_cgroup_is_made;
    a_file_that_is_no_configuration_is_refused;
}

fn rules(count: usize) -> Value {
    let rule = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]});
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": vec![rule; count]})
}

/// With a bad value at this place, `create` must fail before it comes to the cgroup: there it would be
/// killed.
#[track_caller]
fn assert_refused(bundle: &mut Bundle, place: &str, bad: Value, said: &str) {
    let before = bundle.config.clone();
    bundle.set(place, bad);
    bundle.write();
    bundle.config = before;
    let errors = fs::File::create(bundle.host("err")).unwrap();
    let mut command = bundle.command(&["create", &bundle.id]);
    command
        .env(VARIABLE, "cgroup-made")
        .stdout(Stdio::null())
        .stderr(errors);
    let status = command.status().unwrap();
    let message = fs::read_to_string(bundle.host("err")).unwrap();
    assert_eq!(status.signal(), None, "{place}: it came to the cgroup");
    assert_eq!(status.code(), Some(1), "{place}: {message}");
    assert!(message.contains(said), "{place}: {message}");
    assert!(message.len() < 1000, "{place}: {message}");
    let left = fs::read_dir(bundle.host("state")).unwrap().count();
    assert_eq!(left, 0, "{place}: the state directory is left");
}

fn a_wrong_configuration_is_refused_before_a_cgroup_is_made() {
    let mut bundle = Bundle::new("true");
    let long = || json!("x".repeat(2 << 20));
    for (place, bad, said) in [
        ("/linux/seccomp", rules(4096), "linux.seccomp.syscalls"),
        (
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1\0"}),
            "linux.sysctl",
        ),
        ("/linux/cgroupsPath", json!("/a\0b"), "linux.cgroupsPath"),
        ("/linux/maskedPaths", json!([""]), "linux.maskedPaths[0]"),
        (
            "/linux/resources",
            json!({"pids": {"limit": 1i64 << 40}}),
            "pids.limit",
        ),
        (
            "/linux/resources",
            json!({"cpu": []}),
            "linux.resources.cpu",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "size": 1}]),
            "hostID",
        ),
        ("/root/path", json!("rootfs\0"), "root.path"),
        ("/root/path", json!(""), "root.path"),
        ("/hostname", long(), "hostname"),
        ("/process/args", json!([long()]), "process.args[0]"),
        ("/process/args", json!([]), "process.args"),
        ("/process/user", json!({"gid": 0}), "process.user"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/process/env", json!(["A=\0"]), "process.env[0]"),
        (
            "/process/rlimits",
            json!(vec![1; 100_000]),
            "process.rlimits[0]",
        ),
        ("/mounts", json!([{"destination": "/a"}]), "mounts[0].type"),
        (
            "/hooks",
            json!({"poststop": [{"path": "relative"}]}),
            "hooks.poststop[0].path",
        ),
    ] {
        assert_refused(&mut bundle, place, bad, said);
    }
    // And one that is right comes that far.
    bundle.write();
    let mut command = bundle.command(&["create", &bundle.id]);
    let status = command.env(VARIABLE, "cgroup-made").status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

fn a_file_that_is_no_configuration_is_refused() {
    let bundle = Bundle::new("true");
    let deep = "[".repeat(1 << 20);
    for text in [
        "",
        "[]",
        "null",
        "{}",
        "{\"ociVersion\": \"1.0.0\"}",
        "\0",
        &deep,
    ] {
        fs::write(bundle.host("config.json"), text).unwrap();
        let said = bundle.runtime(&["create", &bundle.id]).failure();
        assert!(said.len() < 1000 && !said.contains("panicked"), "{said}");
    }
    let large = fs::File::create(bundle.host("config.json")).unwrap();
    large.set_len(1 << 40).unwrap();
    let said = bundle.runtime(&["create", &bundle.id]).failure();
    assert!(said.contains("larger than"), "{said}");
}
