//! Running a task from its file.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::host::{Host, Ran, definition, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "the_exit_code_is_the_essential_containers",
        Needs::Kernel,
        exit_code,
    ),
    Case(
        "a_container_sees_its_own_processes_only",
        Needs::Kernel,
        own_processes,
    ),
    Case(
        "containers_share_localhost_and_the_log_names_them",
        Needs::Kernel,
        localhost,
    ),
    Case(
        "user_directory_environment_and_limits_are_as_defined",
        Needs::Kernel,
        process_settings,
    ),
    Case(
        "a_read_only_root_filesystem_can_not_be_written",
        Needs::Kernel,
        read_only,
    ),
    Case("dependencies_order_the_start", Needs::Kernel, dependencies),
    Case(
        "a_failed_dependency_stops_the_task_with_143",
        Needs::Kernel,
        failed_dependency,
    ),
    Case(
        "an_essential_exit_stops_the_others_in_reverse_order",
        Needs::Kernel,
        reverse_order,
    ),
    Case(
        "a_container_deaf_to_sigterm_is_killed_at_its_stop_timeout",
        Needs::Kernel,
        deaf,
    ),
    Case("ctrl_c_stops_the_task_properly", Needs::Kernel, ctrl_c),
    Case(
        "a_command_that_is_not_there_fails_the_start",
        Needs::Kernel,
        no_command,
    ),
    Case("exec_runs_a_program_in_the_container", Needs::Kernel, exec),
    Case(
        "exec_gives_the_program_a_terminal",
        Needs::Packages,
        exec_terminal,
    ),
    Case("logs_stay_after_the_task", Needs::Kernel, logs),
    Case(
        "two_runs_without_an_agent_share_one_engine",
        Needs::Kernel,
        two_runs,
    ),
];

fn exit_code(host: &Host) {
    host.image();
    assert_eq!(host.run(&script("exit 0")).code, 0);
    assert_eq!(host.run(&script("exit 42")).code, 42);
    assert_eq!(
        host.run(&script("kill -SEGV $$; true")).code,
        0,
        "PID 1 ignores what it has no handler for"
    );
}

fn own_processes(host: &Host) {
    host.image();
    let ran = host.run(&script(
        "echo pid $$; ls -d /proc/[0-9]* | wc -l; ls /proc/self/fd | tr '\\n' ' '",
    ));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"pid 1"), "{ran:?}");
    // The shell, and the members of the pipeline.
    assert!(lines[1].trim().parse::<u32>().unwrap() <= 3, "{ran:?}");
    assert!(
        lines[2]
            .trim()
            .split(' ')
            .all(|fd| fd.parse::<u32>().unwrap() <= 3),
        "{ran:?}"
    );
}

fn localhost(host: &Host) {
    host.image();
    let ran = host.run(&definition(json!([
        {"name": "web", "image": "box", "essential": false, "stopTimeout": 2,
         "command": ["sh", "-c", "httpd -p 8000 -h /www; trap exit TERM; sleep 9999 & wait"]},
        {"name": "client", "image": "box", "dependsOn": [{"containerName": "web", "condition": "START"}],
         "command": ["sh", "-c", "until wget -q -O - http://127.0.0.1:8000/; do sleep 0.1; done; echo err >&2"]},
    ])));
    assert!(
        ran.stdout.contains("client | hello over localhost\n"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("client | err\n"), "{ran:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
}

fn process_settings(host: &Host) {
    host.image();
    let ran = host.run(&definition(json!([{
        "name": "main", "image": "box", "user": "web", "workingDirectory": "/www",
        "environment": [{"name": "COLOUR", "value": "blue = sky"}],
        "ulimits": [{"name": "nofile", "softLimit": 100, "hardLimit": 200}],
        "entryPoint": ["sh", "-c"],
        "command": ["id -u; id -g; id -G; pwd; echo $COLOUR; ulimit -n; ulimit -Hn; echo $AWS_REGION $HOME; hostname"],
    }])));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let expected = [
        "33",
        "33",
        "33 40",
        "/www",
        "blue = sky",
        "100",
        "200",
        "us-east-1 /www",
    ];
    assert_eq!(lines.get(..8).unwrap_or_default(), expected, "{ran:?}");
    assert!(lines[8].starts_with("ip-10-231-0-"), "{ran:?}");
}

fn read_only(host: &Host) {
    host.image();
    let mut task =
        script("touch /x 2>/dev/null && echo wrote || echo refused; touch /dev/shm/x && echo shm");
    assert_eq!(host.run(&task).stdout, "wrote\nshm\n");
    task["containerDefinitions"][0]["readonlyRootFilesystem"] = json!(true);
    assert_eq!(host.run(&task).stdout, "refused\nshm\n");
}

/// A command that says when something is, in seconds since the host was started.
fn moment(what: &str) -> String {
    format!("echo {what} $(cut -d' ' -f1 /proc/uptime)")
}

/// When a container said that it was.
fn moment_of(ran: &Ran, container: &str, what: &str) -> f64 {
    let moments = ran.stdout.lines().filter_map(|line| {
        let (name, said) = line.split_once('|')?;
        let moment = said.trim().strip_prefix(what)?.trim().parse().ok()?;
        (name.trim() == container).then_some(moment)
    });
    let moments: Vec<f64> = moments.collect();
    assert_eq!(moments.len(), 1, "{container} {what}: {ran:?}");
    moments[0]
}

fn dependencies(host: &Host) {
    host.image();
    // Lines of different containers are in no order: the moments are.
    let (begin, end) = (moment("begin"), moment("end"));
    let code = |code: u8| format!("{begin}; sleep 0.5; {end}; exit {code}");
    let ran = host.run(&definition(json!([
        {"name": "third", "image": "box", "command": ["sh", "-c", begin], "dependsOn": [
            {"containerName": "second", "condition": "SUCCESS"}, {"containerName": "first", "condition": "COMPLETE"}]},
        {"name": "second", "image": "box", "essential": false, "command": ["sh", "-c", code(0)],
         "dependsOn": [{"containerName": "first", "condition": "COMPLETE"}]},
        {"name": "first", "image": "box", "essential": false, "command": ["sh", "-c", code(9)]},
    ])));
    let at = |container: &str, what: &str| moment_of(&ran, container, what);
    assert!(at("first", "end") <= at("second", "begin"), "{ran:?}");
    assert!(at("second", "end") <= at("third", "begin"), "{ran:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
}

fn failed_dependency(host: &Host) {
    host.image();
    let ran = host.run_with(&["--json"], &definition(json!([
        {"name": "app", "image": "box", "command": ["echo", "never"],
         "dependsOn": [{"containerName": "setup", "condition": "SUCCESS"}]},
        {"name": "setup", "image": "box", "essential": false, "command": ["sh", "-c", "exit 3"]},
    ])));
    let task: serde_json::Value = serde_json::from_str(ran.stdout.trim()).unwrap();
    assert_eq!(task["containers"][0]["exitCode"], 143, "{task}");
    assert!(
        task["containers"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("depends on 'setup'"),
        "{task}"
    );
    assert_eq!(task["containers"][1]["exitCode"], 3, "{task}");
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task}");
}

fn reverse_order(host: &Host) {
    host.image();
    let (told, bye) = (moment("told"), moment("bye"));
    // Who serves has its trap.
    let stoppable = |port: u16| {
        format!(
            "stop() {{ {told}; sleep 0.3; {bye}; exit 0; }}; trap stop TERM; httpd -p {port} -h /www; \
             while true; do sleep 0.1; done"
        )
    };
    let waits = "for port in 8001 8002; do \
                 until wget -q -O /dev/null http://127.0.0.1:$port/; do sleep 0.1; done; done; exit 5";
    let ran = host.run_with(&["--json"], &definition(json!([
        {"name": "app", "image": "box", "command": ["sh", "-c", waits],
         "dependsOn": [{"containerName": "cache", "condition": "START"}]},
        {"name": "cache", "image": "box", "essential": false, "command": ["sh", "-c", stoppable(8001)],
         "dependsOn": [{"containerName": "base", "condition": "START"}]},
        {"name": "base", "image": "box", "essential": false, "command": ["sh", "-c", stoppable(8002)]},
    ])));
    assert_eq!(ran.code, 5, "{ran:?}");
    let at = |container: &str, what: &str| moment_of(&ran, container, what);
    assert!(at("cache", "told") < at("cache", "bye"), "{ran:?}");
    assert!(at("cache", "bye") <= at("base", "told"), "{ran:?}");
    let task: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(task["stopCode"], "EssentialContainerExited", "{task}");
    assert_eq!(
        task["stoppedReason"], "Essential container in task exited",
        "{task}"
    );
    for (i, code) in [5, 0, 0].iter().enumerate() {
        assert_eq!(task["containers"][i]["exitCode"], *code, "{task}");
    }
}

fn deaf(host: &Host) {
    host.image();
    let before = std::time::Instant::now();
    let ran = host.run_with(
        &["--json"],
        &definition(json!([
            {"name": "app", "image": "box", "command": ["sleep", "0.2"],
             "dependsOn": [{"containerName": "deaf", "condition": "START"}]},
            {"name": "deaf", "image": "box", "essential": false, "stopTimeout": 3,
             "command": ["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"]},
        ])),
    );
    assert!(
        before.elapsed().as_secs() >= 3,
        "it was killed before its time"
    );
    let task: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(task["containers"][1]["exitCode"], 137, "{task}");
}

fn ctrl_c(host: &Host) {
    host.image();
    let mut stoppable = script(
        "trap 'echo stopped properly; exit 3' TERM; echo up; while true; do sleep 0.1; done",
    );
    stoppable["containerDefinitions"][0]["stopTimeout"] = json!(60);
    let mut child = host.start_run(&[], &stoppable);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "up\n");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
    assert_eq!(rest, "stopped properly\n");
    let ran = host.ran(child);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.stderr.contains("UserInitiated: Task stopped by user"),
        "{ran:?}"
    );
}

fn no_command(host: &Host) {
    host.image();
    let ran = host.run(&definition(
        json!([{"name": "main", "image": "box", "command": ["nonsense"]}]),
    ));
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(
        ran.stderr
            .contains("TaskFailedToStart: CannotStartContainerError"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("nonsense"), "{ran:?}");
}

fn exec(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("echo mine > /mark; exec sleep 9999"));
    host.wait_status(&arn, "RUNNING");
    let seen = host.succeed(&[
        "exec",
        &arn,
        "--",
        "sh",
        "-c",
        "until [ -s /mark ]; do sleep 0.1; done; cat /mark; echo $$; ls -d /proc/[0-9]* | wc -l; hostname",
    ]);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "mine", "{seen}");
    assert_ne!(lines[1], "1", "{seen}");
    assert!(lines[3].starts_with("ip-10-231-"), "{seen}");
    let output = host
        .berth(&["exec", &arn, "--", "sh", "-c", "exit 9"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(9));
    let said = host.fail(&["exec", "-c", "other", &arn, "--", "true"]);
    assert!(said.contains("container 'other' isn't running"), "{said}");
    let listed = host.succeed(&["ps"]);
    assert!(listed.contains("main (running)"), "{listed}");
    host.succeed(&["stop", &arn]);
    assert_eq!(host.describe(&arn)["containers"][0]["exitCode"], 137);
}

/// `script` gives the command a terminal, as a person's is.
fn exec_terminal(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("exec sleep 9999"));
    host.wait_status(&arn, "RUNNING");
    let berth = super::host::berth_path();
    let inside = "tty; test -t 0 && test -t 1 && echo a terminal; echo $TERM; exit 4";
    let line = format!("{} exec -it {arn} -- sh -c '{inside}'", berth.display());
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("BERTH_ROOT", host.root())
        .env("BERTH_RUN", host.run_folder())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    // `script` types the end of its own input, which the terminal shows as ^@.
    let seen = String::from_utf8_lossy(&output.stdout).replace("^@", "");
    assert_eq!(output.status.code(), Some(4), "{seen}");
    assert!(
        seen.contains("/dev/pts/0\r\na terminal\r\nxterm\r\n"),
        "{seen:?}"
    );
    host.succeed(&["stop", &arn]);
}

fn logs(host: &Host) {
    host.image();
    host.run(&script(
        "for i in 1 2 3; do echo line $i; done; printf 'no end'",
    ));
    let listed = host.succeed(&["ps", "--all"]);
    let id = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    assert_eq!(
        host.succeed(&["logs", &id[..8]]),
        "line 1\nline 2\nline 3\nno end\n"
    );
    assert_eq!(
        host.succeed(&["logs", "-f", id, "main"]),
        "line 1\nline 2\nline 3\nno end\n"
    );
    assert!(
        host.fail(&["logs", "ffff"])
            .contains("no task begins with 'ffff'")
    );
}

/// The tasks whose status is RUNNING; none where nobody answers yet.
fn running_tasks(host: &Host) -> Vec<String> {
    let Ok(Ok(listed)) = host.try_call("ListTasks", &json!({})) else {
        return Vec::new();
    };
    let arns = listed["taskArns"].as_array().unwrap().iter();
    let arns = arns.map(|arn| arn.as_str().unwrap().to_owned());
    arns.filter(|arn| host.describe(arn)["lastStatus"] == "RUNNING")
        .collect()
}

/// The second is a client of the first, and takes the engine up when the first is gone.
fn two_runs(host: &Host) {
    host.image();
    // Not before who makes the file has ended.
    let wait = "until [ -e /end ]; do sleep 0.1; done; sleep 0.5";
    let waiting = |words: &str| script(&format!("{wait}; {words}"));
    let first = host.start_run(&[], &waiting("exit 1"));
    let mut running = Vec::new();
    let mut until_running = |count: usize| {
        host.until("it runs", || {
            running = running_tasks(host);
            running.len() == count
        });
        running.clone()
    };
    let of_first = until_running(1).remove(0);
    let second = host.start_run(&[], &waiting("echo done; exit 2"));
    let mut both = until_running(2);
    both.retain(|arn| *arn != of_first);
    let end = |arn: &str| host.succeed(&["exec", arn, "--", "touch", "/end"]);
    end(&of_first);
    let first = host.ran(first);
    assert_eq!(first.code, 1, "{first:?}");
    end(&both[0]);
    let second = host.ran(second);
    assert_eq!(
        (second.code, second.stdout.as_str()),
        (2, "done\n"),
        "{second:?}"
    );
}
