//! Scheduler, I/O priority, processors, memory policy, execution domain, time.

use serde_json::json;

use crate::bundle::Bundle;

crate::tests! {
    a_scheduler_is_set;
    an_io_priority_is_set;
    exec_runs_on_its_processors;
    a_personality_is_set_and_exec_has_it_too;
    a_memory_policy_is_set_or_said_to_be_missing;
    a_new_time_namespace_has_its_offsets;
    a_time_namespace_is_joined_by_path;
    exec_enters_the_time_namespace;
    a_session_keyring_is_the_containers_own;
}

fn a_scheduler_is_set() {
    let mut bundle =
        Bundle::new("grep -E '^(policy|prio)' /proc/self/sched; cut -d' ' -f19,41 /proc/self/stat");
    bundle.set(
        "/process/scheduler",
        json!({"policy": "SCHED_BATCH", "nice": 7}),
    );
    // The fields are nice and policy; SCHED_BATCH is 3.
    assert!(bundle.run().success().ends_with("7 3"));
}

fn an_io_priority_is_set() {
    let mut bundle = Bundle::new("ionice -p 1");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/ionice")).unwrap();
    bundle.set(
        "/process/ioPriority",
        json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
    );
    assert_eq!(bundle.run().success(), "best-effort: prio 6");
}

fn exec_runs_on_its_processors() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/process/execCPUAffinity",
        json!({"initial": "0", "final": "1"}),
    );
    bundle.run_detached();
    let show = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let mut all = vec![bundle.id.as_str()];
    all.extend(show);
    assert_eq!(bundle.exec(&all).success(), "Cpus_allowed_list:\t1");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    // One that isn't there is said, by name.
    bundle.set("/process/execCPUAffinity", json!({"initial": "1023"}));
    bundle.run_detached();
    let said = bundle.exec(&[&bundle.id, "true"]).failure();
    assert!(said.contains("process.execCPUAffinity.initial"), "{said}");
}

fn a_personality_is_set_and_exec_has_it_too() {
    let personal = |script| {
        let mut bundle = Bundle::new(script);
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/uname")).unwrap();
        bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
        bundle
    };
    assert_eq!(personal("uname -m").run().success(), "i686");
    // Silent: what it printed would mix with the output of exec.
    let bundle = personal("sleep 1000");
    bundle.run_detached();
    assert_eq!(bundle.exec(&[&bundle.id, "uname", "-m"]).success(), "i686");
}

fn a_memory_policy_is_set_or_said_to_be_missing() {
    let mut bundle = Bundle::new("cat /proc/self/numa_maps | head -1");
    bundle.set(
        "/linux/memoryPolicy",
        json!({"mode": "MPOL_BIND", "nodes": "0"}),
    );
    let said = bundle.run();
    match std::path::Path::new("/proc/self/numa_maps").exists() {
        true => assert!(said.stdout.contains("bind:0"), "{said:?}"),
        false => assert!(said.stderr.contains("linux.memoryPolicy"), "{said:?}"),
    }
}

fn with_time_namespace(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    bundle
}

fn uptime(text: &str) -> f64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

/// The container's uptime must be ahead of the host's by so many seconds.
#[track_caller]
fn is_ahead(bundle: &Bundle, seconds: f64) {
    let host = || uptime(&std::fs::read_to_string("/proc/uptime").unwrap());
    let before = host();
    let shifted = uptime(&bundle.run().success()) - seconds;
    let after = host();
    // Each is cut off after the hundredths.
    let possible = before - 0.01..after + 0.02;
    assert!(possible.contains(&shifted), "{shifted}: {possible:?}");
}

fn a_new_time_namespace_has_its_offsets() {
    let mut bundle = with_time_namespace("cat /proc/uptime");
    is_ahead(&bundle, 0.0);
    bundle.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}}),
    );
    is_ahead(&bundle, 1e6);
    // In a user namespace of its own, too.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 100_000}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
    is_ahead(&bundle, 1e6);
}

fn a_time_namespace_is_joined_by_path() {
    let mut holder = with_time_namespace("sleep 1000");
    holder.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 5_000_000}}),
    );
    let pid = holder.run_detached();
    let mut bundle = Bundle::new("cat /proc/uptime");
    let path = format!("/proc/{pid}/ns/time");
    bundle.push("/linux/namespaces", json!({"type": "time", "path": path}));
    assert!(uptime(&bundle.run().success()) > 4_999_999.0);
}

fn exec_enters_the_time_namespace() {
    let mut bundle = with_time_namespace("sleep 1000");
    bundle.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 5_000_000}}),
    );
    bundle.run_detached();
    let said = bundle.exec(&[&bundle.id, "cat", "/proc/uptime"]).success();
    assert!(uptime(&said) > 4_999_999.0);
}

/// `keyctl show` isn't in busybox: /proc/keys lists the keys that a process may see.
fn a_session_keyring_is_the_containers_own() {
    if !std::path::Path::new("/proc/keys").exists() {
        return;
    }
    let keyrings = |options: &[&str]| {
        let mut bundle = Bundle::new("sleep 1000");
        bundle.set("/linux/maskedPaths", json!([]));
        bundle.write();
        let mut run = vec!["run", "--detach", bundle.id.as_str()];
        run.extend(options);
        bundle.runtime(&run).success();
        // Of the two processes it is one keyring.
        let name = format!("_ses.{}", bundle.id);
        let said = bundle.exec(&[&bundle.id, "grep", "-c", &name, "/proc/keys"]);
        said.stdout
    };
    assert_eq!(keyrings(&[]), "1");
    assert_eq!(keyrings(&["--no-new-keyring"]), "0");
}
