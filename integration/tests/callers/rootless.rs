//! Podman of an ordinary user on the runtime. Podman makes the user namespace, and calls the runtime as its
//! root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};

use crate::place::{self, DATA};
use crate::podman::{new_log, take_log};
use crate::ran::{Ran, bounded, printing, until};
use crate::{Case, Needs};

/// The user's number: the rig's machine has one of it.
const USER: u32 = 54321;

/// Containers' logs are files, as with root's Podman here.
const CONFIG: &str = "[containers]\nlog_driver = \"k8s-file\"\n\
    default_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";

/// What runs everywhere.
pub const CASES: &[Case<Rootless>] = &[
    Case(
        "run_gives_the_output_and_the_exit_code",
        Needs::Kernel,
        output,
    ),
    Case("a_container_lives_and_is_removed", Needs::Kernel, life),
    Case("volumes_have_the_users_files", Needs::Kernel, volumes),
    Case(
        "userns_keep_id_keeps_the_users_number",
        Needs::Kernel,
        keep_id,
    ),
    Case("security_options_hold", Needs::Kernel, confinement),
];

/// What takes a cgroup: the user's systemd makes it.
pub const WITH_CGROUP: &[Case<Rootless>] = &[
    Case(
        "memory_and_processes_are_limited",
        Needs::Controllers,
        limits,
    ),
    Case("pause_stops_the_processes", Needs::Controllers, pause),
];

/// Podman with the tests' image, in the user's hands.
pub struct Rootless;

/// The one that all tests use.
pub fn engine() -> &'static Rootless {
    static ENGINE: OnceLock<Rootless> = OnceLock::new();
    ENGINE.get_or_init(|| {
        if !place::in_machine() {
            become_known();
        }
        if has_systemd() {
            systemctl("start");
        }
        for folder in [folder(), home(), runtime_directory()] {
            if !Path::new(&folder).exists() {
                fs::create_dir_all(&folder).unwrap();
                chown(&folder, Some(USER), Some(USER)).unwrap();
            }
        }
        give("containers.conf", CONFIG.as_bytes(), 0o644);
        give("berth-runtime", &fs::read(place::runtime()).unwrap(), 0o755);
        give("box.tar", &fs::read(place::archive()).unwrap(), 0o644);
        // From here on a process of Podman's holds the user's namespace.
        let archive = format!("{}/box.tar", folder());
        Rootless.does(&["import", "-q", &archive, "box"]).ok();
        Rootless
    })
}

/// Ends the process that holds the user's namespace.
pub fn end() {
    if !Path::new(&folder()).exists() {
        return;
    }
    Rootless.does(&["system", "migrate"]).ok();
    if has_systemd() {
        systemctl("stop");
    }
}

fn has_systemd() -> bool {
    place::in_machine() && place::cgroup_driver() == "systemd"
}

fn systemctl(verb: &str) {
    let unit = format!("user@{USER}.service");
    let status = Command::new("systemctl").args([verb, &unit]).status();
    assert!(status.unwrap().success(), "{verb} {unit}");
}

fn folder() -> String {
    format!("{DATA}/rootless")
}

fn home() -> String {
    format!("{DATA}/rootless/home")
}

/// What the environment says of it: systemd's where that is there for the user.
fn runtime_directory() -> String {
    match has_systemd() {
        true => format!("/run/user/{USER}"),
        false => format!("{DATA}/rootless/run"),
    }
}

fn give(name: &str, content: &[u8], mode: u32) {
    let file = format!("{}/{name}", folder());
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives the number a name and subordinate ids, in the tests' mount namespace.
fn become_known() {
    let of_host = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let covers = [
        (
            "passwd",
            format!("berth-test:x:{USER}:{USER}::{}:/bin/sh\n", home()),
        ),
        ("group", format!("berth-test:x:{USER}:\n")),
        ("subuid", "berth-test:700000:65536\n".to_owned()),
        ("subgid", "berth-test:700000:65536\n".to_owned()),
    ];
    for (name, line) in covers {
        let (file, place) = (format!("{DATA}/{name}"), format!("/etc/{name}"));
        fs::write(&file, of_host(&place) + &line).unwrap();
        let none = None::<&str>;
        mount(
            Some(file.as_str()),
            place.as_str(),
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
    }
}

impl Rootless {
    /// A command of Podman, by the user.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = bounded("podman");
        let runtime = format!("{}/berth-runtime", folder());
        command
            .uid(USER)
            .gid(USER)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", home())
            .env("XDG_RUNTIME_DIR", runtime_directory())
            .env("CONTAINERS_CONF", format!("{}/containers.conf", folder()))
            .args(["--storage-driver", "vfs", "--events-backend", "file"])
            .args(["--cgroup-manager", place::cgroup_driver()])
            .args(["--runtime", &runtime])
            .args(words);
        if has_systemd() {
            let bus = format!("unix:path={}/bus", runtime_directory());
            command.env("DBUS_SESSION_BUS_ADDRESS", bus);
        }
        command
    }

    fn does(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(words))
    }

    fn begins(&self, options: &[&str], script: &str) -> Ran {
        let words = [
            &["run", "--network", "none"],
            options,
            &["localhost/box", "sh", "-c", script],
        ];
        self.does(&words.concat())
    }

    /// Runs a container to its end. What it printed is read from its log, as root's Podman does it here.
    fn run(&self, options: &[&str], script: &str) -> Ran {
        let log = new_log(&folder());
        let path = format!("path={log}");
        let options = [&["--rm", "--log-opt", &path], options].concat();
        let mut ran = self.begins(&options, script);
        take_log(&log, &mut ran);
        ran
    }

    /// Starts a container that goes on; removed with the value.
    fn start(&self, name: &'static str, options: &[&str], script: &str) -> Running<'_> {
        let options = [&["--detach", "--name", name], options].concat();
        self.begins(&options, script).ok();
        Running { podman: self, name }
    }
}

struct Running<'a> {
    podman: &'a Rootless,
    name: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // If this fails, the checker finds what is left.
        self.podman
            .does(&["rm", "--force", "--time", "1", self.name]);
    }
}

fn output(podman: &Rootless) {
    let script = "id -u; grep -c . /proc/self/uid_map; echo x > /dev/null; exit 7";
    let ran = podman.run(&[], script);
    ran.fails_with(7);
    assert_eq!(ran.stdout, "0\n2\n", "{ran:#?}");
}

fn life(podman: &Rootless) {
    let script = "trap 'exit 3' TERM; echo begun; while true; do sleep 0.1; done";
    let container = podman.start("life", &[], script);
    let status = |of: &str| {
        let words = ["inspect", "--format", of, container.name];
        podman.does(&words).ok().to_owned()
    };
    assert_eq!(status("{{.State.Status}}"), "running");
    let exec = [
        "exec",
        "--user",
        "web",
        container.name,
        "sh",
        "-c",
        "id -un; exit 5",
    ];
    let exec = printing(|| podman.does(&exec));
    assert_eq!(exec.fails_with(5).stdout, "web\n");
    let logs = || podman.does(&["logs", container.name]).ok().to_owned();
    until("it listens", || logs() == "begun");
    podman.does(&["stop", "--time", "60", container.name]).ok();
    assert_eq!(status("{{.State.ExitCode}}"), "3");
    assert_eq!(logs(), "begun");
    podman.does(&["start", container.name]).ok();
    podman.does(&["kill", container.name]).ok();
    podman.does(&["wait", container.name]).ok();
    assert_eq!(status("{{.State.ExitCode}}"), "137");
}

fn volumes(podman: &Rootless) {
    let shared = format!("{}/shared", folder());
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(USER), Some(USER)).unwrap();
    let volume = format!("{shared}:/shared");
    podman
        .run(&["--volume", &volume], "echo text > /shared/file")
        .ok();
    let made = fs::metadata(format!("{shared}/file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), USER);
    let readonly = format!("{shared}:/shared:ro");
    let ran = podman.run(
        &["--volume", &readonly],
        "cat /shared/file; touch /shared/file",
    );
    assert_eq!(ran.fails_with(1).stdout, "text\n");
    fs::remove_dir_all(shared).unwrap();
}

fn keep_id(podman: &Rootless) {
    let ran = podman.run(&["--userns", "keep-id"], "id -u");
    assert_eq!(ran.ok(), USER.to_string());
}

fn confinement(podman: &Rootless) {
    let options = ["--read-only", "--cap-drop", "all"];
    let options = [&options[..], &["--security-opt", "no-new-privileges"]].concat();
    let script = "touch /file; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status";
    let ran = podman.run(&options, script);
    let words: Vec<&str> = ran.ok().split_whitespace().collect();
    let want = [
        "CapEff:",
        "0000000000000000",
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ];
    assert_eq!(words, want, "{ran:#?}");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:#?}");
}

fn limits(podman: &Rootless) {
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    let ran = podman.run(&["--memory", "64m", "--pids-limit", "33"], script);
    assert_eq!(ran.ok(), "67108864\n33");
}

fn pause(podman: &Rootless) {
    let container = podman.start("pause", &[], "sleep 1000");
    podman.does(&["pause", container.name]).ok();
    let exec = podman.does(&["exec", container.name, "true"]);
    assert_ne!(exec.code, 0, "{exec:#?}");
    podman.does(&["unpause", container.name]).ok();
    podman.does(&["exec", container.name, "true"]).ok();
}
