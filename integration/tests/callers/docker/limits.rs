//! Limits that are in force: `--memory` and the like, and `docker update` of them.

use super::Docker;
use crate::place;
use crate::ran::{printing, until};
use crate::{Case, Needs};

pub const CASES: &[Case<Docker>] = &[
    Case(
        "limits_are_in_the_containers_cgroup",
        Needs::Controllers,
        files,
    ),
    Case(
        "too_much_memory_kills_it_and_inspect_tells",
        Needs::Controllers,
        out_of_memory,
    ),
    Case("update_changes_limits", Needs::Controllers, update),
    Case("stats_show_memory_and_processes", Needs::Controllers, stats),
];

fn files(docker: &Docker) {
    let options = [
        "--memory",
        "64m",
        "--memory-swap",
        "64m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "50",
    ];
    let script = "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max cpu.weight pids.max";
    let ran = docker.prints(&options, &["sh", "-c", script]);
    let lines: Vec<&str> = ran.ok().lines().collect();
    let (weight, rest) = (lines.get(3).copied(), [&lines[..3], &lines[4..]].concat());
    assert_eq!(rest, ["67108864", "0", "50000 100000", "50"], "{ran:#?}");
    assert!(
        place::weights(512).contains(&weight.unwrap_or_default()),
        "{ran:#?}"
    );
}

fn out_of_memory(docker: &Docker) {
    let options = ["--memory", "16m", "--memory-swap", "16m"];
    // containerd misses an event of a cgroup that goes at once, with any runtime: the shell stays.
    let script =
        "tail -c 64m /dev/zero; code=$?; until test -e /tmp/go; do sleep 0.1; done; exit $code";
    let running = docker.start("oom", &options, &["sh", "-c", script]);
    let past = ["events", "--since", "10m", "--until", "0s"];
    let ours = ["--filter", "container=oom", "--filter", "event=oom"];
    until("Docker has heard of it", || {
        !docker
            .does(&[past.as_slice(), &ours].concat())
            .ok()
            .is_empty()
    });
    // The container may end before Docker can tell how this did.
    running.exec(&[], &["touch", "/tmp/go"]);
    running.until_status("exited");
    assert_eq!(
        running.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}"),
        "137 true"
    );
}

fn update(docker: &Docker) {
    let running = docker.start("update", &["--init", "--memory", "64m"], &["sleep", "1000"]);
    let words = [
        "update",
        "--memory",
        "128m",
        "--memory-swap",
        "128m",
        "--cpus",
        "0.25",
        &running.name,
    ];
    docker.does(&words).ok();
    let args = ["cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"];
    let ran = printing(|| running.exec(&[], &args));
    assert_eq!(ran.ok(), "134217728\n25000 100000");
}

fn stats(docker: &Docker) {
    let running = docker.start(
        "measured",
        &["--init", "--memory", "64m"],
        &["sleep", "1000"],
    );
    let words = [
        "stats",
        "--no-stream",
        "--format",
        "{{.MemUsage}} {{.PIDs}}",
        &running.name,
    ];
    until("its process is counted beside the init", || {
        docker.does(&words).ok().ends_with("/ 64MiB 2")
    });
}
