use serde_json::{Value, json};

use super::*;

/// The default configuration with a part of it replaced, by JSON pointer.
fn with(pointer: &str, new: Value) -> Result<(), Error> {
    let mut spec = serde_json::to_value(crate::spec::default()).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[name] = new;
    validate(&serde_json::from_value(spec).unwrap())
}

#[test]
fn the_default_configuration_is_valid() {
    validate(&crate::spec::default()).unwrap();
}

#[test]
fn what_is_wrong_is_named() {
    let twice = json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}, {"type": "uts"}]);
    let proc = |destination: &str| json!([{"destination": destination, "type": "tmpfs"}]);
    for (pointer, new, said) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/selinuxLabel", json!("x"), "process.selinuxLabel"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "rlimits[0]",
        ),
        (
            "/hooks",
            json!({"prestart": [{"path": "/x"}]}),
            "hooks.prestart",
        ),
        ("/linux/namespaces", twice, "linux.namespaces[2]"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "type mount"),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "time"}, {"type": "uts"}]),
            "time",
        ),
        ("/linux/namespaces", json!([{"type": "mount"}]), "hostname"),
        ("/linux/cgroupsPath", json!("/a/../b"), "linux.cgroupsPath"),
        ("/linux/cgroupsPath", json!("system.slice:x:y"), "systemd"),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "kernel.panic",
        ),
        (
            "/linux/sysctl",
            json!({"net.ipv4.../../x": "1"}),
            "linux.sysctl",
        ),
        ("/linux/rootfsPropagation", json!("odd"), "odd"),
        (
            "/linux/personality",
            json!({"domain": "LINUX"}),
            "linux.personality",
        ),
        (
            "/mounts",
            json!([{"destination": "/", "type": "tmpfs"}]),
            "mounts[0].destination",
        ),
        ("/mounts", proc("/proc"), "mounts[0].destination"),
        ("/mounts", proc("/proc/self/attr"), "mounts[0].destination"),
        ("/mounts", proc("/x/../proc/sys"), "mounts[0].destination"),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "tmpfs", "options": ["tmpcopyup"]}]),
            "tmpcopyup",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "source": "/b", "options": ["bind", "odd"]}]),
            "odd",
        ),
    ] {
        let message = with(pointer, new).unwrap_err().to_string();
        assert!(message.contains(said), "{pointer}: {message}");
    }
}

#[test]
fn a_user_namespace_needs_root_mapped() {
    let namespaces = json!([{"type": "mount"}, {"type": "user"}, {"type": "uts"}]);
    let message = with("/linux/namespaces", namespaces)
        .unwrap_err()
        .to_string();
    assert!(message.contains("linux.uidMappings"), "{message}");
}
