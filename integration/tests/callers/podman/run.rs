//! `podman run`: a container from its start to its end.

use super::Podman;
use crate::place;
use crate::ran::{Ran, bounded, printing};
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[
    Case(
        "run_gives_the_output_and_the_exit_code",
        Needs::Kernel,
        output,
    ),
    Case(
        "run_sets_variables_folder_user_and_hostname",
        Needs::Kernel,
        process,
    ),
    Case("run_passes_its_input_on", Needs::Kernel, input),
    Case(
        "run_with_a_terminal_talks_to_the_shell",
        Needs::Kernel,
        terminal,
    ),
    Case(
        "run_of_what_is_not_there_gives_127_and_of_what_is_no_program_126",
        Needs::Kernel,
        no_program,
    ),
    Case("run_with_init_reaps_orphans", Needs::Kernel, init),
    Case(
        "run_keeps_the_exit_code_of_a_killed_process",
        Needs::Kernel,
        killed,
    ),
    Case("run_preserves_descriptors", Needs::Kernel, descriptors),
];

fn output(podman: &Podman) {
    let ran = podman.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    ran.fails_with(7);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn process(podman: &Podman) {
    let options = [
        "--env",
        "WORD=hello",
        "--workdir",
        "/tmp",
        "--user",
        "web:log",
        "--hostname",
        "here",
    ];
    let script = "echo $WORD; pwd; id -un; id -gn; hostname; cat /etc/hostname";
    let ran = podman.run(&options, &["sh", "-c", script]);
    assert_eq!(ran.ok(), "hello\n/tmp\nweb\nlog\nhere\nhere");
}

fn input(podman: &Podman) {
    let words = podman.words("run", &["--rm", "-i"], &["cat"]);
    let ran = printing(|| Ran::with_input(&mut podman.command(&words), "one\ntwo\n"));
    assert_eq!(ran.ok(), "one\ntwo");
}

fn terminal(podman: &Podman) {
    let words = podman.words(
        "run",
        &["--rm", "-it"],
        &["sh", "-c", "tty; read a; echo got $a; stty size"],
    );
    let ran = Ran::on_terminal(&mut podman.command(&words), "word\n");
    assert!(ran.ok().contains("/dev/pts/0"), "{ran:#?}");
    assert!(ran.stdout.contains("got word"), "{ran:#?}");
}

fn no_program(podman: &Podman) {
    podman.run(&[], &["/bin/absent"]).fails_with(127);
    podman.run(&[], &["/etc/passwd"]).fails_with(126);
}

fn init(podman: &Podman) {
    let ran = podman.run(&["--init"], &["sh", "-c", "cat /proc/1/comm; exit 3"]);
    ran.fails_with(3);
    assert!(ran.stdout.contains("podman-init"), "{ran:#?}");
}

fn killed(podman: &Podman) {
    podman
        .run(&["--init"], &["sh", "-c", "kill -USR1 $$"])
        .fails_with(138);
}

fn descriptors(podman: &Podman) {
    let options = ["--rm", "--preserve-fds", "1"];
    let words = podman.words("run", &options, &["sh", "-c", "cat <&3"]);
    let inner = podman.command(&words);
    let mut outer = bounded("sh");
    outer
        .args(["-c", "exec 3<\"$1\"; shift; exec \"$@\"", "sh"])
        .arg(format!("{}/etc/group", place::rootfs()))
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    let ran = printing(|| Ran::of(&mut outer));
    assert!(ran.ok().starts_with("root:x:0:"));
}
