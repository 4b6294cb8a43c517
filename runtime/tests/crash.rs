//! The runtime killed at each of its steps: what is left can be deleted, down to the last trace, and the
//! id used again.
//!
//! Every failure point stands in one of the tables, and a point that isn't passed fails its test, so none
//! can be forgotten.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use berth_runtime::failpoint::{FAILPOINTS, VARIABLE};
use serde_json::json;

use crate::bundle::Bundle;
use crate::leaks::{Snapshot, reap_all_but};
use crate::machine::PATIENCE;
use crate::systemd::{assert_gone, scope};

crate::tests! {
    every_failure_point_is_gone_through;
    a_create_killed_at_any_step_can_be_deleted_and_done_again;
    a_create_with_hooks_and_a_helper_killed_at_any_step_can_be_deleted_and_done_again;
    a_run_killed_at_any_step_can_be_deleted_and_done_again;
    a_start_killed_at_any_step_can_be_deleted_and_done_again;
    an_exec_killed_at_any_step_leaves_the_container_as_it_is;
    a_delete_killed_at_any_step_can_be_done_again;
    a_delete_that_waits_for_a_parent_to_reap_says_so;
    a_create_with_systemd_killed_at_any_step_can_be_deleted_and_done_again needs "systemd";
    a_start_with_systemd_killed_at_any_step_can_be_deleted_and_done_again needs "systemd";
    an_exec_with_systemd_killed_at_any_step_leaves_the_container_as_it_is needs "systemd";
    a_delete_with_systemd_killed_at_any_step_can_be_done_again needs "systemd";
    a_create_without_a_cgroup_killed_at_any_step_can_be_deleted_and_done_again;
    a_delete_without_a_cgroup_killed_at_any_step_can_be_done_again;
    a_killed_create_does_not_take_another_containers_cgroup_along;
    a_killed_create_with_systemd_does_not_take_another_containers_scope_along needs "systemd";
    a_container_is_deleted_without_what_has_taken_its_cgroups_place;
    a_cgroup_that_belongs_to_another_container_is_refused;
}

const CREATE: [&str; 11] = [
    "state-directory-made",
    "cgroup-noted",
    "socket-listening",
    "cgroup-made",
    "cgroup-marked",
    "cgroup-limited",
    "plan-made",
    "process-cloned",
    "process-helped",
    "process-ready",
    "state-written",
];
/// Passed by create as well, after which there is a container.
const CREATED: [&str; 1] = ["state-saved"];
/// Only where namespaces are joined, or have time offsets; and where hooks see the mounts.
const WITH_HELPER_AND_HOOKS: [&str; 2] = ["helper-gone", "hooks-run"];
const WITH_SYSTEMD: [&str; 1] = ["scope-begun"];
const START: [&str; 3] = ["start-connected", "program-executed", "poststart-run"];
const EXEC: [&str; 7] = [
    "exec-prepared",
    "helper-gone",
    "process-cloned",
    "process-helped",
    "process-ready",
    "program-executed",
    "exec-published",
];
const DELETE: [&str; 4] = [
    "process-ended",
    "cgroup-removed",
    "record-removed",
    "state-removed",
];

const SYSTEMD: &[&str] = &["--systemd-cgroup"];
const NO_CGROUP: &[&str] = &["--cgroup-manager", "disabled"];

fn every_failure_point_is_gone_through() {
    let tables: [&[&str]; 7] = [
        &CREATE,
        &CREATED,
        &WITH_HELPER_AND_HOOKS,
        &WITH_SYSTEMD,
        &START,
        &EXEC,
        &DELETE,
    ];
    let listed = tables.concat();
    for point in FAILPOINTS {
        assert!(listed.contains(&point), "{point} is in no table");
    }
}

/// Runs a command that is to be killed at a point.
#[track_caller]
fn killed_at(point: &str, bundle: &Bundle, args: &[&str]) {
    bundle.write();
    let mut command = bundle.command(args);
    // Into a file: what stays of a container would keep a pipe open.
    let errors = fs::File::create(bundle.host("err")).unwrap();
    command
        .env(VARIABLE, point)
        .stdout(Stdio::null())
        .stderr(errors);
    let status = command.status().unwrap();
    let said = fs::read_to_string(bundle.host("err")).unwrap();
    assert_eq!(
        status.signal(),
        Some(libc::SIGKILL),
        "{point} was not passed: {status} {said}"
    );
}

fn delete(bundle: &Bundle) {
    let errors = fs::File::create(bundle.host("err")).unwrap();
    let mut command = bundle.command(&["delete", "--force", &bundle.id]);
    let mut deleting = command
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .unwrap();
    // The engine's part.
    let status = loop {
        if let Some(status) = deleting.try_wait().unwrap() {
            break status;
        }
        reap_all_but(deleting.id());
        std::thread::sleep(Duration::from_millis(1));
    };
    let said = fs::read_to_string(bundle.host("err")).unwrap();
    assert!(status.success() && said.is_empty(), "{status} {said}");
}

/// Orphans of a process that was killed end on their own, a moment later.
#[track_caller]
fn assert_nothing_is_left(before: &Snapshot, bundle: &Bundle, point: &str) {
    let patience = Instant::now() + PATIENCE;
    let mut left = before.what_is_left();
    while !left.is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
        left = before.what_is_left();
    }
    assert!(left.is_empty(), "{point}: {left:?}");
    let state = fs::read_dir(bundle.host("state")).unwrap().flatten();
    let state: Vec<_> = state.map(|entry| entry.path()).collect();
    assert!(state.is_empty(), "{point}: {state:?}");
}

/// As an engine that comes back after a crash: delete, see that nothing is left, and begin again.
#[track_caller]
fn delete_and_begin_again(before: &Snapshot, bundle: &Bundle, driver: &[&str], point: &str) {
    delete(bundle);
    assert_nothing_is_left(before, bundle, point);
    if driver == SYSTEMD {
        assert_gone(&scope(bundle));
    }
    let with_driver = |args: &[&str]| bundle.runtime(&[driver, args].concat());
    with_driver(&["create", &bundle.id]).success();
    bundle.runtime(&["start", &bundle.id]).success();
    assert_eq!(bundle.status(), "running", "{point}");
    delete(bundle);
    assert_nothing_is_left(before, bundle, point);
}

fn kill_create(bundle: &Bundle, driver: &[&str], points: &[&str]) {
    let before = Snapshot::take();
    for point in points {
        killed_at(point, bundle, &[driver, &["create", &bundle.id]].concat());
        delete_and_begin_again(&before, bundle, driver, point);
    }
}

fn a_create_killed_at_any_step_can_be_deleted_and_done_again() {
    let points = [&CREATE[..], &CREATED].concat();
    kill_create(&Bundle::new("sleep 1000"), &[], &points);
}

fn a_create_with_hooks_and_a_helper_killed_at_any_step_can_be_deleted_and_done_again() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 100_000}]);
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 7}}));
    let hook = json!([{"path": crate::machine::busybox(), "args": ["true"]}]);
    bundle.set("/hooks", json!({"createRuntime": hook, "poststop": hook}));
    let points = [&CREATE[..], &CREATED, &WITH_HELPER_AND_HOOKS].concat();
    kill_create(&bundle, &[], &points);
}

fn a_create_with_systemd_killed_at_any_step_can_be_deleted_and_done_again() {
    let points = [&CREATE[..], &CREATED, &WITH_SYSTEMD].concat();
    kill_create(&Bundle::new("sleep 1000"), SYSTEMD, &points);
}

/// Without filter and id maps its process gets as far as it can without its maker, who gives it the time.
fn a_create_without_a_cgroup_killed_at_any_step_can_be_deleted_and_done_again() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set("/linux/resources", json!({}));
    bundle.set("/linux/seccomp", json!(null));
    let of_cgroups = ["cgroup-made", "cgroup-marked", "cgroup-limited"];
    let made = CREATE.iter().chain(&CREATED);
    let points = made.filter(|point| !of_cgroups.contains(point));
    let points: Vec<String> = points.map(|point| format!("{point}+50")).collect();
    let points: Vec<&str> = points.iter().map(String::as_str).collect();
    kill_create(&bundle, NO_CGROUP, &points);
}

fn a_run_killed_at_any_step_can_be_deleted_and_done_again() {
    let bundle = Bundle::new("sleep 1000");
    let before = Snapshot::take();
    let made = CREATE.iter().filter(|point| **point != "socket-listening");
    for point in made.chain(&["program-executed"]) {
        killed_at(point, &bundle, &["run", "--detach", &bundle.id]);
        delete_and_begin_again(&before, &bundle, &[], point);
    }
}

fn kill_start(driver: &[&str]) {
    let bundle = Bundle::new("sleep 1000");
    let before = Snapshot::take();
    for point in START {
        bundle.write();
        let create = [driver, &["create", &bundle.id]].concat();
        bundle.runtime(&create).success();
        killed_at(point, &bundle, &["start", &bundle.id]);
        delete_and_begin_again(&before, &bundle, driver, point);
    }
}

fn a_start_killed_at_any_step_can_be_deleted_and_done_again() {
    kill_start(&[]);
}

fn a_start_with_systemd_killed_at_any_step_can_be_deleted_and_done_again() {
    kill_start(SYSTEMD);
}

fn kill_exec(driver: &[&str]) {
    let bundle = Bundle::new("sleep 1000");
    let before = Snapshot::take();
    bundle.write();
    let run = [driver, &["run", "--detach", &bundle.id]].concat();
    bundle.runtime(&run).success();
    for point in EXEC {
        killed_at(
            point,
            &bundle,
            &["exec", "--detach", &bundle.id, "sleep", "1000"],
        );
        assert_eq!(bundle.status(), "running", "{point}");
        let said = bundle.exec(&[&bundle.id, "echo", "here"]);
        assert_eq!(said.success(), "here", "{point}");
    }
    delete(&bundle);
    assert_nothing_is_left(&before, &bundle, "exec");
}

fn an_exec_killed_at_any_step_leaves_the_container_as_it_is() {
    kill_exec(&[]);
}

fn an_exec_with_systemd_killed_at_any_step_leaves_the_container_as_it_is() {
    kill_exec(SYSTEMD);
}

fn a_delete_that_waits_for_a_parent_to_reap_says_so() {
    let bundle = Bundle::new("sleep 1000");
    let before = Snapshot::take();
    bundle.run_detached();
    let exec = ["exec", "--detach", &bundle.id, "sleep", "1000"];
    killed_at("program-executed", &bundle, &exec);
    // Its process is ours now, and we don't reap it.
    let said = bundle.runtime(&["delete", "--force", &bundle.id]).failure();
    assert!(said.contains("container init still running"), "{said}");
    delete(&bundle);
    assert_nothing_is_left(&before, &bundle, "delete");
}

fn kill_delete(driver: &[&str]) {
    let bundle = Bundle::new("sleep 1000");
    let before = Snapshot::take();
    for point in DELETE {
        bundle.write();
        let run = [driver, &["run", "--detach", &bundle.id]].concat();
        bundle.runtime(&run).success();
        killed_at(point, &bundle, &["delete", "--force", &bundle.id]);
        delete_and_begin_again(&before, &bundle, driver, point);
    }
}

fn a_delete_killed_at_any_step_can_be_done_again() {
    kill_delete(&[]);
}

fn a_delete_with_systemd_killed_at_any_step_can_be_done_again() {
    kill_delete(SYSTEMD);
}

fn a_delete_without_a_cgroup_killed_at_any_step_can_be_done_again() {
    kill_delete(NO_CGROUP);
}

/// Two bundles whose configurations name the same cgroup.
fn two_of_one_path(path: impl Fn(&Bundle) -> String) -> (Bundle, Bundle) {
    let mut one = Bundle::new("sleep 1000");
    let mut other = Bundle::new("sleep 1000");
    let path = json!(path(&one));
    one.set("/linux/cgroupsPath", path.clone());
    other.set("/linux/cgroupsPath", path);
    (one, other)
}

fn a_killed_create_does_not_take_another_containers_cgroup_along() {
    let (living, killed) = two_of_one_path(|one| format!("/{}", one.id));
    living.run_detached();
    killed_at("cgroup-noted", &killed, &["create", &killed.id]);
    delete(&killed);
    assert_eq!(living.status(), "running");
    assert!(!killed.host("state").join(&killed.id).exists());
}

fn a_killed_create_with_systemd_does_not_take_another_containers_scope_along() {
    let (living, killed) = two_of_one_path(|one| format!("system.slice:x:{}", one.id));
    living.write();
    let run = ["--systemd-cgroup", "run", "--detach", &living.id];
    living.runtime(&run).success();
    killed_at(
        "cgroup-noted",
        &killed,
        &["--systemd-cgroup", "create", &killed.id],
    );
    delete(&killed);
    assert_eq!(living.status(), "running");
}

fn a_container_is_deleted_without_what_has_taken_its_cgroups_place() {
    let (mut ended, living) = two_of_one_path(|one| format!("/{}", one.id));
    ended.script("true");
    ended.write();
    ended.runtime(&["run", "--keep", &ended.id]).success();
    // As whoever cleans up cgroups that are empty.
    fs::remove_dir(format!("/sys/fs/cgroup/{}", ended.id)).unwrap();
    living.run_detached();
    ended
        .runtime(&["kill", "--all", &ended.id, "KILL"])
        .success();
    ended.runtime(&["delete", &ended.id]).success();
    assert_eq!(living.status(), "running");
}

fn a_cgroup_that_belongs_to_another_container_is_refused() {
    let (mut ended, other) = two_of_one_path(|one| format!("/{}", one.id));
    ended.script("true");
    ended.write();
    ended.runtime(&["run", "--keep", &ended.id]).success();
    let said = other.create().failure();
    assert!(
        said.contains("linux.cgroupsPath") && said.contains(&ended.id),
        "{said}"
    );
    ended.runtime(&["delete", &ended.id]).success();
    other.create().success();
}
