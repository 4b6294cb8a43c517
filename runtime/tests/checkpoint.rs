//! Checkpoint and restore. Where CRIU can't work, only what is refused before it is asked.

mod confined;
mod refused;

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::bundle::{Bundle, Said};
use crate::machine::wait_until;

/// A container that counts, and that tells how often it was started.
const COUNTER: &str = "
    echo started >> /tmp/starts
    i=0; while :; do i=$((i+1)); echo $i > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.02; done";

pub(crate) fn tests() -> Vec<crate::Test> {
    let mut all = restored();
    all.extend(confined::tests());
    all.extend(refused::tests());
    all
}

fn restored() -> Vec<crate::Test> {
    crate::tests! {
        a_counter_goes_on_where_it_was needs "criu";
        an_attached_restore_passes_signals_on_and_gives_the_exit_code needs "criu";
        a_container_may_go_on_after_its_checkpoint needs "criu";
        a_paused_container_can_be_saved needs "criu";
        bind_mounts_come_from_where_the_configuration_says needs "criu";
        streams_are_the_callers needs "criu";
        a_terminal_goes_to_the_socket needs "criu";
        memory_can_be_saved_before needs "criu";
        connections_are_kept_where_it_is_asked_for needs "criu";
        hooks_run_at_checkpoint_and_restore needs "criu";
        a_failing_restore_leaves_nothing needs "criu";
        a_scope_is_made_again needs "criu", "systemd";
    }
    tests()
}

/// A bundle without what older CRIUs lose.
fn saveable(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle
}

fn n(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("tmp/n")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[track_caller]
fn counts_on(bundle: &Bundle) {
    let before = n(bundle);
    wait_until(|| n(bundle) > before);
    let starts = fs::read_to_string(bundle.rootfs().join("tmp/starts"));
    assert_eq!(starts.unwrap(), "started\n");
}

fn checkpoint(bundle: &Bundle, options: &[&str]) -> Said {
    let mut args = vec!["checkpoint", "--image-path", "images", &bundle.id];
    args.extend(options);
    bundle.runtime(&args)
}

fn restore(bundle: &Bundle, options: &[&str]) -> Said {
    bundle.write();
    let mut args = vec!["restore", "--detach", "--image-path", "images", &bundle.id];
    args.extend(options);
    bundle.runtime(&args)
}

#[track_caller]
fn counting(bundle: &Bundle) {
    bundle.run_detached();
    wait_until(|| n(bundle) > 3);
}

fn a_counter_goes_on_where_it_was() {
    let bundle = saveable(COUNTER);
    counting(&bundle);
    let keyring = || {
        fs::read_to_string("/proc/keys")
            .unwrap()
            .contains(&format!("_ses.{}", bundle.id))
    };
    let has_keyring = keyring();
    checkpoint(&bundle, &[]).success();
    // As with runc: the container is gone, and its id is free.
    let said = bundle.runtime(&["state", &bundle.id]).failure();
    assert!(said.contains("does not exist"), "{said}");
    let saved = n(&bundle);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(n(&bundle), saved);
    for _ in 0..2 {
        restore(&bundle, &["--pid-file", "pid"]).success();
        let state = bundle.state();
        assert_eq!(state["status"], "running");
        let pid = fs::read_to_string(bundle.host("pid")).unwrap();
        assert_eq!(state["pid"].to_string(), pid);
        assert_eq!(keyring(), has_keyring);
        counts_on(&bundle);
        assert!(n(&bundle) > saved);
        let args = [&bundle.id, "cat", "/proc/1/comm"];
        assert_eq!(bundle.exec(&args).success(), "sh");
        // What is restored can be saved.
        checkpoint(&bundle, &[]).success();
    }
}

fn an_attached_restore_passes_signals_on_and_gives_the_exit_code() {
    let bundle = saveable("trap 'exit 9' TERM; echo > /tmp/n; while :; do sleep 0.02; done");
    bundle.run_detached();
    wait_until(|| bundle.rootfs().join("tmp/n").exists());
    checkpoint(&bundle, &[]).success();
    let args = [
        "restore",
        "--image-path",
        "images",
        "--pid-file",
        "pid",
        &bundle.id,
    ];
    let mut restored = bundle.command(&args);
    // What was a file can only become one.
    let said = restored.stdout(std::process::Stdio::piped()).output();
    let said = Said::from(said.unwrap()).failure();
    assert!(said.contains("standard stream 1 was the file"), "{said}");
    let file = |name| fs::File::create(bundle.host(name)).unwrap();
    restored.stdout(file("out")).stderr(file("err"));
    let mut restored = restored.spawn().unwrap();
    wait_until(|| bundle.host("pid").exists());
    kill(Pid::from_raw(restored.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(restored.wait().unwrap().code(), Some(9));
    let said = bundle.runtime(&["state", &bundle.id]).failure();
    assert!(said.contains("does not exist"), "{said}");
}

fn a_container_may_go_on_after_its_checkpoint() {
    // Counts when it is asked to: no file is open when it is saved, that has become another when it is restored.
    let bundle = saveable(
        "echo started >> /tmp/starts
        i=0; trap 'i=$((i+1)); echo $i > /tmp/n' USR1; echo 100 > /tmp/n; while :; do sleep 0.02; done",
    );
    let counts = |reached| {
        bundle.runtime(&["kill", &bundle.id, "USR1"]).success();
        wait_until(|| n(&bundle) == reached);
    };
    bundle.run_detached();
    wait_until(|| n(&bundle) == 100);
    counts(1);
    let pid = bundle.state()["pid"].clone();
    checkpoint(&bundle, &["--leave-running", "--work-path", "work"]).success();
    assert_eq!(bundle.state()["pid"], pid);
    counts(2);
    counts(3);
    assert!(bundle.host("work/dump.log").exists() && !bundle.host("images/dump.log").exists());
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    restore(&bundle, &["--work-path", "work"]).success();
    // From where it was saved.
    counts(2);
    let starts = fs::read_to_string(bundle.rootfs().join("tmp/starts"));
    assert_eq!(starts.unwrap(), "started\n");
}

fn a_paused_container_can_be_saved() {
    let bundle = saveable(COUNTER);
    counting(&bundle);
    bundle.runtime(&["pause", &bundle.id]).success();
    checkpoint(&bundle, &["--leave-running"]).success();
    assert_eq!(bundle.status(), "paused");
    bundle.runtime(&["resume", &bundle.id]).success();
    counts_on(&bundle);
    bundle.runtime(&["pause", &bundle.id]).success();
    checkpoint(&bundle, &[]).success();
    restore(&bundle, &[]).success();
    assert_eq!(bundle.status(), "running");
    counts_on(&bundle);
}

fn connections_are_kept_where_it_is_asked_for() {
    // It says nothing to its streams, which are files, and would have to have the size that they had.
    let bundle = saveable(
        "busybox mkfifo /tmp/fifo; busybox nc -ll -p 7000 -e busybox cat &
        until busybox nc 127.0.0.1 7000 < /dev/null 2> /dev/null; do sleep 0.05; done
        busybox nc 127.0.0.1 7000 < /tmp/fifo > /tmp/echoed & exec 7> /tmp/fifo
        while :; do echo line >&7; sleep 0.02; done",
    );
    let echoed = || fs::metadata(bundle.rootfs().join("tmp/echoed")).map_or(0, |file| file.len());
    let goes_on = || {
        let before = echoed();
        wait_until(|| echoed() > before + 10);
    };
    bundle.run_detached();
    goes_on();
    let said = checkpoint(&bundle, &[]).failure();
    assert!(said.contains("--tcp-established"), "{said}");
    goes_on();
    checkpoint(&bundle, &["--tcp-established"]).success();
    restore(&bundle, &["--tcp-established"]).success();
    goes_on();
}

fn bind_mounts_come_from_where_the_configuration_says() {
    let mut bundle = saveable(COUNTER);
    for name in ["one", "two"] {
        fs::create_dir(bundle.host(name)).unwrap();
        fs::write(bundle.host(name).join("name"), name).unwrap();
        fs::write(bundle.host(&format!("{name}.file")), name).unwrap();
    }
    let binds = bundle.config["mounts"].as_array().unwrap().len();
    bundle.bind(&bundle.host("one"), "/mnt/a b/data", &[]);
    bundle.bind(
        &bundle.host("one"),
        "/mnt/a b/data/inner",
        &["ro", "nosuid"],
    );
    bundle.bind(&bundle.host("one.file"), "/etc/single", &["ro"]);
    counting(&bundle);
    checkpoint(&bundle, &[]).success();
    // Another root filesystem wouldn't have the mount points.
    fs::remove_dir_all(bundle.rootfs().join("mnt")).unwrap();
    fs::remove_file(bundle.rootfs().join("etc/single")).unwrap();
    fs::remove_dir(bundle.host("one/inner")).unwrap();
    for (index, source) in [(binds, "two"), (binds + 2, "two.file")] {
        bundle.config["mounts"][index]["source"] = json!(bundle.host(source));
    }
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    let inside = |script: &str| bundle.exec(&[&bundle.id, "sh", "-c", script]);
    let script = "cat '/mnt/a b/data/name' '/mnt/a b/data/inner/name' /etc/single";
    assert_eq!(inside(script).success(), "twoonetwo");
    inside("echo > '/mnt/a b/data/new'").success();
    assert!(bundle.host("two/new").exists());
    // What was read-only still is, and has its other flags.
    for path in ["/mnt/a b/data/inner/new", "/etc/single"] {
        let said = inside(&format!("echo > '{path}'")).failure();
        assert!(said.contains("Read-only"), "{said}");
    }
    let said = inside("grep inner /proc/self/mountinfo | cut -d ' ' -f 6").success();
    assert!(said.contains("ro,nosuid"), "{said}");
    // Nothing of it is left on the host's side.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bundle.id), "{mounts}");
}

fn streams_are_the_callers() {
    // Pipes, and a file of the host.
    let bundle = saveable("while read line; do echo \"got $line\"; echo \"err $line\" >&2; done");
    bundle.write();
    let log = || {
        let mut options = fs::File::options();
        let options = options.append(true).create(true);
        options.open(bundle.host("log")).unwrap()
    };
    let (mut running, mut input, mut output) = with_pipes(&bundle, &["run", &bundle.id], log());
    input.write_all(b"1\n").unwrap();
    let mut buffer = [0; 6];
    output.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"got 1\n");
    wait_until(|| fs::read(bundle.host("log")).unwrap() == b"err 1\n");
    checkpoint(&bundle, &[]).success();
    running.wait().unwrap();
    let args = ["restore", "--image-path", "images", &bundle.id];
    let (mut restored, mut input, mut output) = with_pipes(&bundle, &args, log());
    input.write_all(b"2\n").unwrap();
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let log = fs::read_to_string(bundle.host("log")).unwrap();
    assert_eq!(text, "got 2\n", "{log}");
    assert_eq!(restored.wait().unwrap().code(), Some(0));
    assert_eq!(log, "err 1\nerr 2\n");
}

fn with_pipes(bundle: &Bundle, args: &[&str], log: fs::File) -> (Child, PipeWriter, PipeReader) {
    let (stdin, input) = std::io::pipe().unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let mut command = bundle.command(args);
    command.stdin(stdin).stdout(stdout).stderr(log);
    (command.spawn().unwrap(), input, output)
}

/// The master that the runtime sends.
fn master(listener: &UnixListener) -> fs::File {
    let (_, descriptor): (_, OwnedFd) = crate::notifications::take(listener);
    descriptor.into()
}

fn answers(terminal: &mut fs::File, word: &str) {
    terminal.write_all(format!("{word}\n").as_bytes()).unwrap();
    let wanted = format!("got {word}");
    let mut seen = String::new();
    while !seen.contains(&wanted) {
        let mut buffer = [0; 256];
        let length = terminal.read(&mut buffer).unwrap();
        assert!(length > 0, "{seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

fn a_terminal_goes_to_the_socket() {
    let mut bundle = saveable("while read line; do echo \"got $line\"; done");
    bundle.set("/process/terminal", json!(true));
    bundle.write();
    let listener = UnixListener::bind(bundle.host("console")).unwrap();
    let args = ["run", "--detach", "--console-socket", "console", &bundle.id];
    bundle.runtime(&args).success();
    let mut terminal = master(&listener);
    answers(&mut terminal, "one");
    checkpoint(&bundle, &[]).success();
    drop(terminal);
    // Nobody would have it.
    let said = restore(&bundle, &[]).failure();
    assert!(said.contains("--console-socket"), "{said}");
    restore(&bundle, &["--console-socket", "console"]).success();
    let mut terminal = master(&listener);
    answers(&mut terminal, "two");
    let said = bundle.exec(&[&bundle.id, "ls", "-l", "/proc/1/fd/0", "/dev/console"]);
    assert!(said.success().contains("/dev/pts/0"));
}

fn memory_can_be_saved_before() {
    let bundle = saveable(COUNTER);
    counting(&bundle);
    let args = [
        "checkpoint",
        "--pre-dump",
        "--image-path",
        "before",
        &bundle.id,
    ];
    bundle.runtime(&args).success();
    counts_on(&bundle);
    checkpoint(&bundle, &["--parent-path", "../before"]).success();
    assert!(bundle.host("images/parent").exists());
    let saved = n(&bundle);
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    assert!(n(&bundle) > saved);
}

fn hooks_run_at_checkpoint_and_restore() {
    let mut bundle = saveable(COUNTER);
    let journal = bundle.host("journal");
    let busybox = crate::machine::busybox();
    for stage in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let script = format!("echo {stage} >> {}", journal.display());
        let hook = json!({"path": busybox, "args": ["sh", "-c", script]});
        bundle.config["hooks"][stage] = json!([hook]);
    }
    // createContainer hooks are in the container's mounts.
    bundle.config["hooks"]["createContainer"] = json!([]);
    counting(&bundle);
    let lines = || fs::read_to_string(&journal).unwrap_or_default();
    assert_eq!(lines(), "prestart\ncreateRuntime\npoststart\n");
    fs::remove_file(&journal).unwrap();
    checkpoint(&bundle, &[]).success();
    assert_eq!(lines(), "poststop\n");
    fs::remove_file(&journal).unwrap();
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    assert_eq!(lines(), "prestart\ncreateRuntime\n");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    assert_eq!(lines(), "prestart\ncreateRuntime\npoststop\n");
    // One that fails ends the restoration, and says so.
    let fails = json!([{"path": busybox, "args": ["sh", "-c", "echo no; exit 3"]}]);
    bundle.config["hooks"]["createRuntime"] = fails;
    let said = restore(&bundle, &[]).failure();
    assert!(
        said.contains("hooks.createRuntime[0]") && said.contains("no"),
        "{said}"
    );
    assert_nothing_is_left(&bundle);
}

#[track_caller]
fn assert_nothing_is_left(bundle: &Bundle) {
    let left: Vec<_> = fs::read_dir(bundle.host("state")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let cgroup = format!("/sys/fs/cgroup/berth-runtime-{}", bundle.id);
    assert!(!Path::new(&cgroup).exists());
}

fn a_failing_restore_leaves_nothing() {
    let mut bundle = saveable(COUNTER);
    fs::create_dir(bundle.host("volume")).unwrap();
    bundle.bind(&bundle.host("volume"), "/volume", &[]);
    counting(&bundle);
    checkpoint(&bundle, &[]).success();
    // A source that isn't there.
    fs::remove_dir(bundle.host("volume")).unwrap();
    let said = restore(&bundle, &[]).failure();
    assert!(said.contains("/volume"), "{said}");
    assert_nothing_is_left(&bundle);
    fs::create_dir(bundle.host("volume")).unwrap();
    // A program that has changed: CRIU notices when the process is there already.
    let program = bundle.rootfs().join("bin/busybox");
    fs::rename(&program, bundle.host("busybox")).unwrap();
    let said = restore(&bundle, &[]).failure();
    assert!(
        said.contains("images/restore.log says") && said.contains("busybox"),
        "{said}"
    );
    assert_nothing_is_left(&bundle);
    fs::rename(bundle.host("busybox"), &program).unwrap();
    // A place that the process id can't be written to, when all is restored.
    let said = restore(&bundle, &["--pid-file", "no/such"]).failure();
    assert!(said.contains("--pid-file no/such"), "{said}");
    assert_nothing_is_left(&bundle);
    // Images that are no longer whole.
    let images = bundle.host("images");
    fs::rename(images.join("pstree.img"), bundle.host("pstree.img")).unwrap();
    let said = restore(&bundle, &[]).failure();
    assert!(said.contains("restore.log"), "{said}");
    assert_nothing_is_left(&bundle);
    fs::rename(bundle.host("pstree.img"), images.join("pstree.img")).unwrap();
    restore(&bundle, &[]).success();
    counts_on(&bundle);
    // Its id is taken now.
    assert!(restore(&bundle, &[]).failure().contains("exists already"));
    counts_on(&bundle);
}

fn a_scope_is_made_again() {
    let bundle = saveable(COUNTER);
    bundle.write();
    let args = ["--systemd-cgroup", "run", "--detach", &bundle.id];
    bundle.runtime(&args).success();
    wait_until(|| n(&bundle) > 3);
    checkpoint(&bundle, &[]).success();
    let unit = format!("berth-runtime-{}.scope", bundle.id);
    crate::systemd::assert_gone(&unit);
    let args = [
        "--systemd-cgroup",
        "restore",
        "--detach",
        "--image-path",
        "images",
        &bundle.id,
    ];
    bundle.runtime(&args).success();
    counts_on(&bundle);
    let pid = &bundle.state()["pid"];
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(membership.trim().ends_with(&unit), "{membership}");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    crate::systemd::assert_gone(&unit);
}
