//! Containers without a cgroup of their own (`--cgroup-manager disabled`).

use std::fs;

use serde_json::json;

use crate::bundle::{Bundle, Said};
use crate::machine::wait_until;

crate::tests! {
    a_container_without_a_cgroup_stays_in_its_makers;
    its_processes_are_those_of_its_pid_namespace;
    what_takes_a_cgroup_is_refused;
    a_limit_is_refused_and_device_rules_are_warned_of;
    without_a_pid_namespace_too_only_the_first_process_is_known;
}

fn without(bundle: &Bundle, args: &[&str]) -> Said {
    let mut all = vec!["--cgroup-manager", "disabled"];
    all.extend(args);
    bundle.runtime(&all)
}

/// A bundle without limits, whose container has no cgroup.
fn unlimited(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.set("/linux/resources", json!({}));
    bundle
}

fn cgroup_of(process: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("0::"));
    line.unwrap().to_owned()
}

fn a_container_without_a_cgroup_stays_in_its_makers() {
    let bundle = unlimited("sleep 1000");
    bundle.write();
    without(&bundle, &["create", &bundle.id]).success();
    let pid = bundle.state()["pid"].to_string();
    assert_eq!(cgroup_of(&pid), cgroup_of("self"));
    bundle.runtime(&["start", &bundle.id]).success();
    let entered = bundle.exec(&[&bundle.id, "sh", "-c", "echo $$; exit 4"]);
    assert_eq!(entered.code, 4, "{entered:?}");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
}

fn its_processes_are_those_of_its_pid_namespace() {
    let bundle = unlimited("exec sleep 1000");
    bundle.write();
    without(&bundle, &["run", "--detach", &bundle.id]).success();
    bundle
        .exec(&["--detach", &bundle.id, "sleep", "1000"])
        .success();
    let listed = bundle
        .runtime(&["ps", "--format", "json", &bundle.id])
        .success();
    let pids: Vec<i32> = serde_json::from_str(&listed).unwrap();
    assert_eq!(pids.len(), 2, "{pids:?}");
    bundle
        .runtime(&["kill", "--all", &bundle.id, "KILL"])
        .success();
    // The second is ours to reap, and until then the first stays.
    let init = bundle.state()["pid"].as_u64().unwrap() as u32;
    wait_until(|| {
        crate::leaks::reap_all_but(init);
        bundle.status() == "stopped"
    });
    let listed = bundle
        .runtime(&["ps", "--format", "json", &bundle.id])
        .success();
    assert_eq!(listed, "[]");
    bundle.runtime(&["delete", &bundle.id]).success();
}

fn what_takes_a_cgroup_is_refused() {
    let bundle = unlimited("sleep 1000");
    bundle.write();
    without(&bundle, &["run", "--detach", &bundle.id]).success();
    let id = bundle.id.as_str();
    for args in [
        &["pause", id][..],
        &["update", "--memory", "64m", id],
        &["events", "--stats", id],
        &["exec", "--cgroup", "below", id, "true"],
    ] {
        let refused = bundle.runtime(args).failure();
        assert!(refused.contains("cgroup of its own"), "{args:?}: {refused}");
    }
    bundle.runtime(&["delete", "--force", id]).success();
}

fn a_limit_is_refused_and_device_rules_are_warned_of() {
    let mut bundle = unlimited("true");
    bundle.set("/linux/resources", json!({"pids": {"limit": 10}}));
    bundle.write();
    let refused = without(&bundle, &["run", &bundle.id]).failure();
    assert!(
        refused.contains("pids.max") && refused.contains("disabled"),
        "{refused}"
    );
    let rules = json!({"devices": [{"allow": false, "access": "rwm"}]});
    bundle.set("/linux/resources", rules);
    bundle.write();
    let said = without(&bundle, &["run", &bundle.id]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("linux.resources.devices"), "{said:?}");
}

fn without_a_pid_namespace_too_only_the_first_process_is_known() {
    let mut bundle = unlimited("exec sleep 1000");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    // A new procfs would need the pid namespace.
    bundle.drop_mount("/proc");
    bundle.set("/linux/maskedPaths", json!([]));
    bundle.set("/linux/readonlyPaths", json!([]));
    bundle.write();
    without(&bundle, &["run", "--detach", &bundle.id]).success();
    let refused = bundle.runtime(&["ps", &bundle.id]).failure();
    assert!(
        refused.contains("neither a cgroup nor a pid namespace"),
        "{refused}"
    );
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
}
