//! A container that goes on: what can be done with it meanwhile.

use std::time::{Duration, Instant};

use super::Docker;
use crate::ran::{Ran, printing, settled, until};
use crate::{Case, Needs};

pub const CASES: &[Case<Docker>] = &[
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
        "exec_of_what_is_not_there_gives_126",
        Needs::Kernel,
        exec_no_program,
    ),
    Case(
        "exec_privileged_has_all_capabilities",
        Needs::Capabilities,
        exec_privileged,
    ),
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
    Case("a_health_check_finds_it_healthy", Needs::Kernel, health),
    Case(
        "create_start_wait_and_remove_go_by_themselves",
        Needs::Kernel,
        steps,
    ),
    Case("a_restart_policy_starts_it_again", Needs::Kernel, policy),
    Case("cp_copies_in_and_out", Needs::Kernel, copy),
];

const SLEEP: [&str; 2] = ["sleep", "1000"];

fn exec(docker: &Docker) {
    let running = docker.start("exec", &["--init"], &SLEEP);
    let args = ["sh", "-c", "echo out; echo err >&2; exit 9"];
    let ran = printing(|| running.exec(&[], &args));
    ran.fails_with(9);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn exec_process(docker: &Docker) {
    let running = docker.start("execprocess", &["--init"], &SLEEP);
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

fn exec_terminal(docker: &Docker) {
    let running = docker.start("execterminal", &["--init"], &SLEEP);
    let words = [
        "exec",
        "-it",
        &running.name,
        "sh",
        "-c",
        "tty; read a; echo got $a",
    ];
    let ran = Ran::on_terminal(&mut docker.command(&words), "word\n");
    assert!(ran.ok().contains("/dev/pts/"), "{ran:#?}");
    assert!(ran.stdout.contains("got word"), "{ran:#?}");
}

fn exec_no_program(docker: &Docker) {
    let running = docker.start("execabsent", &["--init"], &SLEEP);
    let ran = running.exec(&[], &["/bin/absent"]);
    // Docker tells by the words of the runtime which of the two it is.
    assert!([126, 127].contains(&ran.code), "{ran:#?}");
}

fn exec_privileged(docker: &Docker) {
    let running = docker.start("execprivileged", &["--init"], &SLEEP);
    let args = [
        "sh",
        "-c",
        "mkdir /tmp/m && mount -t tmpfs none /tmp/m && umount /tmp/m",
    ];
    assert_ne!(running.exec(&[], &args).code, 0);
    // The filter is the container's own, but it lets those through who have the capability.
    let args = ["grep", "CapEff", "/proc/self/status"];
    let ran = printing(|| running.exec(&["--privileged"], &args));
    assert!(ran.ok().contains("ffffffff"), "{ran:#?}");
}

fn logs(docker: &Docker) {
    // Docker waits for two seconds for what comes after the end, too few for a busy machine: the shell stays.
    let script = "echo one; echo two >&2; until test -e /tmp/go; do sleep 0.1; done";
    let running = docker.start("logs", &[], &["sh", "-c", script]);
    let both = || {
        let ran = docker.does(&["logs", &running.name]);
        (ran.stdout, ran.stderr)
    };
    let expected = ("one\n".to_owned(), "two\n".to_owned());
    until("both are in the log", || both() == expected);
    // The container may end before Docker can tell how this did.
    running.exec(&[], &["touch", "/tmp/go"]);
    running.until_status("exited");
    assert_eq!(both(), expected);
}

fn stop(docker: &Docker) {
    let script = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done";
    let polite = docker.start("polite", &[], &["sh", "-c", script]);
    until("it listens", || polite.logs().contains("ready"));
    docker.does(&["stop", "--time", "30", &polite.name]).ok();
    assert_eq!(polite.inspect("{{.State.ExitCode}}"), "5");
    // As the first process of its namespace it doesn't hear a signal that it has no handler for.
    let deaf = docker.start("deaf", &[], &SLEEP);
    let start = Instant::now();
    docker.does(&["stop", "--time", "1", &deaf.name]).ok();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(deaf.inspect("{{.State.ExitCode}}"), "137");
}

fn kill(docker: &Docker) {
    let script = "trap 'echo hup' HUP; echo ready; while true; do sleep 0.1; done";
    let running = docker.start("kill", &[], &["sh", "-c", script]);
    until("it listens", || running.logs().contains("ready"));
    docker
        .does(&["kill", "--signal", "HUP", &running.name])
        .ok();
    until("the signal has arrived", || running.logs().contains("hup"));
    docker.does(&["kill", &running.name]).ok();
    running.until_status("exited");
    assert_eq!(running.inspect("{{.State.ExitCode}}"), "137");
}

fn pause(docker: &Docker) {
    let script = "while true; do echo tick; sleep 0.1; done";
    let running = docker.start("pause", &["--init"], &["sh", "-c", script]);
    until("it ticks", || running.logs().contains("tick"));
    docker.does(&["pause", &running.name]).ok();
    assert_eq!(running.inspect("{{.State.Status}}"), "paused");
    let before = settled(|| running.logs().len());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(running.logs().len(), before, "it went on");
    docker.does(&["unpause", &running.name]).ok();
    until("it ticks again", || running.logs().len() > before);
}

fn top(docker: &Docker) {
    let running = docker.start("top", &["--init"], &SLEEP);
    let ran = docker.does(&["top", &running.name]);
    assert!(ran.ok().contains("sleep 1000"), "{ran:#?}");
}

fn stats(docker: &Docker) {
    let running = docker.start("stats", &["--init"], &SLEEP);
    let words = [
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.CPUPerc}}",
        &running.name,
    ];
    let ran = docker.does(&words);
    assert!(
        ran.ok().starts_with("stats ") && ran.stdout.contains('%'),
        "{ran:#?}"
    );
}

fn restart(docker: &Docker) {
    let running = docker.start(
        "restart",
        &["--init"],
        &["sh", "-c", "echo up; exec sleep 1000"],
    );
    until("it is up", || running.logs().contains("up"));
    let first = running.inspect("{{.State.Pid}}");
    docker.does(&["restart", "--time", "1", &running.name]).ok();
    until("it is up again", || {
        running.logs().matches("up").count() == 2
    });
    assert_ne!(running.inspect("{{.State.Pid}}"), first);
}

fn health(docker: &Docker) {
    let options = ["--init", "--health-cmd", "true", "--health-interval", "1s"];
    let running = docker.start("health", &options, &SLEEP);
    until("it is healthy", || {
        running.inspect("{{.State.Health.Status}}") == "healthy"
    });
}

fn steps(docker: &Docker) {
    let words = [
        "create",
        "--name",
        "steps",
        "box",
        "sh",
        "-c",
        "sleep 1; exit 4",
    ];
    docker.does(&words).ok();
    docker.does(&["start", "steps"]).ok();
    assert_eq!(docker.does(&["wait", "steps"]).ok(), "4");
    docker.does(&["rm", "steps"]).ok();
}

fn policy(docker: &Docker) {
    let options = ["--restart", "on-failure:2"];
    let running = docker.start("policy", &options, &["sh", "-c", "echo up; exit 1"]);
    until("it has been started three times", || {
        running.logs().matches("up").count() == 3
    });
    running.until_status("exited");
}

fn copy(docker: &Docker) {
    let running = docker.start("copy", &["--init"], &SLEEP);
    let from = format!("{}:/etc/passwd", running.name);
    let to = format!("{}:/tmp/copy", running.name);
    let here = format!("{}/copied", crate::place::DATA);
    docker.does(&["cp", &from, &here]).ok();
    docker.does(&["cp", &here, &to]).ok();
    running.exec(&[], &["cmp", "/tmp/copy", "/etc/passwd"]).ok();
    std::fs::remove_file(here).unwrap();
}
