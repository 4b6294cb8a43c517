//! `docker run`: a container from its start to its end.

use super::Docker;
use crate::place::DATA;
use crate::ran::{Ran, printing, until, web_page};
use crate::{Case, Needs};

pub const CASES: &[Case<Docker>] = &[
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
    Case(
        "run_with_init_keeps_the_exit_code_of_a_killed_process",
        Needs::Kernel,
        killed,
    ),
    Case(
        "volumes_and_tmpfs_are_mounted_on_a_root_that_is_read_only",
        Needs::Kernel,
        mounts,
    ),
    Case(
        "the_default_filter_and_capabilities_are_in_force",
        Needs::Kernel,
        confined,
    ),
    Case(
        "privileged_has_all_capabilities_and_devices",
        Needs::Capabilities,
        privileged,
    ),
    Case("a_device_is_there_and_can_be_used", Needs::Kernel, device),
    Case(
        "a_published_port_leads_into_the_container",
        Needs::Kernel,
        port,
    ),
    Case(
        "containers_of_a_network_find_each_other_by_name",
        Needs::Kernel,
        names,
    ),
    Case(
        "another_containers_namespaces_are_joined",
        Needs::Kernel,
        joined,
    ),
    Case("the_runtime_is_the_one_under_test", Needs::Kernel, runtime),
];

fn output(docker: &Docker) {
    let ran = docker.prints(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    ran.fails_with(7);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn process(docker: &Docker) {
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
    let ran = docker.prints(&options, &["sh", "-c", script]);
    assert_eq!(ran.ok(), "hello\n/tmp\nweb\nlog\nhere\nhere");
}

fn input(docker: &Docker) {
    let mut command = docker.command(&["run", "--rm", "-i", "box", "cat"]);
    let ran = printing(|| Ran::with_input(&mut command, "one\ntwo\n"));
    assert_eq!(ran.ok(), "one\ntwo");
}

fn terminal(docker: &Docker) {
    let words = [
        "run",
        "--rm",
        "-it",
        "box",
        "sh",
        "-c",
        "tty; read a; echo got $a",
    ];
    let ran = Ran::on_terminal(&mut docker.command(&words), "word\n");
    assert!(ran.ok().contains("/dev/pts/0"), "{ran:#?}");
    assert!(ran.stdout.contains("got word"), "{ran:#?}");
}

fn no_program(docker: &Docker) {
    docker.run(&[], &["/bin/absent"]).fails_with(127);
    docker.run(&[], &["/etc/passwd"]).fails_with(126);
}

fn killed(docker: &Docker) {
    docker
        .run(&["--init"], &["sh", "-c", "kill -USR1 $$"])
        .fails_with(138);
}

fn mounts(docker: &Docker) {
    let folder = format!("{DATA}/dockervolume");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(format!("{folder}/file"), "content\n").unwrap();
    let readonly = format!("{folder}:/data:ro");
    let options = [
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "-v",
        &readonly,
        "-v",
        "/own",
    ];
    let script = "cat /data/file; touch /scratch/yes /own/yes; touch /data/no; touch /no";
    let ran = docker.prints(&options, &["sh", "-c", script]);
    std::fs::remove_dir_all(folder).unwrap();
    ran.fails_with(1);
    assert_eq!(ran.stdout, "content\n");
    assert_eq!(
        ran.stderr.matches("Read-only file system").count(),
        2,
        "{ran:#?}"
    );
}

fn confined(docker: &Docker) {
    let script =
        "grep -e Seccomp: -e CapEff -e NoNewPrivs /proc/self/status; mount -t tmpfs none /tmp";
    let option = [
        "--security-opt",
        "no-new-privileges",
        "--cap-drop",
        "all",
        "--cap-add",
        "chown",
    ];
    let ran = docker.prints(&option, &["sh", "-c", script]);
    assert_ne!(ran.code, 0, "{ran:#?}");
    let words: Vec<&str> = ran.stdout.split_whitespace().collect();
    let expected = [
        "CapEff:",
        "0000000000000001",
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ];
    assert_eq!(words, expected);
}

fn privileged(docker: &Docker) {
    let script = "mount -t tmpfs none /tmp && grep Seccomp: /proc/self/status; ls /dev | wc -l";
    let ran = docker.prints(&["--privileged"], &["sh", "-c", script]);
    let devices: u32 = ran.ok().lines().last().unwrap().parse().unwrap();
    assert!(devices > 15, "{ran:#?}");
}

fn device(docker: &Docker) {
    let script = "stat -c '%t %T' /dev/source && head -c 4 /dev/source | wc -c";
    let ran = docker.prints(
        &["--device", "/dev/zero:/dev/source:r"],
        &["sh", "-c", script],
    );
    assert_eq!(ran.ok(), "1 5\n4");
}

fn port(docker: &Docker) {
    let options = ["--publish", "127.0.0.1:18081:80", "--init"];
    let _running = docker.start("port", &options, &["httpd", "-f", "-h", "/www"]);
    until("the container answers", || {
        web_page("127.0.0.1:18081").contains("hello over localhost")
    });
}

/// A network, removed with this value.
struct Network<'a>(&'a Docker);

impl Drop for Network<'_> {
    fn drop(&mut self) {
        self.0.does(&["network", "rm", "net"]);
    }
}

fn names(docker: &Docker) {
    docker.does(&["network", "create", "net"]).ok();
    let network = Network(docker);
    let options = ["--init", "--network", "net"];
    let server = docker.start("server", &options, &["httpd", "-f", "-h", "/www"]);
    until("the other container answers", || {
        let ran = docker.run(
            &["--network", "net"],
            &["wget", "-q", "-O", "-", "http://server/"],
        );
        ran.stdout.contains("hello over localhost")
    });
    drop(server);
    drop(network);
}

fn joined(docker: &Docker) {
    let first = docker.start(
        "joined",
        &["--init", "--ipc", "shareable"],
        &["sleep", "1000"],
    );
    for (option, name) in [("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")] {
        let args = ["readlink", &format!("/proc/self/ns/{name}")];
        let theirs = printing(|| first.exec(&[], &args));
        let ours = docker.prints(&[option, "container:joined"], &args);
        assert_eq!(ours.ok(), theirs.ok(), "{option}");
    }
}

fn runtime(docker: &Docker) {
    let running = docker.start("runtime", &["--init"], &["sleep", "1000"]);
    assert_eq!(running.inspect("{{.HostConfig.Runtime}}"), "berth");
}
