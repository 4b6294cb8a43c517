//! A container that goes on: what can be done with it meanwhile.

use std::time::{Duration, Instant};

use super::Podman;
use crate::ran::{Ran, printing, settled, until};
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[
    Case(
        "exec_gives_the_output_and_the_exit_code",
        Needs::Kernel,
        exec,
    ),
    Case(
        "exec_sets_variables_folder_and_user",
        Needs::Kernel,
        exec_process,
    ),
    Case(
        "exec_with_a_terminal_talks_to_the_shell",
        Needs::Kernel,
        exec_terminal,
    ),
    Case(
        "exec_of_what_is_not_there_gives_127",
        Needs::Kernel,
        exec_no_program,
    ),
    Case("exec_detached_goes_on", Needs::Kernel, exec_detached),
    Case("logs_show_what_was_printed", Needs::Kernel, logs),
    Case(
        "stop_ends_it_by_its_signal_or_after_the_time",
        Needs::Kernel,
        stop,
    ),
    Case("kill_sends_the_signal", Needs::Kernel, kill),
    Case(
        "pause_freezes_it_and_unpause_lets_it_go_on",
        Needs::Kernel,
        pause,
    ),
    Case("top_lists_its_processes", Needs::Kernel, top),
    Case("stats_show_it", Needs::Kernel, stats),
    Case("restart_starts_it_again", Needs::Kernel, restart),
    Case(
        "a_health_check_finds_it_healthy_and_then_not",
        Needs::Kernel,
        health,
    ),
    Case(
        "create_start_wait_and_remove_go_by_themselves",
        Needs::Kernel,
        steps,
    ),
    Case("attach_shows_its_output", Needs::Kernel, attach),
    Case("a_restart_policy_starts_it_again", Needs::Kernel, policy),
    Case("cp_copies_in_and_out", Needs::Kernel, copy),
];

const SLEEP: [&str; 2] = ["sleep", "1000"];

fn exec(podman: &Podman) {
    let running = podman.start("exec", &["--init"], &SLEEP);
    let args = ["sh", "-c", "echo out; echo err >&2; exit 9"];
    let ran = printing(|| running.exec(&[], &args));
    ran.fails_with(9);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.trim_end()),
        ("out\n", "err")
    );
}

fn exec_process(podman: &Podman) {
    let running = podman.start("execprocess", &["--init"], &SLEEP);
    let options = [
        "--env",
        "WORD=hello",
        "--workdir",
        "/tmp",
        "--user",
        "33:40",
    ];
    let args = ["sh", "-c", "echo $WORD; pwd; id -u; id -g"];
    let ran = printing(|| running.exec(&options, &args));
    assert_eq!(ran.ok(), "hello\n/tmp\n33\n40");
}

fn exec_terminal(podman: &Podman) {
    let running = podman.start("execterminal", &["--init"], &SLEEP);
    let words = [
        "exec",
        "-it",
        &running.name,
        "sh",
        "-c",
        "tty; read a; echo got $a",
    ];
    let ran = Ran::on_terminal(&mut podman.command(&words), "word\n");
    assert!(ran.ok().contains("/dev/pts/"), "{ran:#?}");
    assert!(ran.stdout.contains("got word"), "{ran:#?}");
}

fn exec_no_program(podman: &Podman) {
    let running = podman.start("execabsent", &["--init"], &SLEEP);
    running.exec(&[], &["/bin/absent"]).fails_with(127);
}

fn exec_detached(podman: &Podman) {
    let running = podman.start("execdetached", &["--init"], &SLEEP);
    running
        .exec(&["--detach"], &["sh", "-c", "echo done > /tmp/mark"])
        .ok();
    until("the detached process has written", || {
        running.exec(&[], &["cat", "/tmp/mark"]).stdout == "done\n"
    });
}

fn logs(podman: &Podman) {
    let running = podman.start("logs", &[], &["sh", "-c", "echo one; echo two >&2"]);
    running.until_status("exited");
    let ran = podman.does(&["logs", &running.name]);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("one\n", "two\n")
    );
}

fn stop(podman: &Podman) {
    let script = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done";
    let polite = podman.start("polite", &[], &["sh", "-c", script]);
    until("it listens", || polite.logs().contains("ready"));
    podman.does(&["stop", "--time", "30", &polite.name]).ok();
    assert_eq!(polite.inspect("{{.State.ExitCode}}"), "5");
    // As the first process of its namespace it doesn't hear a signal that it has no handler for.
    let deaf = podman.start("deaf", &[], &SLEEP);
    let start = Instant::now();
    podman.does(&["stop", "--time", "1", &deaf.name]).ok();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(deaf.inspect("{{.State.ExitCode}}"), "137");
}

fn kill(podman: &Podman) {
    let script = "trap 'echo hup' HUP; echo ready; while true; do sleep 0.1; done";
    let running = podman.start("kill", &[], &["sh", "-c", script]);
    until("it listens", || running.logs().contains("ready"));
    podman
        .does(&["kill", "--signal", "HUP", &running.name])
        .ok();
    until("the signal has arrived", || running.logs().contains("hup"));
    podman.does(&["kill", &running.name]).ok();
    running.until_status("exited");
    assert_eq!(running.inspect("{{.State.ExitCode}}"), "137");
}

fn pause(podman: &Podman) {
    let script = "while true; do echo tick; sleep 0.1; done";
    let running = podman.start("pause", &["--init"], &["sh", "-c", script]);
    until("it ticks", || running.logs().contains("tick"));
    podman.does(&["pause", &running.name]).ok();
    assert_eq!(running.inspect("{{.State.Status}}"), "paused");
    let before = settled(|| running.logs().len());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(running.logs().len(), before, "it went on");
    podman.does(&["unpause", &running.name]).ok();
    until("it ticks again", || running.logs().len() > before);
}

fn top(podman: &Podman) {
    let running = podman.start("top", &["--init"], &SLEEP);
    let ran = podman.does(&["top", &running.name, "pid", "user", "args"]);
    assert!(ran.ok().contains("sleep 1000"), "{ran:#?}");
}

fn stats(podman: &Podman) {
    let running = podman.start("stats", &["--init"], &SLEEP);
    let ran = podman.does(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.PIDs}}",
        &running.name,
    ]);
    assert!(ran.ok().starts_with("stats "), "{ran:#?}");
}

fn restart(podman: &Podman) {
    let running = podman.start(
        "restart",
        &["--init"],
        &["sh", "-c", "echo up; exec sleep 1000"],
    );
    until("it is up", || running.logs().contains("up"));
    let first = running.inspect("{{.State.Pid}}");
    podman.does(&["restart", "--time", "1", &running.name]).ok();
    until("it is up again", || {
        running.logs().matches("up").count() == 2
    });
    assert_ne!(running.inspect("{{.State.Pid}}"), first);
}

fn health(podman: &Podman) {
    let options = [
        "--init",
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "disable",
        "--health-retries",
        "1",
    ];
    let running = podman.start("health", &options, &SLEEP);
    running.exec(&[], &["touch", "/tmp/well"]).ok();
    podman.does(&["healthcheck", "run", &running.name]).ok();
    running.exec(&[], &["rm", "/tmp/well"]).ok();
    podman
        .does(&["healthcheck", "run", &running.name])
        .fails_with(1);
    let status = running.inspect("{{.State.Health.Status}}");
    assert_eq!(status, "unhealthy");
}

fn steps(podman: &Podman) {
    let words = podman.words("create", &["--name", "steps"], &["sh", "-c", "exit 4"]);
    podman.does(&words).ok();
    let mut started = podman.command(&["start", "steps"]);
    Ran::of(&mut started).ok();
    assert_eq!(podman.does(&["wait", "steps"]).ok(), "4");
    podman.does(&["rm", "steps"]).ok();
    // One that was never started, but initialised: the runtime has created it and no more.
    podman
        .does(&podman.words("create", &["--name", "steps"], &SLEEP))
        .ok();
    podman.does(&["init", "steps"]).ok();
    let status = podman.does(&["inspect", "--format", "{{.State.Status}}", "steps"]);
    assert_eq!(status.ok(), "initialized");
    podman.does(&["rm", "--force", "--time", "1", "steps"]).ok();
}

fn attach(podman: &Podman) {
    let script = "read a; echo got $a; exit 6";
    let words = podman.words("create", &["-i", "--name", "attach"], &["sh", "-c", script]);
    let ran = printing(|| {
        podman.does(&words).ok();
        let mut start = podman.command(&["start", "-a", "-i", "attach"]);
        let ran = Ran::with_input(&mut start, "word\n");
        podman.does(&["rm", "--force", "attach"]).ok();
        ran
    });
    ran.fails_with(6);
    assert_eq!(ran.stdout, "got word\n");
}

fn policy(podman: &Podman) {
    let running = podman.start(
        "policy",
        &["--restart", "on-failure:2"],
        &["sh", "-c", "echo up; exit 1"],
    );
    until("it has been started three times", || {
        running.logs().matches("up").count() == 3
    });
    running.until_status("exited");
}

fn copy(podman: &Podman) {
    let running = podman.start("copy", &["--init"], &SLEEP);
    let from = format!("{}:/etc/passwd", running.name);
    let to = format!("{}:/tmp/copy", running.name);
    let here = format!("{}/copied", crate::place::DATA);
    podman.does(&["cp", &from, &here]).ok();
    podman.does(&["cp", &here, &to]).ok();
    running.exec(&[], &["cmp", "/tmp/copy", "/etc/passwd"]).ok();
    std::fs::remove_file(here).unwrap();
}
