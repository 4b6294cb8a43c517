//! Limits that are in force: `--memory`, `--cpus` and the like, and `podman update` of them.

use std::path::Path;

use super::{Podman, Running};
use crate::place::{self, DATA};
use crate::ran::{Ran, printing, until};
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[
    Case(
        "limits_are_in_the_containers_cgroup",
        Needs::Controllers,
        files,
    ),
    Case(
        "too_much_memory_kills_it_and_the_monitor_sees_it",
        Needs::Controllers,
        out_of_memory,
    ),
    Case("a_quota_holds_it_back", Needs::Controllers, quota),
    Case(
        "too_many_processes_are_refused",
        Needs::Controllers,
        processes,
    ),
    Case("update_changes_limits", Needs::Controllers, update),
    Case("stats_show_memory_and_processes", Needs::Controllers, stats),
];

fn files(podman: &Podman) {
    let options = [
        "--memory",
        "64m",
        "--memory-reservation",
        "32m",
        "--memory-swap",
        "64m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "50",
        "--cpuset-cpus",
        "0",
    ];
    let script = "cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max cpu.max cpu.weight pids.max cpuset.cpus";
    let ran = podman.run(&options, &["sh", "-c", script]);
    let lines: Vec<&str> = ran.ok().lines().collect();
    let (weight, rest) = (lines.get(4).copied(), [&lines[..4], &lines[5..]].concat());
    let expected = ["67108864", "33554432", "0", "50000 100000", "50", "0"];
    assert_eq!(rest, expected, "{ran:#?}");
    assert!(
        place::weights(512).contains(&weight.unwrap_or_default()),
        "{ran:#?}"
    );
}

/// Podman before 5.0 never tells of it by `OOMKilled`: its monitor notes it in its working directory,
/// which is its caller's, and Podman looks in another (containers/conmon#504). It looks for the reason
/// when the container has ended, and systemd may have taken the cgroup away by then.
fn out_of_memory(podman: &Podman) {
    let folder = format!("{DATA}/oom");
    std::fs::create_dir(&folder).unwrap();
    let options = ["--detach", "--name", "oom", "--memory", "16m"];
    let options = [&options[..], &["--memory-swap", "16m"]].concat();
    let words = podman.words("run", &options, &["tail", "-c", "64m", "/dev/zero"]);
    let ran = Ran::of(podman.command(&words).current_dir(&folder));
    let running = Running {
        podman,
        name: "oom".into(),
    };
    ran.ok();
    running.until_status("exited");
    assert_eq!(running.inspect("{{.State.ExitCode}}"), "137");
    let noted = Path::new(&folder).join("oom").exists();
    std::fs::remove_dir_all(folder).unwrap();
    assert!(
        noted || place::cgroup_driver() == "systemd",
        "conmon has seen that the memory's limit killed it"
    );
}

fn quota(podman: &Podman) {
    let script = "timeout 3 sh -c 'while true; do true; done'; cat /sys/fs/cgroup/cpu.stat";
    // To a busy machine's kernel it is usage, too, when the machine itself doesn't run.
    until("it is held back", || {
        let ran = podman.run(&["--cpus", "0.2"], &["sh", "-c", script]);
        let field = |name: &str| -> u64 {
            let line = ran.stdout.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{ran:#?}"))
                .trim()
                .parse()
                .unwrap()
        };
        field("nr_throttled") > 5 && field("usage_usec") < 2_500_000
    });
}

fn processes(podman: &Podman) {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait";
    let ran = podman.run(&["--pids-limit", "5"], &["sh", "-c", script]);
    assert!(ran.stderr.contains("can't fork"), "{ran:#?}");
}

fn update(podman: &Podman) {
    let running = podman.start("update", &["--init", "--memory", "64m"], &["sleep", "1000"]);
    podman
        .does(&[
            "update",
            "--memory",
            "128m",
            "--cpus",
            "0.25",
            &running.name,
        ])
        .ok();
    let args = ["cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"];
    let ran = printing(|| running.exec(&[], &args));
    assert_eq!(ran.ok(), "134217728\n25000 100000");
}

fn stats(podman: &Podman) {
    let running = podman.start(
        "measured",
        &["--init", "--memory", "64m"],
        &["sleep", "1000"],
    );
    let words = [
        "stats",
        "--no-stream",
        "--format",
        "{{.MemLimit}} {{.PIDs}}",
        &running.name,
    ];
    until("its process is counted beside the init", || {
        podman.does(&words).ok() == "67108864 2"
    });
}
