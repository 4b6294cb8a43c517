mod bad_input;

use serde_json::{Value, json};

use super::*;

/// The default configuration with a part of it replaced, by JSON pointer.
fn with(pointer: &str, new: Value) -> Result<(), Error> {
    let mut spec = serde_json::to_value(crate::spec::default()).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[name] = new;
    validate(&serde_json::from_value(spec).unwrap(), Driver::Cgroupfs)
}

#[test]
fn the_default_configuration_is_valid() {
    validate(&crate::spec::default(), Driver::Cgroupfs).unwrap();
    validate(&crate::spec::default(), Driver::Systemd).unwrap();
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
        (
            "/process/user",
            json!({"uid": 4294967295u32, "gid": 0}),
            "process.user.uid",
        ),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "umask": 512}),
            "process.user.umask",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 5}),
            "process.scheduler.priority",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "priority": 100}),
            "process.scheduler.priority",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0-9999", "final": "1"}),
            "process.execCPUAffinity.initial",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "rlimits[0]",
        ),
        (
            "/hooks",
            json!({"poststop": [{"path": "relative"}]}),
            "hooks.poststop[0].path",
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/x", "timeout": 0}]}),
            "hooks.createRuntime[0].timeout",
        ),
        ("/linux/namespaces", twice, "linux.namespaces[2]"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "type mount"),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "time", "path": "relative"}, {"type": "uts"}]),
            "linux.namespaces[1].path",
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
            json!({"domain": "LINUX", "flags": ["odd"]}),
            "linux.personality.flags",
        ),
        (
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets.monotonic",
        ),
        (
            "/linux/timeOffsets",
            json!({"realtime": {"secs": 1}}),
            "linux.timeOffsets",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}]),
            "linux.devices[0].major",
        ),
        (
            "/linux/devices",
            json!([{"path": "x", "type": "c", "major": 1, "minor": 0}]),
            "linux.devices[0].path",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            "linux.memoryPolicy.nodes",
        ),
        (
            "/linux/intelRdt",
            json!({"closID": "../x"}),
            "linux.intelRdt.closID",
        ),
        (
            "/linux/intelRdt",
            json!({"schemata": ["L3:0=f\nMB:0=10"]}),
            "linux.intelRdt",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "eth%d"}}),
            "linux.netDevices",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "a/b"}}),
            "linux.netDevices",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}}),
            "linux.netDevices",
        ),
        ("/linux/mountLabel", json!("a\"b"), "linux.mountLabel"),
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
            json!([{"destination": "/a", "type": "bind", "source": "/b", "options": ["tmpcopyup"]}]),
            "tmpcopyup",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "tmpfs", "options": ["idmap"]}]),
            "mounts[0].options",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "tmpfs",
                "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]),
            "mounts[0].uidMappings",
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
fn each_driver_takes_its_own_form_of_path() {
    let validated = |path: &str, driver| {
        let mut spec = serde_json::to_value(crate::spec::default()).unwrap();
        spec["linux"]["cgroupsPath"] = json!(path);
        validate(&serde_json::from_value(spec).unwrap(), driver)
    };
    validated("/a/b", Driver::Cgroupfs).unwrap();
    validated("machine.slice:libpod:abc", Driver::Systemd).unwrap();
    let wrong = validated("machine.slice:libpod:abc", Driver::Cgroupfs).unwrap_err();
    assert!(wrong.to_string().contains("takes a path"), "{wrong}");
    let wrong = validated("/a/b", Driver::Systemd).unwrap_err().to_string();
    for part in ["linux.cgroupsPath", "/a/b", "slice:prefix:name"] {
        assert!(wrong.contains(part), "{wrong}");
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

#[test]
fn a_field_that_does_not_parse_is_named() {
    let mut spec = serde_json::to_value(crate::spec::default()).unwrap();
    spec["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": "one", "minor": 0}]);
    let text = serde_json::to_vec(&spec).unwrap();
    let error = parse::<Spec>(Path::new("config.json"), &text)
        .unwrap_err()
        .to_string();
    assert!(error.contains("linux.devices[0].major"), "{error}");
    let error = parse::<Spec>(Path::new("config.json"), b"{} x")
        .unwrap_err()
        .to_string();
    assert!(error.contains("config.json"), "{error}");
}
