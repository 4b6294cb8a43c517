//! `ctr`: containers and their tasks. It limits each, so it needs the controllers.

use std::time::Duration;

use super::Containerd;
use super::image::NAME;
use crate::place::{self, DATA};
use crate::ran::{Ran, until};
use crate::{Case, Needs};

pub const CASES: &[Case<Containerd>] = &[
    Case(
        "ctr_runs_a_root_filesystem_and_gives_its_exit_code",
        Needs::Controllers,
        rootfs,
    ),
    Case("ctr_runs_an_image", Needs::Controllers, image),
    Case(
        "ctr_with_a_terminal_talks_to_the_shell",
        Needs::Controllers,
        terminal,
    ),
    Case(
        "ctr_limits_memory_and_processors",
        Needs::Controllers,
        limits,
    ),
    Case(
        "ctr_executes_pauses_resumes_and_kills",
        Needs::Controllers,
        life,
    ),
    Case(
        "ctr_tells_of_what_is_not_there",
        Needs::Controllers,
        no_program,
    ),
];

/// `ctr run` with this runtime: its options before the image and the id.
fn words<'a>(options: &[&'a str], what: &[&'a str], args: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["run", "--runc-binary", runtime()];
    if place::cgroup_driver() == "systemd" {
        // It takes one only together with the other.
        words.extend(["--runc-systemd-cgroup", "--cgroup", SCOPE]);
    }
    [&words, options, what, args].concat()
}

/// Where systemd makes the cgroup.
const SCOPE: &str = "berthcallers.slice:ctr:task";

fn runtime() -> &'static str {
    static PATH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PATH.get_or_init(|| place::runtime().display().to_string())
}

fn rootfs(containerd: &Containerd) {
    let folder = place::rootfs();
    let script = ["sh", "-c", "echo out; echo err >&2; exit 7"];
    let ran = containerd.does(&words(&["--rm", "--rootfs"], &[&folder, "rootfs"], &script));
    ran.fails_with(7);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn image(containerd: &Containerd) {
    let options = ["--rm", "--env", "WORD=hello", "--cwd", "/tmp"];
    let script = ["sh", "-c", "echo $WORD; pwd; id -u; id -g"];
    let ran = containerd.does(&words(&options, &[NAME, "image"], &script));
    assert_eq!(ran.ok(), "hello\n/tmp\n0\n0");
}

fn terminal(containerd: &Containerd) {
    let script = ["sh", "-c", "tty; read a; echo got $a"];
    let words = words(&["--rm", "--tty"], &[NAME, "terminal"], &script);
    let ran = Ran::on_terminal(&mut containerd.command(&words), "word\n");
    assert!(ran.ok().contains("got word"), "{ran:#?}");
}

fn limits(containerd: &Containerd) {
    let options = ["--detach", "--memory-limit", "67108864", "--cpus", "0.5"];
    let _task = Task(containerd, "limits");
    let words = words(&options, &[NAME, "limits"], &["sleep", "1000"]);
    containerd.does(&words).ok();
    // There is no view of it inside.
    let folder = match place::cgroup_driver() {
        "systemd" => "/sys/fs/cgroup/berthcallers.slice/ctr-task.scope",
        _ => "/sys/fs/cgroup/berth-callers/limits",
    };
    let read = |name| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let said = [read("memory.max"), read("cpu.max")];
    assert_eq!(said, ["67108864\n", "50000 100000\n"]);
}

fn no_program(containerd: &Containerd) {
    let ran = containerd.does(&words(&["--rm"], &[NAME, "absent"], &["/bin/absent"]));
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("/bin/absent"), "{ran:#?}");
}

/// A detached container, removed with this value.
struct Task<'a>(&'a Containerd, &'static str);

impl Drop for Task<'_> {
    fn drop(&mut self) {
        // If this fails, the checker finds what is left.
        self.0.does(&["tasks", "delete", "--force", self.1]);
        self.0.does(&["containers", "delete", self.1]);
    }
}

fn life(containerd: &Containerd) {
    let ticks = format!("{DATA}/ticks");
    let mount = format!("type=bind,src={DATA},dst=/data,options=rbind:rw");
    let script = [
        "sh",
        "-c",
        "while true; do echo tick >> /data/ticks; sleep 0.1; done",
    ];
    let task = Task(containerd, "life");
    containerd
        .does(&words(
            &["--detach", "--mount", &mount],
            &[NAME, "life"],
            &script,
        ))
        .ok();
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "one",
        "--user",
        "33",
        "life",
        "sh",
        "-c",
        "id -u; exit 9",
    ];
    let ran = containerd.does(&exec);
    ran.fails_with(9);
    assert_eq!(ran.stdout, "33\n");
    let count = || std::fs::metadata(&ticks).map_or(0, |file| file.len());
    until("it ticks", || count() > 0);
    containerd.does(&["tasks", "pause", "life"]).ok();
    std::thread::sleep(Duration::from_millis(300));
    let before = count();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(), before, "it went on");
    let listed = containerd.does(&["tasks", "list"]);
    assert!(listed.ok().contains("PAUSED"), "{listed:#?}");
    containerd.does(&["tasks", "resume", "life"]).ok();
    until("it ticks again", || count() > before);
    containerd.does(&["tasks", "metrics", "life"]).ok();
    let processes = containerd.does(&["tasks", "ps", "life"]);
    assert!(processes.ok().lines().count() >= 2, "{processes:#?}");
    containerd
        .does(&["tasks", "kill", "--signal", "SIGKILL", "life"])
        .ok();
    until("it has ended", || {
        containerd.does(&["tasks", "list"]).ok().contains("STOPPED")
    });
    drop(task);
    std::fs::remove_file(ticks).unwrap();
}
