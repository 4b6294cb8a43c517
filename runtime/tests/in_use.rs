//! The commands for a container in use: pause, resume, update, events, ps.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use berth_runtime::cgroup::Cgroup;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Said};
use crate::machine::{stands_still, wait_until};

crate::tests! {
    a_paused_container_stands_still_and_says_so;
    pausing_needs_a_running_container_and_resuming_a_paused_one;
    a_created_container_can_be_paused;
    exec_enters_a_paused_container_only_if_told_to;
    a_paused_container_is_killed_by_sigkill;
    a_paused_container_is_deleted_only_by_force;
    update_changes_limits_by_flags needs "memory", "pids", "cpu", "cpuset", "io";
    update_completes_halves_from_the_record needs "memory", "cpu";
    update_lifts_limits needs "memory", "pids";
    update_reads_resources_from_a_file_and_from_standard_input needs "hugetlb";
    update_without_devices_leaves_them_and_with_them_replaces_them;
    update_refuses_what_is_wrong;
    statistics_are_printed_in_runcs_form;
    statistics_count_memory_and_processes needs "memory", "pids";
    events_come_at_intervals_and_end_with_the_container;
    an_out_of_memory_kill_is_an_event needs "memory";
    ps_lists_the_containers_processes_and_no_others;
    ps_finds_processes_in_cgroups_below;
}

fn cgroup_of(pid: i32) -> Cgroup {
    Cgroup::of(Pid::from_raw(pid)).unwrap()
}

fn a_paused_container_stands_still_and_says_so() {
    let bundle = Bundle::new("while :; do :; done");
    let cgroup = cgroup_of(bundle.run_detached());
    bundle.runtime(&["pause", &bundle.id]).success();
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.runtime(&["list"]).success().contains(" paused "));
    stands_still(|| cgroup.statistics().unwrap().cpu.usage);
    bundle.runtime(&["resume", &bundle.id]).success();
    assert_eq!(bundle.status(), "running");
}

fn pausing_needs_a_running_container_and_resuming_a_paused_one() {
    let bundle = Bundle::new("sleep 1000");
    let said = bundle.runtime(&["pause", &bundle.id]).failure();
    assert!(said.contains("container does not exist"), "{said}");
    bundle.run_detached();
    let said = bundle.runtime(&["resume", &bundle.id]).failure();
    assert!(said.contains("container not paused"), "{said}");
    bundle.runtime(&["pause", &bundle.id]).success();
    let said = bundle.runtime(&["pause", &bundle.id]).failure();
    assert!(said.contains("already paused"), "{said}");
    bundle.runtime(&["resume", &bundle.id]).success();
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    wait_until(|| bundle.status() == "stopped");
    let said = bundle.runtime(&["pause", &bundle.id]).failure();
    assert!(said.contains("container not running"), "{said}");
}

fn a_created_container_can_be_paused() {
    let bundle = Bundle::new("sleep 1000");
    bundle.create().success();
    bundle.runtime(&["pause", &bundle.id]).success();
    assert_eq!(bundle.status(), "paused");
    bundle.runtime(&["resume", &bundle.id]).success();
    assert_eq!(bundle.status(), "created");
    bundle.runtime(&["start", &bundle.id]).success();
    assert_eq!(bundle.status(), "running");
}

fn exec_enters_a_paused_container_only_if_told_to() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    bundle.runtime(&["pause", &bundle.id]).success();
    let said = bundle.exec(&[&bundle.id, "true"]).failure();
    assert!(said.contains("cannot exec in a paused container"), "{said}");
    let mut waiting = bundle
        .command(&["exec", "--ignore-paused", &bundle.id, "sh", "-c", "exit 7"])
        .spawn()
        .unwrap();
    assert!(waiting.try_wait().unwrap().is_none());
    bundle.runtime(&["resume", &bundle.id]).success();
    assert_eq!(waiting.wait().unwrap().code(), Some(7));
}

fn a_paused_container_is_killed_by_sigkill() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    bundle.runtime(&["pause", &bundle.id]).success();
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    wait_until(|| bundle.status() == "stopped");
    bundle.runtime(&["delete", &bundle.id]).success();
}

fn a_paused_container_is_deleted_only_by_force() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    bundle.runtime(&["pause", &bundle.id]).success();
    let said = bundle.runtime(&["delete", &bundle.id]).failure();
    assert!(said.contains("paused"), "{said}");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
}

/// Runs `update` with the options before the container's id.
fn update(bundle: &Bundle, options: &[&str]) -> Said {
    let mut args = vec!["update"];
    args.extend(options);
    args.push(&bundle.id);
    bundle.runtime(&args)
}

#[track_caller]
fn has(cgroup: &Cgroup, file: &str, value: &str) {
    assert_eq!(cgroup.read(file).unwrap().trim(), value, "{file}");
}

fn update_changes_limits_by_flags() {
    let bundle = Bundle::new("sleep 1000");
    let cgroup = cgroup_of(bundle.run_detached());
    let flags = [
        "--memory",
        "64m",
        "--memory-swap",
        "96M",
        "--memory-reservation",
        "32MiB",
        "--pids-limit",
        "20",
        "--cpu-share",
        "512",
        "--cpu-quota",
        "50000",
        "--cpu-period",
        "200000",
        "--cpu-burst",
        "10000",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        "--blkio-weight",
        "500",
        "--cpu-rt-period",
        "",
    ];
    update(&bundle, &flags).success();
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("pids.max", "20"),
        ("cpu.weight", "59"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
    ] {
        has(&cgroup, file, value);
    }
    update(&bundle, &["--cpu-idle", "1"]).success();
    has(&cgroup, "cpu.idle", "1");
    let said = update(
        &bundle,
        &["--kernel-memory", "1m", "--cpu-rt-runtime", "5000"],
    );
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("--kernel-memory"), "{said:?}");
    assert!(said.stderr.contains("cpu.realtimeRuntime"), "{said:?}");
}

fn update_completes_halves_from_the_record() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"cpu": {"quota": 50000, "period": 200_000}, "memory": {"limit": 1 << 26, "swap": 3 << 25}}),
    );
    let cgroup = cgroup_of(bundle.run_detached());
    update(&bundle, &["--cpu-quota", "20000"]).success();
    has(&cgroup, "cpu.max", "20000 200000");
    update(&bundle, &["--cpu-period", "100000"]).success();
    has(&cgroup, "cpu.max", "20000 100000");
    update(&bundle, &["--memory", "80m"]).success();
    has(&cgroup, "memory.max", "83886080");
    has(&cgroup, "memory.swap.max", "16777216");
    update(&bundle, &["--memory-swap", "100m"]).success();
    has(&cgroup, "memory.swap.max", "20971520");
    let said = update(&bundle, &["--memory", "200m"]).failure();
    assert!(said.contains("memory.swap"), "{said}");
    has(&cgroup, "memory.max", "83886080");
}

fn update_lifts_limits() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 1 << 26, "swap": 1 << 26}, "pids": {"limit": 7}}),
    );
    let cgroup = cgroup_of(bundle.run_detached());
    update(&bundle, &["--memory", "-1", "--pids-limit", "-1"]).success();
    for file in ["memory.max", "memory.swap.max", "pids.max"] {
        has(&cgroup, file, "max");
    }
}

fn update_reads_resources_from_a_file_and_from_standard_input() {
    let bundle = Bundle::new("sleep 1000");
    let cgroup = cgroup_of(bundle.run_detached());
    let limit =
        |bytes: u64| json!({"hugepageLimits": [{"pageSize": "2MB", "limit": bytes}]}).to_string();
    let file = bundle.host("resources.json");
    fs::write(&file, limit(2 << 20)).unwrap();
    update(&bundle, &["-r", file.to_str().unwrap()]).success();
    has(&cgroup, "hugetlb.2MB.max", "2097152");
    fs::write(&file, limit(4 << 20)).unwrap();
    let status = bundle
        .command(&["update", "--resources", "-", &bundle.id])
        .stdin(fs::File::open(&file).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    has(&cgroup, "hugetlb.2MB.max", "4194304");
    let said = update(&bundle, &["-r", "/nonexistent"]).failure();
    assert!(said.contains("--resources /nonexistent"), "{said}");
}

fn update_without_devices_leaves_them_and_with_them_replaces_them() {
    let mut bundle = Bundle::new("mknod /dev/log-of-test c 1 11; sleep 1000");
    bundle.capabilities(&["CAP_MKNOD"]);
    bundle.run_detached();
    let made = || bundle.exec(&[&bundle.id, "test", "-e", "/dev/log-of-test"]);
    wait_until(|| made().code == 0);
    let may_open = || {
        let open = ["sh", "-c", ": >> /dev/log-of-test"];
        bundle
            .exec(&[&[bundle.id.as_str()], &open[..]].concat())
            .code
            == 0
    };
    let apply = |resources: Value| {
        let file = bundle.host("resources.json");
        fs::write(&file, resources.to_string()).unwrap();
        update(&bundle, &["-r", file.to_str().unwrap()]).success();
    };
    assert!(!may_open());
    apply(
        json!({"devices": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"}]}),
    );
    assert!(may_open());
    apply(json!({"cpu": {"quota": 0}}));
    assert!(may_open());
    apply(json!({"devices": [{"allow": false, "access": "rwm"}]}));
    assert!(!may_open());
}

fn update_refuses_what_is_wrong() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    for (flag, value, word) in [
        ("--memory", "lots", "memory"),
        ("--cpu-quota", "1.5", "cpu-quota"),
        ("--cpu-quota", "5", "cpu.quota"),
        ("--blkio-weight", "5", "blockIO.weight"),
        ("--blkio-weight", "70000", "blkio-weight"),
        ("--cpu-idle", "2", "cpu.idle"),
        ("--memory-swap", "5m", "memory.swap"),
        (
            "--l3-cache-schema",
            "L3:0=1\nMB:0=2",
            "a line of a schemata file",
        ),
    ] {
        let said = update(&bundle, &[flag, value]).failure();
        assert!(said.contains(word), "{flag} {value}: {said}");
    }
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    wait_until(|| bundle.status() == "stopped");
    let said = update(&bundle, &["--cpu-share", "5"]).failure();
    assert!(said.contains("container not running"), "{said}");
}

fn statistics(bundle: &Bundle) -> Value {
    let said = bundle.runtime(&["events", "--stats", &bundle.id]).success();
    let event: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("stats"), &json!(bundle.id))
    );
    event["data"].clone()
}

fn statistics_are_printed_in_runcs_form() {
    let bundle = Bundle::new("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; sleep 1000");
    bundle.run_detached();
    wait_until(|| statistics(&bundle)["cpu"]["usage"]["total"].as_u64() > Some(0));
    let data = statistics(&bundle);
    for pointer in [
        "/cpu/usage/kernel",
        "/cpu/usage/user",
        "/cpu/throttling/throttledTime",
        "/memory/usage/limit",
        "/memory/swap/usage",
        "/memory/raw",
        "/pids/current",
        "/blkio/ioServiceBytesRecursive",
        "/hugetlb",
        "/intel_rdt",
        "/network_interfaces",
    ] {
        assert!(data.pointer(pointer).is_some(), "{pointer} of {data}");
    }
}

fn statistics_count_memory_and_processes() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 1 << 26}, "pids": {"limit": 30}}),
    );
    bundle.run_detached();
    let write = ["dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=4"];
    bundle
        .exec(&[&[bundle.id.as_str()], &write[..]].concat())
        .success();
    // The kernel adds up by and by what each processor has counted.
    wait_until(|| statistics(&bundle)["memory"]["raw"]["shmem"].as_u64() >= Some(4 << 20));
    let data = statistics(&bundle);
    assert_eq!(data["memory"]["usage"]["limit"], 1 << 26);
    assert!(data["memory"]["usage"]["usage"].as_u64() >= Some(4 << 20));
    assert_eq!(data["pids"]["limit"], 30);
    assert!(data["pids"]["current"].as_u64() >= Some(1));
    assert!(data["memory"]["psi"]["some"]["total"].is_u64(), "{data}");
}

fn events_come_at_intervals_and_end_with_the_container() {
    let bundle = Bundle::new("sleep 1000");
    let said = bundle.runtime(&["events", &bundle.id]).failure();
    assert!(said.contains("container does not exist"), "{said}");
    bundle.run_detached();
    let said = bundle
        .runtime(&["events", "--interval", "0s", &bundle.id])
        .failure();
    assert!(said.contains("above zero"), "{said}");
    let mut events = bundle
        .command(&["events", "--interval", "20ms", &bundle.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    // It can't end while its pipe is full.
    lines.for_each(drop);
    assert!(events.wait().unwrap().success());
    let said = bundle.runtime(&["events", &bundle.id]).failure();
    assert!(said.contains("is not running"), "{said}");
}

fn an_out_of_memory_kill_is_an_event() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}),
    );
    bundle.run_detached();
    let mut events = bundle
        .command(&["events", "--interval", "200ms", &bundle.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut types = lines.map(|line| {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["type"].as_str().unwrap().to_owned()
    });
    // It listens now.
    assert_eq!(types.next().unwrap(), "stats");
    let big = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    let said = bundle.exec(&[&[bundle.id.as_str()], &big[..]].concat());
    assert_eq!(said.code, 137, "{said:?}");
    assert!(types.any(|kind| kind == "oom"));
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    // It can't end while its pipe is full.
    types.for_each(drop);
    assert!(events.wait().unwrap().success());
}

fn pids(bundle: &Bundle) -> Vec<i32> {
    let said = bundle
        .runtime(&["ps", "--format", "json", &bundle.id])
        .success();
    serde_json::from_str(&said).unwrap()
}

fn ps_lists_the_containers_processes_and_no_others() {
    let bundle = Bundle::new("sleep 1000 & exec sleep 1001");
    let pid = bundle.run_detached();
    wait_until(|| pids(&bundle).len() == 2);
    assert!(pids(&bundle).contains(&pid));
    // busybox has a ps that takes none of the options that procps has.
    let is_full = std::process::Command::new("ps").arg("-ef").output();
    if !is_full.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("PPID")) {
        return;
    }
    let table = bundle.runtime(&["ps", &bundle.id]).success();
    assert!(
        table.contains("sleep 1001") && table.starts_with("UID"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 3, "{table}");
    let table = bundle
        .runtime(&["ps", &bundle.id, "-eo", "pid,args"])
        .success();
    assert_eq!(table.lines().count(), 3, "{table}");
    let said = bundle.runtime(&["ps", &bundle.id, "-o", "args"]).failure();
    assert!(said.contains("PID"), "{said}");
}

fn ps_finds_processes_in_cgroups_below() {
    let bundle = Bundle::new("sleep 1000");
    let cgroup = cgroup_of(bundle.run_detached());
    let below = Cgroup::create(cgroup.path().join("below")).unwrap();
    let mut child = std::process::Command::new(crate::machine::busybox())
        .args(["sleep", "1000"])
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    below.add(Pid::from_raw(pid)).unwrap();
    assert!(pids(&bundle).contains(&pid));
    below.kill().unwrap();
    child.wait().unwrap();
}
