//! Creating, starting, watching and ending containers by the command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::bundle::Bundle;
use crate::machine::wait_until;

crate::tests! {
    run_gives_the_containers_output_and_exit_code;
    a_container_killed_by_a_signal_gives_128_and_its_number;
    a_created_container_waits_to_be_started;
    what_a_detached_container_says_is_not_what_other_commands_say;
    options_may_come_after_the_id;
    a_missing_command_is_said_when_it_is_created;
    a_missing_interpreter_is_said_when_it_is_started;
    a_command_without_permission_is_said;
    an_id_that_is_taken_is_refused;
    an_unusual_id_is_refused;
    delete_refuses_a_running_container_unless_forced;
    delete_of_a_created_container_succeeds;
    forced_delete_of_what_does_not_exist_succeeds;
    signals_are_accepted_by_name_and_number;
    a_reused_pid_is_not_signalled;
    run_passes_signals_on;
    errors_are_logged_in_the_form_that_engines_read;
    a_failed_create_leaves_nothing;
    list_shows_the_containers;
    the_pid_file_has_the_pid;
    features_and_spec_are_printed;
    a_rootless_configuration_runs_in_a_user_namespace;
    an_empty_environment_with_an_absolute_command_runs;
    preserved_descriptors_arrive_and_no_others;
    a_closed_standard_stream_is_nowhere;
    a_terminal_is_relayed;
}

fn run_gives_the_containers_output_and_exit_code() {
    let said = Bundle::new("echo out; echo err >&2; exit 7").run();
    assert_eq!(
        (said.code, said.stdout.as_str(), said.stderr.as_str()),
        (7, "out", "err")
    );
}

fn a_container_killed_by_a_signal_gives_128_and_its_number() {
    // A shell as PID 1 can't kill itself, so a child of it does, and is reported by the shell.
    let mut bundle = Bundle::new("");
    bundle.args(&["sleep", "1000"]);
    bundle.write();
    let mut running = bundle.command(&["run", &bundle.id]).spawn().unwrap();
    wait_until(|| bundle.runtime(&["state", &bundle.id]).code == 0 && bundle.status() == "running");
    bundle.runtime(&["kill", &bundle.id, "KILL"]).success();
    assert_eq!(running.wait().unwrap().code(), Some(137));
}

fn a_created_container_waits_to_be_started() {
    let bundle = Bundle::new("echo started > /tmp/started; sleep 1000");
    let started = bundle.rootfs().join("tmp/started");
    bundle.create().success();
    assert_eq!(bundle.status(), "created");
    assert!(!started.exists());
    bundle.runtime(&["start", &bundle.id]).success();
    assert_eq!(bundle.status(), "running");
    wait_until(|| started.exists());
    let again = bundle.runtime(&["start", &bundle.id]).failure();
    assert!(again.contains("running"), "{again}");
    bundle.runtime(&["kill", &bundle.id, "SIGKILL"]).success();
    wait_until(|| bundle.status() == "stopped");
    assert!(
        bundle
            .runtime(&["kill", &bundle.id])
            .failure()
            .contains("not running")
    );
    bundle.runtime(&["delete", &bundle.id]).success();
    assert!(
        bundle
            .runtime(&["state", &bundle.id])
            .failure()
            .contains("does not exist")
    );
}

fn what_a_detached_container_says_is_not_what_other_commands_say() {
    let bundle = Bundle::new("while :; do echo beside; sleep 0.001; done");
    bundle.run_detached();
    for _ in 0..30 {
        assert_eq!(bundle.status(), "running");
    }
}

fn options_may_come_after_the_id() {
    let bundle = Bundle::new("true");
    bundle.write();
    let directory = bundle.directory.display().to_string();
    bundle
        .runtime(&["create", &bundle.id, "--bundle", &directory])
        .success();
    bundle.runtime(&["delete", &bundle.id, "--force"]).success();
}

fn a_missing_command_is_said_when_it_is_created() {
    let mut bundle = Bundle::new("");
    bundle.args(&["no-such-command"]);
    let said = bundle.create().failure();
    let words = r#"exec: "no-such-command": executable file not found in $PATH"#;
    assert!(said.contains(words), "{said}");
    bundle.args(&["/no/such"]);
    let said = bundle.create().failure();
    assert!(
        said.contains("stat /no/such: no such file or directory"),
        "{said}"
    );
}

fn a_missing_interpreter_is_said_when_it_is_started() {
    let mut bundle = Bundle::new("");
    write_program(&bundle, "script", "#!/no/interpreter\n");
    bundle.args(&["/bin/script"]);
    bundle.create().success();
    let said = bundle.runtime(&["start", &bundle.id]).failure();
    assert!(said.contains("no such file or directory"), "{said}");
    assert_eq!(bundle.status(), "stopped");
}

fn write_program(bundle: &Bundle, name: &str, text: &str) {
    let path = bundle.rootfs().join("bin").join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn a_command_without_permission_is_said() {
    let mut bundle = Bundle::new("");
    fs::write(bundle.rootfs().join("bin/data"), "").unwrap();
    for command in ["data", "/bin"] {
        bundle.args(&[command]);
        let said = bundle.run().failure();
        assert!(said.contains("permission denied"), "{said}");
    }
}

fn an_id_that_is_taken_is_refused() {
    let bundle = Bundle::new("true");
    bundle.create().success();
    assert!(bundle.create().failure().contains("exists already"));
    assert_eq!(bundle.status(), "created");
}

fn an_unusual_id_is_refused() {
    let bundle = Bundle::new("true");
    bundle.write();
    for id in ["../up", "a/b", ".hidden", "a b", ""] {
        let said = bundle.runtime(&["create", id]).failure();
        assert!(said.contains("container id"), "{id:?}: {said}");
    }
}

fn delete_refuses_a_running_container_unless_forced() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    assert!(
        bundle
            .runtime(&["delete", &bundle.id])
            .failure()
            .contains("running")
    );
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
}

fn delete_of_a_created_container_succeeds() {
    let bundle = Bundle::new("true");
    bundle.create().success();
    bundle.runtime(&["delete", &bundle.id]).success();
}

fn forced_delete_of_what_does_not_exist_succeeds() {
    let bundle = Bundle::new("true");
    bundle.runtime(&["delete", "--force", "nothing"]).success();
    assert!(
        bundle
            .runtime(&["delete", "nothing"])
            .failure()
            .contains("does not exist")
    );
}

fn signals_are_accepted_by_name_and_number() {
    let bundle = Bundle::new(
        "trap 'echo got >> /tmp/got' USR1; echo > /tmp/ready; while :; do sleep 0.01; done",
    );
    bundle.run_detached();
    wait_until(|| bundle.rootfs().join("tmp/ready").exists());
    let got = || fs::read_to_string(bundle.rootfs().join("tmp/got")).unwrap_or_default();
    for (count, signal) in (1..).zip(["USR1", "SIGUSR1", "10"]) {
        bundle.runtime(&["kill", &bundle.id, signal]).success();
        wait_until(|| bundle.status() == "running" && got().lines().count() == count);
    }
    let said = bundle.runtime(&["kill", &bundle.id, "NOSUCH"]).failure();
    assert!(said.contains("no signal has this name"), "{said}");
}

fn a_reused_pid_is_not_signalled() {
    let bundle = Bundle::new("sleep 1000");
    let pid = bundle.run_detached();
    let file = bundle.host("state").join(&bundle.id).join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let real = state["startTime"].clone();
    // As if the container's process had gone, and another had got its number.
    state["startTime"] = json!(real.as_u64().unwrap() - 1);
    fs::write(&file, state.to_string()).unwrap();
    assert!(
        bundle
            .runtime(&["kill", &bundle.id, "KILL"])
            .failure()
            .contains("not running")
    );
    assert_eq!(bundle.status(), "stopped");
    kill(Pid::from_raw(pid), None).unwrap();
    state["startTime"] = real;
    fs::write(&file, state.to_string()).unwrap();
}

fn run_passes_signals_on() {
    let bundle = Bundle::new("trap 'exit 9' TERM; echo > /tmp/ready; while :; do sleep 0.01; done");
    bundle.write();
    let mut running = bundle.command(&["run", &bundle.id]).spawn().unwrap();
    wait_until(|| bundle.rootfs().join("tmp/ready").exists());
    kill(Pid::from_raw(running.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(9));
}

fn errors_are_logged_in_the_form_that_engines_read() {
    let mut bundle = Bundle::new("true");
    bundle.set("/process/cwd", json!("relative"));
    bundle.write();
    let log = bundle.host("log").display().to_string();
    bundle
        .runtime(&["--log", &log, "--log-format", "json", "create", &bundle.id])
        .failure();
    let line: serde_json::Value = serde_json::from_str(&fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("process.cwd"));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
}

fn a_failed_create_leaves_nothing() {
    let mut bundle = Bundle::new("true");
    bundle.bind(&bundle.host("missing"), "/mnt", &[]);
    let said = bundle.create().failure();
    assert!(said.contains("missing") && said.contains("/mnt"), "{said}");
    assert!(fs::read_dir(bundle.host("state")).unwrap().next().is_none());
}

fn list_shows_the_containers() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let json = bundle.runtime(&["list", "--format", "json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["status"]),
        (&json!(bundle.id), &json!("running"))
    );
    assert_eq!(bundle.runtime(&["list", "-q"]).success(), bundle.id);
    assert!(bundle.runtime(&["list"]).success().contains("running"));
}

fn the_pid_file_has_the_pid() {
    let bundle = Bundle::new("true");
    bundle.write();
    let file = bundle.host("pid").display().to_string();
    bundle
        .runtime(&["create", "--pid-file", &file, &bundle.id])
        .success();
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        bundle.state()["pid"].to_string()
    );
}

fn features_and_spec_are_printed() {
    let bundle = Bundle::new("true");
    let features = bundle.runtime(&["features"]).success();
    let features: serde_json::Value = serde_json::from_str(&features).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    bundle.runtime(&["spec"]).success();
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle.host("config.json")).unwrap()).unwrap();
    assert_eq!(written["process"]["terminal"], true);
    assert!(bundle.runtime(&["spec"]).failure().contains("config.json"));
}

fn a_rootless_configuration_runs_in_a_user_namespace() {
    let mut bundle = Bundle::new("true");
    bundle.runtime(&["spec", "--rootless"]).success();
    let bytes = fs::read(bundle.host("config.json")).unwrap();
    bundle.config = serde_json::from_slice(&bytes).unwrap();
    bundle.set("/process/terminal", json!(false));
    bundle.script("cat /proc/self/uid_map; readlink /proc/self/ns/user; test -d /sys/kernel");
    let said = bundle.run().success();
    let ours = fs::read_link("/proc/self/ns/user").unwrap();
    assert!(
        said.starts_with("         0          0          1"),
        "{said}"
    );
    assert!(!said.contains(ours.to_str().unwrap()), "{said}");
}

fn an_empty_environment_with_an_absolute_command_runs() {
    let mut bundle = Bundle::new("");
    bundle.set("/process/env", json!([]));
    bundle.args(&["/bin/env"]);
    assert_eq!(bundle.run().success(), "");
}

fn a_closed_standard_stream_is_nowhere() {
    let bundle = Bundle::new("readlink /proc/self/fd/0; readlink /proc/self/fd/2");
    bundle.write();
    let script = format!(
        "exec \"$0\" --root {}/state run {} <&- 2>&-",
        bundle.directory.display(),
        bundle.id
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).arg(crate::machine::runtime());
    let output = shell.current_dir(&bundle.directory).output().unwrap();
    assert_eq!(output.stdout, b"/dev/null\n/dev/null\n", "{output:?}");
}

fn preserved_descriptors_arrive_and_no_others() {
    let bundle = Bundle::new("cat <&3; ls /proc/self/fd | wc -l");
    bundle.write();
    fs::write(bundle.host("note"), "kept\n").unwrap();
    // The shell opens 3 and 4 for the runtime, which is told of one.
    let script = format!(
        "exec 3<{0}/note 4<{0}/note; exec \"$0\" --root {0}/state run --preserve-fds 1 {1}",
        bundle.directory.display(),
        bundle.id
    );
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .arg(crate::machine::runtime())
        .current_dir(&bundle.directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // 0 to 3, and the one that ls reads the directory with.
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "kept\n5\n",
        "{output:?}"
    );
}

fn a_terminal_is_relayed() {
    let mut bundle =
        Bundle::new("tty; test -t 0 && echo terminal; ls -l /dev/console | head -c 1; exit 3");
    bundle.set("/process/terminal", json!(true));
    let said = bundle.run();
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        said.stdout.contains("/dev/pts/0") && said.stdout.contains("terminal"),
        "{said:?}"
    );
}
