//! Limits, as the kernel has them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::host::{Host, definition, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "the_kernel_has_the_limits_of_the_definition",
        Needs::Controllers,
        as_defined,
    ),
    Case(
        "the_task_as_a_whole_is_limited",
        Needs::Controllers,
        task_cgroup,
    ),
    Case(
        "a_container_beyond_its_memory_is_killed_and_the_task_says_so",
        Needs::Controllers,
        out_of_memory,
    ),
    Case(
        "ulimits_above_the_agents_own_are_in_force",
        Needs::Controllers,
        raised,
    ),
    Case(
        "open_files_are_limited_as_on_fargate_and_not_as_the_agent_is_started",
        Needs::Kernel,
        open_files,
    ),
    Case(
        "a_limit_that_can_not_be_applied_fails_the_task",
        Needs::NoControllers,
        not_applicable,
    ),
];

/// Only who may do that on the host can, and root of a task is nobody there.
fn raised(host: &Host) {
    host.image();
    host.agent();
    let mut task = script("ulimit -Hn; ulimit -Hl; exec sleep 3000");
    task["containerDefinitions"][0]["ulimits"] = json!([
        {"name": "nofile", "softLimit": 1_000_000, "hardLimit": 1_000_000},
        {"name": "memlock", "softLimit": -1, "hardLimit": -1},
    ]);
    let arn = host.start_task(&task);
    host.wait_status(&arn, "RUNNING");
    let shown = "1000000\nunlimited\n";
    let show = ["exec", &arn, "--", "sh", "-c", "ulimit -Hn; ulimit -Hl"];
    assert_eq!(host.succeed(&show), shown);
    host.until("it has said it", || {
        host.succeed(&["logs", &arn]).contains("unlimited")
    });
    assert!(host.succeed(&["logs", &arn]).contains("1000000"));
    host.succeed(&["stop", &arn]);
}

/// A service is started with a low soft limit, which holds for no task, nor for an engine that has many of them.
fn open_files(host: &Host) {
    const ON_FARGATE: u64 = 65_535;
    host.image();
    let (_, own) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let file = host.definition_file(&script(
        "trap exit TERM; ulimit -n; ulimit -Hn; while true; do sleep 0.1; done",
    ));
    let run = host.berth(&["run", file.to_str().unwrap()]);
    let mut run = after("ulimit -Sn 256", &run);
    run.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = run.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<u64> = lines
        .take(2)
        .map(|line| line.unwrap().parse().unwrap())
        .collect();
    let expected = own.min(ON_FARGATE);
    assert_eq!(said, [expected, expected]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let engines = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let engines: Vec<&str> = engines.unwrap().split_whitespace().collect();
    assert_eq!(engines[3..5], [own.to_string(), own.to_string()]);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    child.wait().unwrap();

    let file = host.definition_file(&script("true"));
    let run = host.berth(&["run", file.to_str().unwrap()]);
    let output = after("ulimit -n 600", &run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = "no more than 600 files may be open here, which is enough for some 300 tasks";
    assert!(said.contains(expected), "{said}");
}

/// A command that a shell runs after a line of its own.
fn after(line: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{line} && exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

fn as_defined(host: &Host) {
    host.image();
    let read = "cd /sys/fs/cgroup; cat cpu.max cpu.weight memory.max memory.low memory.swap.max; cat /proc/self/cgroup; \
                touch /sys/fs/cgroup/x 2>/dev/null || echo read-only";
    let mut task = script(read);
    task["containerDefinitions"][0]["cpu"] = json!(256);
    task["containerDefinitions"][0]["memory"] = json!(256);
    task["containerDefinitions"][0]["memoryReservation"] = json!(64);
    let ran = host.run(&task);
    // 256 shares are weight 35 on the curve that runc and crun use.
    let expected = [
        "25000 100000",
        "35",
        "268435456",
        "67108864",
        "0",
        "0::/",
        "read-only",
    ];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), expected, "{ran:?}");
}

fn task_cgroup(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("trap exit TERM; sleep 9999 & wait"));
    host.wait_status(&arn, "RUNNING");
    let id = arn.rsplit('/').next().unwrap();
    let read =
        |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/berth/{id}/{file}")).unwrap();
    assert_eq!(read("cpu.max"), "25000 100000\n");
    assert_eq!(read("memory.max"), format!("{}\n", 512 << 20));
    assert_eq!(read("cgroup.procs"), "", "processes are only in the leaves");
    let supervisor = std::fs::read_to_string(format!(
        "/sys/fs/cgroup/berth-supervisors/{id}/cgroup.procs"
    ))
    .unwrap();
    assert_eq!(
        supervisor.lines().count(),
        1,
        "the supervisor is outside the task's limits"
    );
    host.succeed(&["stop", &arn]);
}

fn out_of_memory(host: &Host) {
    host.image();
    let mut task = script("exec tail -c 64m /dev/zero");
    task["containerDefinitions"][0]["memory"] = json!(16);
    let ran = host.run_with(&["--json"], &task);
    let task: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    let container = &task["containers"][0];
    assert_eq!(container["exitCode"], 137, "{task}");
    assert_eq!(
        container["reason"], "OutOfMemoryError: Container killed due to memory usage",
        "{task}"
    );
    assert_eq!(task["stopCode"], "EssentialContainerExited", "{task}");
    assert_eq!(ran.code, 137);
}

fn not_applicable(host: &Host) {
    host.image();
    let file = host.definition_file(&definition(
        json!([{"name": "main", "image": "box", "command": ["true"]}]),
    ));
    let output = host
        .berth(&["run", "--limits", "required"])
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(
        said.contains("cpu.max") && said.contains("controller"),
        "{said}"
    );
}
