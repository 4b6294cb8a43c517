//! Limits in the cgroup: those that this machine has controllers for, and what is said of the others.

use std::fs;

use berth_runtime::cgroup::{Cgroup, Limits};
use oci_spec::runtime::LinuxResources;
use serde_json::json;

use crate::bundle::Bundle;
use crate::machine::has_controller;

crate::tests! {
    a_class_of_service_is_refused_where_there_is_no_resctrl;
    cpu_limits_are_what_the_kernel_has needs "cpu";
    memory_limits_are_what_the_kernel_has needs "memory";
    pids_are_limited needs "pids";
    memory_beyond_the_limit_is_killed_and_counted needs "memory";
    a_tasks_cgroup_limits_its_containers needs "memory", "cpu";
    a_limit_without_a_controller_is_an_error_that_names_it;
    best_effort_makes_a_missing_limit_a_warning;
    a_zero_limit_is_none;
    a_cgroup_is_removed_with_those_below_it;
    a_cgroup_is_removed_with_its_processes;
    a_cgroup_with_foreign_processes_is_refused;
    empty_parents_are_removed_up_to_a_level;
}

fn inside(resources: serde_json::Value, files: &str) -> String {
    let mut bundle = Bundle::new(&format!("cd /sys/fs/cgroup; cat {files}"));
    bundle.set("/linux/resources", resources);
    bundle.run().success()
}

fn cpu_limits_are_what_the_kernel_has() {
    let cpu = json!({"cpu": {"shares": 512, "quota": 50000, "period": 100_000}});
    assert_eq!(inside(cpu, "cpu.max cpu.weight"), "50000 100000\n59");
}

fn memory_limits_are_what_the_kernel_has() {
    let memory = json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432}});
    assert_eq!(
        inside(memory, "memory.max memory.low"),
        "67108864\n33554432"
    );
}

fn pids_are_limited() {
    let mut bundle =
        Bundle::new("cat /sys/fs/cgroup/pids.max; for i in 1 2 3 4; do sleep 1000 & done; wait");
    bundle.set("/linux/resources", json!({"pids": {"limit": 3}}));
    let said = bundle.run();
    assert!(
        said.stdout.starts_with('3') && said.stderr.contains("fork"),
        "{said:?}"
    );
}

fn memory_beyond_the_limit_is_killed_and_counted() {
    let path = format!("berth-test-{}-oom", std::process::id());
    let mut bundle = Bundle::new("dd if=/dev/zero of=/dev/null bs=64M count=1");
    bundle.args(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    bundle.set("/linux/cgroupsPath", json!(path));
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}}),
    );
    bundle.write();
    let said = bundle.runtime(&["run", "--keep", &bundle.id]);
    assert_eq!(said.code, 137, "{said:?}");
    assert!(
        Cgroup::open(&path)
            .unwrap()
            .memory_events()
            .unwrap()
            .oom_kill
            >= 1
    );
}

fn a_tasks_cgroup_limits_its_containers() {
    let task = format!("berth-test-{}-task", std::process::id());
    let cgroup = Cgroup::create(&task).unwrap();
    let resources = resources(&json!({"memory": {"limit": 67_108_864}, "cpu": {"quota": 25000}}));
    assert!(
        cgroup
            .apply(&resources, Limits::Required)
            .unwrap()
            .is_empty()
    );
    assert_eq!(cgroup.read("memory.max").unwrap().trim(), "67108864");
    assert_eq!(cgroup.read("cpu.max").unwrap().trim(), "25000 100000");
    let mut bundle = Bundle::new("cat /sys/fs/cgroup/memory.max");
    bundle.set("/linux/cgroupsPath", json!(format!("{task}/web")));
    bundle.set("/linux/resources", json!({"memory": {"limit": 33_554_432}}));
    assert_eq!(bundle.run().success(), "33554432");
    drop(bundle);
    cgroup.remove().unwrap();
}

fn resources(json: &serde_json::Value) -> LinuxResources {
    serde_json::from_value(json.clone()).unwrap()
}

/// A limit whose controller no kernel has.
fn unavailable() -> serde_json::Value {
    json!({"unified": {"nosuch.max": "1"}})
}

fn a_limit_without_a_controller_is_an_error_that_names_it() {
    let mut limits = vec![("nosuch", unavailable())];
    if !has_controller("memory") {
        limits.push(("memory", json!({"memory": {"limit": 1 << 26}})));
    }
    for (controller, limit) in limits {
        let mut bundle = Bundle::new("true");
        bundle.set("/linux/resources", limit);
        let said = bundle.run().failure();
        assert!(
            said.contains(&format!("controller {controller:?}")),
            "{said}"
        );
        assert!(said.contains(&format!("{controller}.max")), "{said}");
    }
}

fn best_effort_makes_a_missing_limit_a_warning() {
    let mut bundle = Bundle::new("echo ran");
    bundle.set("/linux/resources", unavailable());
    bundle.write();
    let said = bundle.runtime(&["--limits", "best-effort", "run", &bundle.id]);
    assert_eq!((said.code, said.stdout.as_str()), (0, "ran"));
    assert!(said.stderr.contains("a limit is not in force"), "{said:?}");
}

fn a_zero_limit_is_none() {
    let none =
        json!({"memory": {"limit": 0}, "cpu": {"shares": 0, "quota": 0}, "pids": {"limit": 0}});
    inside(none, "cgroup.procs");
}

fn a_cgroup_is_removed_with_those_below_it() {
    let path = format!("berth-test-{}", std::process::id());
    let cgroup = Cgroup::create(&path).unwrap();
    for below in ["a", "a/b", "c"] {
        fs::create_dir(format!("/sys/fs/cgroup/{path}/{below}")).unwrap();
    }
    cgroup.remove().unwrap();
    assert!(Cgroup::open(&path).is_err());
}

fn a_cgroup_is_removed_with_its_processes() {
    let cgroup = Cgroup::create(format!("berth-test-{}", std::process::id())).unwrap();
    let mut child = std::process::Command::new(crate::machine::busybox())
        .args(["sleep", "1000"])
        .spawn()
        .unwrap();
    cgroup
        .add(nix::unistd::Pid::from_raw(child.id() as i32))
        .unwrap();
    assert_eq!(cgroup.processes().unwrap().len(), 1);
    assert!(cgroup.is_populated().unwrap());
    cgroup.remove().unwrap();
    assert!(!child.wait().unwrap().success());
}

fn a_cgroup_with_foreign_processes_is_refused() {
    let holder = Bundle::new("sleep 1000");
    let pid = holder.run_detached();
    let cgroup = Cgroup::of(nix::unistd::Pid::from_raw(pid)).unwrap();
    let mut bundle = Bundle::new("true");
    bundle.set("/linux/cgroupsPath", json!(cgroup.path()));
    let said = bundle.run().failure();
    assert!(said.contains("linux.cgroupsPath"), "{said}");
    assert_eq!(holder.status(), "running");
}

fn empty_parents_are_removed_up_to_a_level() {
    let top = format!("berth-test-{}", std::process::id());
    let cgroup = Cgroup::create(format!("{top}/a/b")).unwrap();
    cgroup.remove_with_empty_parents(1).unwrap();
    assert!(Cgroup::open(format!("{top}/a")).is_err());
    Cgroup::open(&top).unwrap().remove().unwrap();
}

fn a_class_of_service_is_refused_where_there_is_no_resctrl() {
    let mut bundle = Bundle::new("true");
    bundle.set("/linux/intelRdt", json!({"schemata": ["L3:0=f"]}));
    let said = bundle.run().failure();
    for part in ["linux.intelRdt", "mount -t resctrl resctrl /sys/fs/resctrl"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    for (flag, line) in [
        ("--l3-cache-schema", "L3:0=1"),
        ("--mem-bw-schema", "MB:0=20"),
    ] {
        let said = bundle
            .runtime(&["update", flag, line, &bundle.id])
            .failure();
        for part in [flag, "mount -t resctrl resctrl /sys/fs/resctrl"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
