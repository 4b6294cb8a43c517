//! Cgroups that systemd makes. Where it isn't PID 1, only what is refused before it is asked.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use berth_runtime::cgroup::Cgroup;
use nix::unistd::Pid;
use serde_json::json;

use crate::bundle::{Bundle, Said};
use crate::machine::wait_until;

crate::tests! {
    each_driver_refuses_the_others_form_of_path;
    a_scope_is_in_its_slice_with_limits_as_properties_and_in_files needs "systemd", "memory", "pids";
    without_a_path_the_scope_is_named_after_the_container needs "systemd";
    a_container_that_ended_leaves_no_unit needs "systemd";
    deleting_by_force_leaves_no_unit needs "systemd";
    a_create_that_was_killed_is_deleted_with_its_unit needs "systemd";
    a_create_that_fails_leaves_no_unit needs "systemd";
    the_scope_of_another_is_left_alone needs "systemd";
    update_changes_properties_and_survives_a_reload needs "systemd", "memory", "pids", "cpu";
    an_update_that_is_refused_changes_no_property needs "systemd", "memory";
    annotations_set_properties needs "systemd";
    devices_are_allowed_and_denied_after_a_reload needs "systemd";
    commands_find_the_containers_processes_in_the_scope needs "systemd";
    a_cgroup_made_below_is_removed_with_the_scope needs "systemd";
    many_scopes_start_at_once needs "systemd";
}

/// Each with a slice that no other test has, since systemd keeps slices when they are empty.
struct Slice(String);

impl Slice {
    fn of(bundle: &Bundle) -> Self {
        Self(format!("berth{}.slice", bundle.id.replace('-', "x")))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        systemctl(&["stop", &self.0]);
    }
}

fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    Said::from(output).success()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

#[track_caller]
pub(crate) fn assert_gone(unit: &str) {
    assert_eq!(property(unit, "LoadState"), "not-found", "{unit}");
    let all = systemctl(&["list-units", "--all", "--plain", "--no-legend", unit]);
    assert_eq!(all, "");
}

pub(crate) fn scope(bundle: &Bundle) -> String {
    format!("berth-runtime-{}.scope", bundle.id)
}

fn run_detached(bundle: &Bundle) -> i32 {
    bundle.write();
    let args = ["--systemd-cgroup", "run", "--detach", &bundle.id];
    bundle.runtime(&args).success();
    bundle.state()["pid"].as_i64().unwrap() as i32
}

fn create(bundle: &Bundle) -> Said {
    bundle.write();
    bundle.runtime(&["--cgroup-manager", "systemd", "create", &bundle.id])
}

fn delete(bundle: &Bundle) {
    let args = ["delete", "--force", &bundle.id];
    assert_eq!(bundle.runtime(&args).success(), "");
}

fn each_driver_refuses_the_others_form_of_path() {
    let mut bundle = Bundle::new("true");
    for (manager, path, right) in [
        ("cgroupfs", "machine.slice:a:b", "takes a path"),
        ("systemd", "/a/b", "slice:prefix:name"),
        ("systemd", "a/b.slice:p:n", "the name of a slice"),
    ] {
        bundle.set("/linux/cgroupsPath", json!(path));
        bundle.write();
        let said = bundle.runtime(&["--cgroup-manager", manager, "run", &bundle.id]);
        let said = said.failure();
        assert!(said.contains("linux.cgroupsPath"), "{said}");
        assert!(said.contains(path) && said.contains(right), "{said}");
    }
}

fn a_scope_is_in_its_slice_with_limits_as_properties_and_in_files() {
    let mut bundle = Bundle::new("sleep 1000");
    let slice = Slice::of(&bundle);
    bundle.set(
        "/linux/cgroupsPath",
        json!(format!("{}:x:{}", slice.0, bundle.id)),
    );
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 17}}),
    );
    let pid = run_detached(&bundle);
    let unit = format!("x-{}.scope", bundle.id);
    let path = format!("{}/{unit}", slice.0);
    let cgroup = Cgroup::of(Pid::from_raw(pid)).unwrap();
    assert_eq!(cgroup.path(), PathBuf::from(&path));
    // The container alone: the process that the scope began with is gone.
    assert_eq!(cgroup.all_processes().unwrap(), [Pid::from_raw(pid)]);
    for (name, value) in [
        ("Slice", slice.0.as_str()),
        ("ControlGroup", &format!("/{path}")),
        ("ActiveState", "active"),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("TasksMax", "17"),
    ] {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    assert_eq!(cgroup.read("memory.max").unwrap().trim(), "67108864");
    assert_eq!(cgroup.read("pids.max").unwrap().trim(), "17");
    delete(&bundle);
    assert_gone(&unit);
}

fn without_a_path_the_scope_is_named_after_the_container() {
    let bundle = Bundle::new("sleep 1000");
    run_detached(&bundle);
    let unit = scope(&bundle);
    assert_eq!(property(&unit, "Slice"), "system.slice");
    let description = property(&unit, "Description");
    // The number after it tells it from another's of the same name.
    let described = description.strip_prefix(&format!("container {} ", bundle.id));
    assert_eq!(described.unwrap().len(), 16, "{description}");
    delete(&bundle);
    assert_gone(&unit);
}

fn a_container_that_ended_leaves_no_unit() {
    let bundle = Bundle::new("exit 3");
    bundle.write();
    let said = bundle.runtime(&["--systemd-cgroup", "run", &bundle.id]);
    assert_eq!(said.code, 3, "{said:?}");
    assert_gone(&scope(&bundle));
    // And by way of create, start and delete.
    create(&bundle).success();
    assert_eq!(property(&scope(&bundle), "ActiveState"), "active");
    bundle.runtime(&["start", &bundle.id]).success();
    wait_until(|| bundle.status() == "stopped");
    bundle.runtime(&["delete", &bundle.id]).success();
    assert_gone(&scope(&bundle));
}

fn deleting_by_force_leaves_no_unit() {
    // One that doesn't end by itself when it is asked.
    let bundle = Bundle::new("trap '' TERM; while :; do sleep 1; done");
    run_detached(&bundle);
    delete(&bundle);
    assert_gone(&scope(&bundle));
}

fn a_create_that_was_killed_is_deleted_with_its_unit() {
    let bundle = Bundle::new("true");
    create(&bundle).success();
    // All that is left of the record is what was noted before.
    fs::remove_file(bundle.host("state").join(&bundle.id).join("state.json")).unwrap();
    delete(&bundle);
    assert_gone(&scope(&bundle));
    assert!(!bundle.host("state").join(&bundle.id).exists());
}

fn a_create_that_fails_leaves_no_unit() {
    let mut bundle = Bundle::new("true");
    bundle.bind(&bundle.host("missing"), "/mnt", &[]);
    let said = create(&bundle).failure();
    assert!(said.contains("missing"), "{said}");
    assert_gone(&scope(&bundle));
    // It fails in the container's process, too.
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    bundle.set("/process/cwd", json!("/bin/busybox"));
    let said = create(&bundle).failure();
    assert!(said.contains("/bin/busybox"), "{said}");
    assert_gone(&scope(&bundle));
    // And where a limit is impossible only for the file.
    bundle.set("/process/cwd", json!("/"));
    bundle.set(
        "/linux/resources",
        json!({"unified": {"memory.nonsense": "1"}}),
    );
    let said = create(&bundle).failure();
    assert!(said.contains("memory.nonsense"), "{said}");
    assert_gone(&scope(&bundle));
}

fn the_scope_of_another_is_left_alone() {
    let mut one = Bundle::new("sleep 1000");
    let path = json!(format!("system.slice:x:{}", one.id));
    one.set("/linux/cgroupsPath", path.clone());
    run_detached(&one);
    let mut other = Bundle::new("true");
    other.set("/linux/cgroupsPath", path);
    let said = create(&other).failure();
    let unit = format!("x-{}.scope", one.id);
    assert!(
        said.contains("UnitExists") && said.contains(&unit),
        "{said}"
    );
    assert_eq!(one.status(), "running");
    assert_eq!(property(&unit, "ActiveState"), "active");
}

fn update_changes_properties_and_survives_a_reload() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 17}}),
    );
    let cgroup = Cgroup::of(Pid::from_raw(run_detached(&bundle))).unwrap();
    let args = ["--memory", "32M", "--pids-limit", "9", "--cpu-share"];
    let args = [&["update"], &args[..], &["512", &bundle.id]].concat();
    bundle.runtime(&args).success();
    let check = || {
        for (name, value) in [
            ("MemoryMax", "33554432"),
            ("TasksMax", "9"),
            ("CPUWeight", "59"),
        ] {
            assert_eq!(property(&scope(&bundle), name), value, "{name}");
        }
        for (file, value) in [
            ("memory.max", "33554432"),
            ("pids.max", "9"),
            ("cpu.weight", "59"),
        ] {
            assert_eq!(cgroup.read(file).unwrap().trim(), value, "{file}");
        }
    };
    check();
    systemctl(&["daemon-reload"]);
    check();
    // What systemd rounds up to a whole percent, the file has exactly.
    let args = ["--cpu-quota", "1000", "--cpu-period", "300000", &bundle.id];
    let args = [&["update"], &args[..]].concat();
    bundle.runtime(&args).success();
    let quota = property(&scope(&bundle), "CPUQuotaPerSecUSec");
    assert_eq!(quota, "10ms");
    assert_eq!(cgroup.read("cpu.max").unwrap().trim(), "1000 300000");
}

fn an_update_that_is_refused_changes_no_property() {
    let mut bundle = Bundle::new("sleep 1000");
    let limits = json!({"memory": {"limit": 64 << 20, "checkBeforeUpdate": true}});
    bundle.set("/linux/resources", limits);
    run_detached(&bundle);
    let limits = bundle.host("limits.json");
    let low = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}});
    fs::write(&limits, low.to_string()).unwrap();
    let args = ["update", "--resources", "limits.json", &bundle.id];
    let said = bundle.runtime(&args).failure();
    assert!(said.contains("checkBeforeUpdate"), "{said}");
    assert_eq!(property(&scope(&bundle), "MemoryMax"), "67108864");
}

fn annotations_set_properties() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.config["annotations"] = json!({
        "org.systemd.property.Description": "'of a test'",
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive'",
        "org.systemd.property.After": "['local-fs.target']",
    });
    run_detached(&bundle);
    let unit = scope(&bundle);
    // Followed by the container's mark.
    let description = property(&unit, "Description");
    let marked = format!("of a test ({} ", bundle.id);
    assert!(description.starts_with(&marked), "{description}");
    assert_eq!(property(&unit, "TimeoutStopUSec"), "7s");
    assert_eq!(property(&unit, "CollectMode"), "inactive");
    assert!(property(&unit, "After").contains("local-fs.target"));
    delete(&bundle);
    assert_gone(&unit);
    for (name, value, said) in [
        ("Description", "'open", "org.systemd.property.Description"),
        // What systemd itself refuses is said in its words.
        ("NoSuchThing", "true", "NoSuchThing"),
    ] {
        let name = format!("org.systemd.property.{name}");
        bundle.config["annotations"] = json!({ name: value });
        let got = create(&bundle).failure();
        assert!(got.contains(said), "{got}");
        assert_gone(&unit);
    }
}

fn devices_are_allowed_and_denied_after_a_reload() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.capabilities(&["CAP_MKNOD"]);
    run_detached(&bundle);
    systemctl(&["daemon-reload"]);
    let args = [&bundle.id, "sh", "-c", "echo x > /dev/null"];
    bundle.exec(&args).success();
    let script = "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg";
    let said = bundle.exec(&[&bundle.id, "sh", "-c", script]).failure();
    assert!(said.contains("not permitted"), "{said}");
}

fn commands_find_the_containers_processes_in_the_scope() {
    let bundle = Bundle::new("sleep 1000");
    let pid = run_detached(&bundle);
    let said = bundle.runtime(&["ps", "--format", "json", &bundle.id]);
    assert_eq!(said.success(), format!("[{pid}]"));
    bundle.runtime(&["pause", &bundle.id]).success();
    assert_eq!(bundle.status(), "paused");
    delete(&bundle);
    assert_gone(&scope(&bundle));
}

fn a_cgroup_made_below_is_removed_with_the_scope() {
    let bundle = Bundle::new("sleep 1000");
    let pid = run_detached(&bundle);
    let cgroup = Cgroup::of(Pid::from_raw(pid)).unwrap();
    let below = Cgroup::create(cgroup.path().join("below")).unwrap();
    below.add(Pid::from_raw(pid)).unwrap();
    delete(&bundle);
    assert_gone(&scope(&bundle));
}

fn many_scopes_start_at_once() {
    let bundles: Vec<Bundle> = (0..8).map(|_| Bundle::new("sleep 1000")).collect();
    std::thread::scope(|threads| {
        for bundle in &bundles {
            threads.spawn(|| run_detached(bundle));
        }
    });
    for bundle in &bundles {
        assert_eq!(property(&scope(bundle), "ActiveState"), "active");
    }
    std::thread::scope(|threads| {
        for bundle in &bundles {
            threads.spawn(|| delete(bundle));
        }
    });
    for bundle in &bundles {
        assert_gone(&scope(bundle));
    }
}
