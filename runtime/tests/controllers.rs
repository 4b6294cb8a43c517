//! Each controller's limits as the kernel has them, and how controllers are enabled.

use std::fs;

use berth_runtime::cgroup::{Cgroup, Limits};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::bundle::Bundle;

crate::tests! {
    burst_and_idle_are_applied needs "cpu";
    a_quota_and_its_burst_are_raised_and_lowered_together needs "cpu";
    a_weight_and_idleness_replace_each_other needs "cpu";
    a_container_runs_on_its_processors needs "cpuset";
    swap_is_counted_apart_from_memory needs "memory";
    a_limit_below_the_usage_is_refused_if_that_is_to_be_checked needs "memory";
    disks_are_throttled_and_weighed needs "io";
    huge_pages_are_limited needs "hugetlb";
    an_rdma_device_that_does_not_exist_is_an_error needs "rdma";
    files_of_cgroup_v2_have_the_last_word needs "memory", "pids";
    a_limit_is_lifted needs "memory", "pids", "cpu";
    lifting_a_limit_enables_no_controller;
    only_needed_controllers_are_enabled needs "hugetlb", "memory";
    a_cgroup_with_processes_passes_no_controller_on needs "hugetlb";
    a_controller_that_someone_else_is_enabling_is_waited_for needs "hugetlb";
    what_only_v1_has_is_warned_of;
}

/// A cgroup for a test, removed with it.
pub(crate) struct Group(pub(crate) Cgroup);

impl Group {
    pub(crate) fn new(name: &str) -> Self {
        let path = format!("berth-test-{}-{name}", std::process::id());
        Self(Cgroup::create(path).unwrap())
    }

    #[track_caller]
    pub(crate) fn apply(&self, json: Value) {
        let warnings = self.0.apply(&resources(json), Limits::Required).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[track_caller]
    pub(crate) fn has(&self, file: &str, value: &str) {
        assert_eq!(self.0.read(file).unwrap().trim(), value, "{file}");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}

fn resources(json: Value) -> LinuxResources {
    serde_json::from_value(json).unwrap()
}

fn burst_and_idle_are_applied() {
    let group = Group::new("cpu");
    group.apply(json!({"cpu": {"quota": 50000, "period": 100_000, "burst": 20000}}));
    group.has("cpu.max", "50000 100000");
    group.has("cpu.max.burst", "20000");
    group.apply(json!({"cpu": {"idle": 1}}));
    group.has("cpu.idle", "1");
}

fn a_quota_and_its_burst_are_raised_and_lowered_together() {
    let group = Group::new("burst");
    for (quota, burst) in [(50000, 50000), (80000, 70000), (20000, 10000)] {
        group.apply(json!({"cpu": {"quota": quota, "burst": burst}}));
        group.has("cpu.max", &format!("{quota} 100000"));
        group.has("cpu.max.burst", &burst.to_string());
    }
}

fn a_weight_and_idleness_replace_each_other() {
    let group = Group::new("idle");
    group.apply(json!({"cpu": {"idle": 1, "shares": 1024}}));
    group.has("cpu.idle", "1");
    group.apply(json!({"cpu": {"idle": 0, "shares": 2048}}));
    group.has("cpu.idle", "0");
    group.has("cpu.weight", "174");
}

fn a_container_runs_on_its_processors() {
    let mut bundle = Bundle::new("grep -E 'Cpus_allowed_list|Mems_allowed_list' /proc/self/status");
    bundle.set(
        "/linux/resources",
        json!({"cpu": {"cpus": "0", "mems": "0"}}),
    );
    let said = bundle.run().success();
    assert_eq!(said, "Cpus_allowed_list:\t0\nMems_allowed_list:\t0");
}

fn swap_is_counted_apart_from_memory() {
    let group = Group::new("swap");
    group.apply(json!({"memory": {"limit": 1 << 26, "swap": 1 << 26}}));
    group.has("memory.max", "67108864");
    group.has("memory.swap.max", "0");
    group.apply(json!({"memory": {"limit": 1 << 26, "swap": (1 << 26) + 8192}}));
    group.has("memory.swap.max", "8192");
    group.apply(json!({"memory": {"limit": -1}}));
    group.has("memory.swap.max", "max");
    group.has("memory.max", "max");
}

fn a_limit_below_the_usage_is_refused_if_that_is_to_be_checked() {
    let bundle = Bundle::new("sleep 1000");
    let pid = bundle.run_detached();
    let cgroup = Cgroup::of(Pid::from_raw(pid)).unwrap();
    let limit = |json| cgroup.apply(&resources(json), Limits::Required);
    // Accounting begins with the controller.
    limit(json!({"memory": {"limit": 1 << 26}})).unwrap();
    bundle
        .exec(&[
            &bundle.id,
            "dd",
            "if=/dev/zero",
            "of=/dev/shm/file",
            "bs=1M",
            "count=4",
        ])
        .success();
    let low = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}});
    let error = limit(low).unwrap_err().to_string();
    assert!(
        error.contains("memory.limit") && error.contains("usage"),
        "{error}"
    );
    assert_eq!(cgroup.read("memory.max").unwrap().trim(), "67108864");
    assert_eq!(bundle.status(), "running");
}

/// The numbers of a disk that the machine has.
fn disk() -> (u64, u64) {
    let disks = fs::read_dir("/sys/block").unwrap().flatten();
    let device = disks
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            !["loop", "ram", "zram", "nbd"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .find_map(|entry| fs::read_to_string(entry.path().join("dev")).ok())
        .expect("this machine has a disk");
    let (major, minor) = device.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn disks_are_throttled_and_weighed() {
    let (major, minor) = disk();
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let group = Group::new("io");
    group.apply(json!({"blockIO": {
        "throttleReadBpsDevice": rate(1 << 20), "throttleWriteBpsDevice": rate(2 << 20),
        "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200),
    }}));
    group.has(
        "io.max",
        &format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200"),
    );
    // One is changed, the others stay; zero lifts.
    group.apply(
        json!({"blockIO": {"throttleReadBpsDevice": rate(0), "throttleWriteBpsDevice": rate(512)}}),
    );
    group.has(
        "io.max",
        &format!("{major}:{minor} rbps=max wbps=512 riops=100 wiops=200"),
    );
    group.apply(json!({"blockIO": {"weight": 500}}));
    let is_bfq = group.0.read("io.bfq.weight").is_ok();
    match is_bfq {
        true => group.has("io.bfq.weight", "default 500"),
        false => group.has("io.weight", "default 4950"),
    }
}

fn huge_pages_are_limited() {
    let mut bundle =
        Bundle::new("cat /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb.2MB.rsvd.max");
    let limit = json!([{"pageSize": "2MB", "limit": 4_194_304}]);
    bundle.set("/linux/resources", json!({"hugepageLimits": limit}));
    assert_eq!(bundle.run().success(), "4194304\n4194304");
    // Zero is a limit, not the absence of one.
    let none = json!([{"pageSize": "2MB", "limit": 0}]);
    bundle.set("/linux/resources", json!({"hugepageLimits": none}));
    assert_eq!(bundle.run().success(), "0\n0");
    let odd = json!([{"pageSize": "3MB", "limit": 0}]);
    bundle.set("/linux/resources", json!({"hugepageLimits": odd}));
    let said = bundle.run().failure();
    assert!(said.contains("hugetlb.3MB.max"), "{said}");
}

fn an_rdma_device_that_does_not_exist_is_an_error() {
    let mut bundle = Bundle::new("true");
    bundle.set(
        "/linux/resources",
        json!({"rdma": {"none": {"hcaHandles": 3}}}),
    );
    let said = bundle.run().failure();
    assert!(
        said.contains("rdma.max") && said.contains("none hca_handle=3"),
        "{said}"
    );
}

fn files_of_cgroup_v2_have_the_last_word() {
    let group = Group::new("unified");
    group.apply(json!({
        "unified": {"memory.max": "2097152", "memory.high": "1048576", "memory.min": "4096",
            "pids.max": "7", "memory.oom.group": "1", "cgroup.max.depth": "2"},
        "memory": {"limit": 1 << 26}, "pids": {"limit": 100},
    }));
    group.has("memory.max", "2097152");
    group.has("memory.high", "1048576");
    group.has("memory.min", "4096");
    group.has("memory.oom.group", "1");
    group.has("pids.max", "7");
    group.has("cgroup.max.depth", "2");
}

fn a_limit_is_lifted() {
    let group = Group::new("lift");
    group.apply(json!({"memory": {"limit": 1 << 26, "reservation": 1 << 20},
        "pids": {"limit": 5}, "cpu": {"quota": 5000}}));
    group.apply(json!({"memory": {"limit": -1, "reservation": -1},
        "pids": {"limit": -1}, "cpu": {"quota": -1}}));
    for (file, value) in [
        ("memory.max", "max"),
        ("memory.low", "max"),
        ("pids.max", "max"),
        ("cpu.max", "max 100000"),
    ] {
        group.has(file, value);
    }
}

fn lifting_a_limit_enables_no_controller() {
    let group = Group::new("nothing");
    group.apply(
        json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}),
    );
}

fn only_needed_controllers_are_enabled() {
    let top = Group::new("deep");
    let leaf = Cgroup::create(top.0.path().join("a/b")).unwrap();
    let limit = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]});
    leaf.apply(&resources(limit), Limits::Required).unwrap();
    top.has("cgroup.subtree_control", "hugetlb");
    let above = Cgroup::open(top.0.path().join("a")).unwrap();
    let enabled = || above.read("cgroup.subtree_control").unwrap();
    assert_eq!(enabled().trim(), "hugetlb");
    assert_eq!(leaf.read("cgroup.subtree_control").unwrap().trim(), "");
    let limit = json!({"memory": {"limit": 1 << 26}});
    leaf.apply(&resources(limit), Limits::Required).unwrap();
    assert_eq!(enabled().trim(), "memory hugetlb");
}

fn a_cgroup_with_processes_passes_no_controller_on() {
    let group = Group::new("busy");
    let mut child = std::process::Command::new(crate::machine::busybox())
        .args(["sleep", "1000"])
        .spawn()
        .unwrap();
    group.0.add(Pid::from_raw(child.id() as i32)).unwrap();
    let below = Cgroup::create(group.0.path().join("below")).unwrap();
    let limit = resources(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}));
    let error = below.apply(&limit, Limits::Required).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("hugetlb.2MB.max") && text.contains("processes of its own"),
        "{text}"
    );
    assert_eq!(error.errno(), Some(nix::errno::Errno::EBUSY));
    group.0.kill().unwrap();
    child.wait().unwrap();
}

/// The kernel says that it is enabled before its files are in all the cgroups that get them.
fn a_controller_that_someone_else_is_enabling_is_waited_for() {
    let limit = || resources(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}));
    // Not each time does one come in between.
    for _ in 0..20 {
        let group = Group::new("enabling");
        let below = |number| Cgroup::create(group.0.path().join(format!("{number}"))).unwrap();
        // They get their files in turn.
        let all: Vec<Cgroup> = (0..100).map(below).collect();
        std::thread::scope(|scope| {
            let enabling = scope.spawn(|| all[0].apply(&limit(), Limits::Required).unwrap());
            let last = &all[99];
            let is_enabled = || last.read("cgroup.controllers").unwrap().trim() == "hugetlb";
            while !is_enabled() && !enabling.is_finished() {}
            last.apply(&limit(), Limits::Required).unwrap();
            assert_eq!(last.read("hugetlb.2MB.max").unwrap().trim(), "0");
            assert_eq!(last.read("hugetlb.2MB.rsvd.max").unwrap().trim(), "0");
        });
    }
}

fn what_only_v1_has_is_warned_of() {
    let mut bundle = Bundle::new("echo ran");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"swappiness": 60, "disableOOMKiller": false, "kernel": -1},
            "network": {"classID": 0x10_0001}}),
    );
    let said = bundle.run();
    assert_eq!((said.code, said.stdout.as_str()), (0, "ran"));
    let named = |field: &str| said.stderr.contains(field);
    assert!(
        named("memory.swappiness") && named("network.classID"),
        "{said:?}"
    );
    assert!(
        !named("disableOOMKiller") && !named("memory.kernel"),
        "{said:?}"
    );
}
