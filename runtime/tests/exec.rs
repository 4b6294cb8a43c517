//! More processes in a running container.

use std::fs;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::bundle::Bundle;
use crate::machine::wait_until;

crate::tests! {
    exec_runs_in_all_of_the_containers_namespaces;
    exec_has_the_containers_rights_and_no_more;
    exec_gives_the_exit_code_and_output;
    exec_adds_environment_directory_user_and_capability;
    exec_takes_a_process_from_a_file;
    exec_on_a_terminal;
    exec_of_a_missing_command_is_said;
    exec_in_a_stopped_container_is_refused;
    exec_enters_a_user_namespace;
    an_execed_process_ends_with_the_container;
}

fn exec_runs_in_all_of_the_containers_namespaces() {
    let bundle = Bundle::new("sleep 1000");
    let pid = bundle.run_detached();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let said = bundle
            .exec(&[&bundle.id, "readlink", &format!("/proc/self/ns/{kind}")])
            .success();
        assert_eq!(said, theirs.display().to_string());
    }
    assert_eq!(
        bundle
            .exec(&[&bundle.id, "grep", "0::", "/proc/self/cgroup"])
            .success(),
        "0::/"
    );
    assert_eq!(bundle.exec(&[&bundle.id, "hostname"]).success(), "runc");
}

fn exec_has_the_containers_rights_and_no_more() {
    let show = [
        "grep",
        "-E",
        "^(Cap|NoNewPrivs|Seccomp:)",
        "/proc/self/status",
    ];
    let mut bundle = Bundle::new(
        "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status > /tmp/new; mv /tmp/new /tmp/init; sleep 1000",
    );
    let filter = berth_runtime::seccomp::default_profile(&[]);
    bundle.set("/linux/seccomp", serde_json::to_value(filter).unwrap());
    bundle.run_detached();
    let mut args = vec![bundle.id.as_str()];
    args.extend(show);
    let said = bundle.exec(&args).success();
    let init = bundle.rootfs().join("tmp/init");
    wait_until(|| init.exists());
    assert_eq!(said, fs::read_to_string(init).unwrap().trim_end());
    assert!(said.contains("Seccomp:\t2"), "{said}");
}

fn exec_gives_the_exit_code_and_output() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let said = bundle.exec(&[&bundle.id, "sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!(
        (said.code, said.stdout.as_str(), said.stderr.as_str()),
        (5, "out", "err")
    );
}

fn exec_adds_environment_directory_user_and_capability() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let script = "echo $NAME; pwd; id -u; id -g; grep CapBnd /proc/self/status";
    let said = bundle
        .exec(&[
            "-e",
            "NAME=value",
            "--cwd",
            "/tmp",
            "-u",
            "12:34",
            "-c",
            "CAP_NET_RAW",
            &bundle.id,
            "sh",
            "-c",
            script,
        ])
        .success();
    assert_eq!(said, "value\n/tmp\n12\n34\nCapBnd:\t0000000020002420");
}

fn exec_takes_a_process_from_a_file() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let process =
        json!({"args": ["pwd"], "cwd": "/tmp", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    fs::write(bundle.host("process"), process.to_string()).unwrap();
    let file = bundle.host("process").display().to_string();
    assert_eq!(
        bundle.exec(&["--process", &file, &bundle.id]).success(),
        "/tmp"
    );
}

fn exec_on_a_terminal() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let said = bundle.exec(&["-t", &bundle.id, "sh", "-c", "tty; exit 4"]);
    assert_eq!(
        (said.code, said.stdout.trim()),
        (4, "/dev/pts/0"),
        "{said:?}"
    );
}

fn exec_of_a_missing_command_is_said() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let said = bundle.exec(&[&bundle.id, "nothing"]);
    assert_eq!(said.code, 255);
    assert!(
        said.stderr
            .contains(r#"exec: "nothing": executable file not found in $PATH"#),
        "{said:?}"
    );
}

fn exec_in_a_stopped_container_is_refused() {
    let bundle = Bundle::new("true");
    bundle.create().success();
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    while bundle.status() != "stopped" {}
    assert!(
        bundle
            .exec(&[&bundle.id, "true"])
            .failure()
            .contains("stopped")
    );
}

fn exec_enters_a_user_namespace() {
    let mut bundle = Bundle::new("sleep 1000");
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.set("/linux/uidMappings", mapping.clone());
    bundle.set("/linux/gidMappings", mapping);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    let pid = bundle.run_detached();
    let said = bundle
        .exec(&[&bundle.id, "sh", "-c", "id -u; readlink /proc/self/ns/user"])
        .success();
    let theirs = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(said, format!("0\n{}", theirs.display()));
}

fn an_execed_process_ends_with_the_container() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let file = bundle.host("pid").display().to_string();
    bundle
        .exec(&["--detach", "--pid-file", &file, &bundle.id, "sleep", "1000"])
        .success();
    let pid = Pid::from_raw(fs::read_to_string(file).unwrap().parse().unwrap());
    let mut deleting = bundle
        .command(&["delete", "--force", &bundle.id])
        .spawn()
        .unwrap();
    // It is an orphan, so ours to reap; a pid namespace isn't gone before all in it are reaped.
    assert_eq!(
        waitpid(pid, None).unwrap(),
        WaitStatus::Signaled(pid, Signal::SIGKILL, false)
    );
    assert!(deleting.wait().unwrap().success());
}
