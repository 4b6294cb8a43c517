//! A cgroup as a library's user drives it: freezing, killing, counting, changing devices.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use berth_runtime::cgroup::{Cgroup, Limits};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxDeviceCgroup;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::controllers::Group;
use crate::machine::{PATIENCE, busybox, stands_still, wait_until};

crate::tests! {
    a_frozen_cgroup_stands_still_until_it_is_thawed;
    an_empty_cgroup_freezes_at_once;
    a_frozen_cgroup_is_killed;
    a_frozen_cgroup_is_removed_with_its_processes;
    processes_below_are_found;
    time_and_pressure_are_counted;
    memory_and_processes_are_counted needs "memory", "pids", "io";
    memory_events_wake_who_polls_them needs "memory";
    devices_are_replaced_without_a_window;
    programs_of_others_are_left_alone;
}

/// A process in the cgroup.
fn process(cgroup: &Cgroup, args: &[&str]) -> Child {
    let child = Command::new(busybox())
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    cgroup.add(Pid::from_raw(child.id() as i32)).unwrap();
    child
}

/// A shell that begins with its script when it is in the cgroup, where alone it counts.
fn shell(cgroup: &Cgroup, script: &str) -> Child {
    let mut child = Command::new(busybox())
        .args(["sh", "-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    cgroup.add(Pid::from_raw(child.id() as i32)).unwrap();
    // Closing the pipe is an answer too.
    drop(child.stdin.take());
    child
}

fn end(group: &Group, mut child: Child) {
    group.0.kill().unwrap();
    child.wait().unwrap();
}

fn a_frozen_cgroup_stands_still_until_it_is_thawed() {
    let group = Group::new("freeze");
    let child = process(&group.0, &["sh", "-c", "while :; do :; done"]);
    assert!(!group.0.is_frozen().unwrap());
    group.0.freeze(PATIENCE).unwrap();
    assert!(group.0.is_frozen().unwrap());
    let usage = || group.0.statistics().unwrap().cpu.usage;
    let before = stands_still(usage);
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    wait_until(|| usage() > before);
    end(&group, child);
}

fn an_empty_cgroup_freezes_at_once() {
    let group = Group::new("empty");
    group.0.freeze(PATIENCE).unwrap();
    assert!(group.0.is_frozen().unwrap());
}

fn a_frozen_cgroup_is_killed() {
    let group = Group::new("kill");
    let child = process(&group.0, &["sleep", "1000"]);
    group.0.freeze(PATIENCE).unwrap();
    end(&group, child);
    group.0.wait_empty().unwrap();
}

fn a_frozen_cgroup_is_removed_with_its_processes() {
    let group = Group::new("remove");
    let mut child = process(&group.0, &["sleep", "1000"]);
    group.0.freeze(PATIENCE).unwrap();
    group.0.remove().unwrap();
    child.wait().unwrap();
}

fn processes_below_are_found() {
    let group = Group::new("tree");
    let below = Cgroup::create(group.0.path().join("a/b")).unwrap();
    let child = process(&below, &["sleep", "1000"]);
    assert!(group.0.processes().unwrap().is_empty());
    let pid = Pid::from_raw(child.id() as i32);
    assert_eq!(group.0.all_processes().unwrap(), [pid]);
    end(&group, child);
}

fn time_and_pressure_are_counted() {
    let group = Group::new("count");
    let mut child = shell(&group.0, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
    child.wait().unwrap();
    let statistics = group.0.statistics().unwrap();
    assert!(statistics.cpu.usage > 0, "{statistics:?}");
    let has_pressure = group.0.read("cpu.pressure").is_ok();
    assert_eq!(statistics.cpu_pressure.is_some(), has_pressure);
}

fn memory_and_processes_are_counted() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 1 << 26}, "pids": {"limit": 9}, "unified": {"io.weight": "default 100"}}),
    );
    let pid = bundle.run_detached();
    let write = ["dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=4"];
    bundle
        .exec(&[&[bundle.id.as_str()], &write[..]].concat())
        .success();
    let cgroup = Cgroup::of(Pid::from_raw(pid)).unwrap();
    // The kernel adds up by and by what each processor has counted.
    let shared = || cgroup.statistics().unwrap().memory.unwrap().stat["shmem"];
    wait_until(|| shared() >= 4 << 20);
    let statistics = cgroup.statistics().unwrap();
    let memory = statistics.memory.unwrap();
    assert_eq!(memory.max, Some(1 << 26));
    assert!(memory.current >= 4 << 20, "{memory:?}");
    let pids = statistics.pids.unwrap();
    assert!(pids.current >= 1 && pids.max == Some(9), "{pids:?}");
    assert!(statistics.io.is_some() && statistics.memory_pressure.is_some());
}

fn memory_events_wake_who_polls_them() {
    let group = Group::new("oom");
    group.apply(json!({"memory": {"limit": 4 << 20, "swap": 4 << 20}}));
    let watch = group.0.watch_memory().unwrap().unwrap();
    let before = watch.read().unwrap().oom_kill;
    let mut child = shell(&group.0, "dd if=/dev/zero of=/dev/null bs=32M count=1");
    let is_woken = || {
        let mut waits = [PollFd::new(watch.as_fd(), PollFlags::POLLPRI)];
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        poll(&mut waits, patience).unwrap() == 1
    };
    assert!(is_woken());
    // That the limit is reached is an event of its own, before.
    while watch.read().unwrap().oom_kill == before {
        assert!(is_woken());
    }
    child.wait().unwrap();
    assert_eq!(group.0.memory_events().unwrap(), watch.read().unwrap());
}

fn rules(json: Value) -> Vec<LinuxDeviceCgroup> {
    serde_json::from_value(json).unwrap()
}

/// Makes a node of the kernel's log, which every kernel has, no default rule names, and anyone may open
/// for writing; opening it writes nothing.
const MAKE_LOG: &str = "mknod /dev/log-of-test c 1 11";
const OPEN_LOG: &str = ": >> /dev/log-of-test";

fn log_rule() -> Value {
    json!([{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}])
}

fn devices_are_replaced_without_a_window() {
    let mut bundle = Bundle::new(&format!("{MAKE_LOG}; sleep 1000"));
    bundle.capabilities(&["CAP_MKNOD"]);
    let pid = bundle.run_detached();
    let cgroup = Cgroup::of(Pid::from_raw(pid)).unwrap();
    let made = || bundle.exec(&[&bundle.id, "test", "-e", "/dev/log-of-test"]);
    while made().code != 0 {}
    let may_open = || bundle.exec(&[&bundle.id, "sh", "-c", OPEN_LOG]).code == 0;
    assert!(!may_open());
    let allow = |json| {
        cgroup
            .allow_devices(&rules(json), Limits::Required)
            .unwrap()
    };
    allow(log_rule());
    assert!(may_open());
    allow(json!([{"allow": false, "access": "rwm"}]));
    assert!(!may_open());
    // Everything: no program is needed, so there is none.
    allow(json!([{"allow": true, "access": "rwm"}]));
    assert!(may_open());
    allow(json!([]));
    assert!(!may_open());
}

fn programs_of_others_are_left_alone() {
    // One of ours on the cgroup above stands for another's: it is asked too.
    let mut bundle = Bundle::new(&format!("{MAKE_LOG}; {OPEN_LOG}"));
    bundle.capabilities(&["CAP_MKNOD"]);
    let group = Group::new("others");
    bundle.set("/linux/cgroupsPath", json!(group.0.path().join("web")));
    bundle.set("/linux/resources", json!({"devices": log_rule()}));
    bundle.run().success();
    group.0.allow_devices(&[], Limits::Required).unwrap();
    let said = bundle.run().failure();
    assert!(said.contains("not permitted"), "{said}");
}
