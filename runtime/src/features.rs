//! What this runtime can do, in the form that OCI gives to `features`.

use serde_json::{Value, json};

use crate::hooks::Stage;
use crate::{capabilities, plan, seccomp};

/// The document that `berth-runtime features` prints.
pub fn features() -> Value {
    let namespaces = [
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    ];
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let actions = [
        "KILL",
        "KILL_PROCESS",
        "KILL_THREAD",
        "TRAP",
        "ERRNO",
        "TRACE",
        "ALLOW",
        "LOG",
        "NOTIFY",
    ];
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": Stage::ALL.map(Stage::name),
        "mountOptions": plan::MOUNT_OPTIONS.as_slice(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": capabilities::names(),
            "cgroup": {
                "v1": false, "v2": true, "systemd": true, "systemdUser": false, "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": actions.map(|action| format!("SCMP_ACT_{action}")),
                "operators": operators.map(|operator| format!("SCMP_CMP_{operator}")),
                "archs": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": seccomp::KNOWN_FLAGS,
                "supportedFlags": seccomp::KNOWN_FLAGS,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "netDevices": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    })
}
