//! Dying at the worst moment: the agent at each of its steps and at random ones, a supervisor,
//! and what is found afterwards.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::host::{Host, definition, run_task, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "after_dying_at_each_step_of_a_start_the_task_runs",
        Needs::Kernel,
        starts,
    ),
    Case(
        "after_dying_at_each_step_of_a_stop_the_task_has_stopped",
        Needs::Kernel,
        stops,
    ),
    Case(
        "after_dying_at_the_networks_steps_a_task_without_one_goes_on",
        Needs::Kernel,
        without_network,
    ),
    Case(
        "dying_at_random_moments_under_load_loses_nothing",
        Needs::Kernel,
        random,
    ),
    Case(
        "an_exit_while_no_agent_lives_is_found",
        Needs::Kernel,
        exit_unseen,
    ),
    Case(
        "when_a_supervisor_dies_its_containers_die_and_the_task_stops",
        Needs::Kernel,
        supervisor,
    ),
    Case(
        "a_supervisor_that_dies_while_no_agent_lives_is_noticed",
        Needs::Kernel,
        supervisor_unseen,
    ),
];

/// The steps up to RUNNING, in order; what follows belongs to a stop.
const LAST_OF_START: &str = "running-recorded";

fn failpoints(host: &Host) -> (Vec<String>, Vec<String>) {
    let all: Vec<String> = host
        .succeed(&["failpoints"])
        .lines()
        .map(str::to_owned)
        .collect();
    let split = all.iter().position(|name| name == LAST_OF_START).unwrap() + 1;
    let (start, stop) = all.split_at(split);
    (start.to_vec(), stop.to_vec())
}

fn steady() -> Value {
    definition(json!([
        {"name": "main", "image": "box", "stopTimeout": 60, "dependsOn": [{"containerName": "side", "condition": "START"}],
         "command": ["sh", "-c", "trap 'echo main stopped; exit 4' TERM; echo main up; while true; do sleep 0.1; done"]},
        {"name": "side", "image": "box", "essential": false, "stopTimeout": 60,
         "command": ["sh", "-c", "trap 'exit 6' TERM; echo side up; while true; do sleep 0.1; done"]},
    ]))
}

/// Waits until both of its containers would hear that they are to stop.
fn until_steady(host: &Host, arn: &str) {
    host.until("both containers are up", || {
        let said = host.succeed(&["logs", arn]);
        ["main up", "side up"]
            .iter()
            .all(|words| said.contains(words))
    });
}

/// The only task there is.
fn the_task(host: &Host) -> String {
    let listed = host.call("ListTasks", json!({})).unwrap();
    let stopped = host
        .call("ListTasks", json!({"desiredStatus": "STOPPED"}))
        .unwrap();
    let all = [
        listed["taskArns"].as_array().unwrap().clone(),
        stopped["taskArns"].as_array().unwrap().clone(),
    ]
    .concat();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].as_str().unwrap().to_owned()
}

fn exit_codes(task: &Value) -> Vec<i64> {
    task["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["exitCode"].as_i64().unwrap_or(-1))
        .collect()
}

fn starts(host: &Host) {
    host.image();
    for step in failpoints(host).0 {
        let host = Nested::new(host, &step);
        host.image();
        host.agent();
        let registered = host.call("RegisterTaskDefinition", steady()).unwrap();
        let name = registered["taskDefinition"]["taskDefinitionArn"]
            .as_str()
            .unwrap()
            .to_owned();
        host.kill_agent();
        host.agent_with(&[], Some(&step));
        // The agent may die before it answers.
        host.try_call("RunTask", &run_task(&name)).ok();
        host.wait_for_agents_death();
        host.agent();
        let arn = the_task(&host);
        let task = host.wait_status(&arn, "RUNNING");
        assert_eq!(
            task["containers"].as_array().unwrap().len(),
            2,
            "{step}: {task}"
        );
        for member in ["networkInterfaces", "imageDigest", "runtimeId"] {
            assert!(
                task["containers"][0][member]
                    .as_array()
                    .is_none_or(|list| !list.is_empty())
                    && !task["containers"][0][member].is_null(),
                "{step}: {member} is lost: {task}"
            );
        }
        until_steady(&host, &arn);
        host.succeed(&["stop", &arn]);
        let task = host.describe(&arn);
        assert_eq!(exit_codes(&task), [4, 6], "{step}: {task}");
        assert_eq!(task["stopCode"], "UserInitiated", "{step}: {task}");
        assert_eq!(
            host.succeed(&["logs", &arn, "main"]),
            "main up\nmain stopped\n",
            "{step}"
        );
        host.end(&step);
    }
}

fn stops(host: &Host) {
    for step in failpoints(host).1 {
        let host = Nested::new(host, &step);
        host.image();
        host.agent();
        let arn = host.start_task(&steady());
        host.wait_status(&arn, "RUNNING");
        until_steady(&host, &arn);
        host.kill_agent();
        host.agent_with(&[], Some(&step));
        host.try_call("StopTask", &json!({"task": arn, "reason": "enough"}))
            .ok();
        host.wait_for_agents_death();
        host.agent();
        let task = host.wait_status(&arn, "STOPPED");
        assert_eq!(exit_codes(&task), [4, 6], "{step}: {task}");
        assert_eq!(task["stopCode"], "UserInitiated", "{step}: {task}");
        assert_eq!(task["stoppedReason"], "enough", "{step}: {task}");
        assert_eq!(
            host.succeed(&["logs", &arn, "main"]),
            "main up\nmain stopped\n",
            "{step}"
        );
        host.end(&step);
    }
}

/// A task under `none` has namespaces and ids, though no interface.
fn without_network(host: &Host) {
    let of_start = ["network-attached", "files-written", "running-recorded"];
    for step in [&of_start[..], &["supervisor-gone", "network-detached"]].concat() {
        let host = Nested::new(host, step);
        host.image();
        host.agent();
        let mut none = steady();
        none["networkMode"] = json!("none");
        none["requiresCompatibilities"] = json!(["EC2"]);
        let registered = host.call("RegisterTaskDefinition", none).unwrap();
        let name = &registered["taskDefinition"]["taskDefinitionArn"];
        host.kill_agent();
        host.agent_with(&[], Some(step));
        let run = json!({"taskDefinition": name, "launchType": "EC2"});
        // The agent may die before it answers.
        host.try_call("RunTask", &run).ok();
        if !of_start.contains(&step) {
            let arn = the_task(&host);
            host.wait_status(&arn, "RUNNING");
            until_steady(&host, &arn);
            host.try_call("StopTask", &json!({"task": arn})).ok();
        }
        host.wait_for_agents_death();
        host.agent();
        let arn = the_task(&host);
        if of_start.contains(&step) {
            host.wait_status(&arn, "RUNNING");
            let records = host.root().join("network/isolated");
            assert_eq!(std::fs::read_dir(records).unwrap().count(), 2, "{step}");
            until_steady(&host, &arn);
            host.succeed(&["stop", &arn]);
        }
        host.wait_status(&arn, "STOPPED");
        host.end(step);
    }
}

/// A host within a test's host, so that each step starts from nothing.
struct Nested(Option<Host>);

impl Nested {
    fn new(_: &Host, _: &str) -> Self {
        Self(Some(Host::new()))
    }

    fn end(mut self, step: &str) {
        let left = self.0.take().unwrap().clean_up();
        assert!(left.is_empty(), "{step} leaves behind:\n{left}");
    }
}

impl std::ops::Deref for Nested {
    type Target = Host;
    fn deref(&self) -> &Host {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        if let Some(host) = self.0.take() {
            println!("{}", host.agent_log());
            host.clean_up();
        }
    }
}

fn random(host: &Host) {
    const LINES: usize = 200;
    host.image();
    host.agent();
    let counting = |code: usize| {
        script(&format!(
            "i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.3; done; exit {code}"
        ))
    };
    let mut tasks: Vec<(String, i64)> = Vec::new();
    // No random numbers: a moment that differs each time, from a sequence that is the same.
    let mut moment = 7u64;
    for round in 0..20usize {
        if tasks.len() < 8 {
            let code = round % 5 + 1;
            tasks.push((host.start_task(&counting(code)), code as i64));
        }
        moment = moment
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((moment >> 33) % 200));
        host.kill_agent();
        host.agent();
    }
    for (arn, code) in &tasks {
        let task = host.wait_status(arn, "STOPPED");
        assert_eq!(exit_codes(&task), [*code], "{task}");
        assert_eq!(task["stopCode"], "EssentialContainerExited", "{task}");
        let log = host.succeed(&["logs", arn]);
        let expected: String = (0..LINES).map(|i| format!("line {i}\n")).collect();
        assert!(
            log == expected,
            "{arn}: {} lines of {LINES}",
            log.lines().count()
        );
    }
}

fn exit_unseen(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script(
        // Not before who makes the file has ended.
        "until [ -e /end ]; do sleep 0.1; done; sleep 0.5; echo last words; exit 11",
    ));
    host.wait_status(&arn, "RUNNING");
    host.kill_agent();
    host.succeed(&["exec", &arn, "--", "touch", "/end"]);
    let id = arn.rsplit('/').next().unwrap().to_owned();
    let status = host
        .run_folder()
        .join(format!("tasks/{id}/status/main.json"));
    host.until("the exit is on disk", || {
        std::fs::read_to_string(&status).is_ok_and(|text| text.contains("exited"))
    });
    host.agent();
    let task = host.wait_status(&arn, "STOPPED");
    assert_eq!(exit_codes(&task), [11], "{task}");
    assert_eq!(host.succeed(&["logs", &arn]), "last words\n");
}

/// The supervisor of a task, by its cgroup.
pub fn supervisor_of(arn: &str) -> Pid {
    let id = arn.rsplit('/').next().unwrap();
    let text = std::fs::read_to_string(format!(
        "/sys/fs/cgroup/berth-supervisors/{id}/cgroup.procs"
    ))
    .unwrap();
    Pid::from_raw(text.trim().parse().unwrap())
}

fn assert_supervisor_died(host: &Host, arn: &str) {
    let task = host.wait_status(arn, "STOPPED");
    assert!(
        task["stoppedReason"]
            .as_str()
            .unwrap()
            .contains("supervisor died"),
        "{task}"
    );
    let listing = std::fs::read_dir("/proc").unwrap().flatten();
    let outlived = listing
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.ends_with("sleep\x004242\0"));
    assert_eq!(outlived.count(), 0, "a container outlived its supervisor");
}

fn supervisor(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("sleep 4242"));
    host.wait_status(&arn, "RUNNING");
    kill(supervisor_of(&arn), Signal::SIGKILL).unwrap();
    assert_supervisor_died(host, &arn);
}

fn supervisor_unseen(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("sleep 4242"));
    host.wait_status(&arn, "RUNNING");
    let supervisor = supervisor_of(&arn);
    host.kill_agent();
    kill(supervisor, Signal::SIGKILL).unwrap();
    host.agent();
    assert_supervisor_died(host, &arn);
}
