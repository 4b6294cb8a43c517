//! Containers of an ordinary user, and of root in somebody's user namespace.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use berth_runtime::spec;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};

use crate::bundle::{Bundle, Said};
use crate::machine::runtime;

crate::tests! {
    an_ordinary_user_runs_a_container;
    an_ordinary_users_container_lives_and_is_deleted;
    an_ordinary_users_hooks_run;
    an_ordinary_user_needs_a_user_namespace;
    an_ordinary_users_container_is_not_saved;
    an_ordinary_users_bad_configuration_leaves_nothing;
    a_limit_without_a_delegated_cgroup_is_refused_with_what_to_do;
    a_delegated_cgroup_is_used;
    a_cgroup_of_others_is_refused;
    one_group_is_all_that_one_group_is;
    subordinate_ids_are_mapped needs "newuidmap";
    ids_of_others_are_refused needs "newuidmap";
    the_users_copy_of_the_runtime_can_not_be_written;
    the_hosts_root_enters_without_its_groups;
    root_of_a_user_namespace_runs_a_container;
    ids_that_an_engine_did_not_map_are_refused;
    the_users_systemd_makes_the_cgroup needs "systemd", "user 54321", "memory";
    a_cgroup_is_made_below_the_users_systemd needs "systemd", "user 54321", "memory";
}

/// An id that no user of a Debian has. Where systemd is tested, it has been given to one.
const USER: u32 = 54321;

/// A bundle in the hands of an ordinary user, with a copy of the runtime that it can reach.
fn users(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    let ours = bundle.config["process"].clone();
    bundle.config = serde_json::to_value(spec::rootless(USER, USER)).unwrap();
    bundle.config["process"] = ours;
    bundle.config["root"]["readonly"] = json!(false);
    fs::copy(runtime(), program(&bundle)).unwrap();
    hand_over(&bundle.rootfs());
    chown(&bundle.directory, Some(USER), Some(USER)).unwrap();
    bundle
}

fn program(bundle: &Bundle) -> PathBuf {
    bundle.host("berth-runtime")
}

fn hand_over(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            hand_over(&entry.unwrap().path());
        }
    }
}

/// Runs a command of the runtime as the user.
fn by_user(bundle: &Bundle, args: &[&str]) -> Said {
    let mut command = Command::new(program(bundle));
    command.arg("--root").arg(bundle.host("state")).args(args);
    said(bundle, command.uid(USER).gid(USER))
}

/// Output goes to files: a container that stays would keep a pipe open.
fn said(bundle: &Bundle, command: &mut Command) -> Said {
    let file = |name| fs::File::create(bundle.host(name)).unwrap();
    let status = command
        .current_dir(&bundle.directory)
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .status()
        .unwrap();
    let read = |name| fs::read(bundle.host(name)).unwrap();
    Output {
        status,
        stdout: read("out"),
        stderr: read("err"),
    }
    .into()
}

fn state(bundle: &Bundle) -> Value {
    serde_json::from_str(&by_user(bundle, &["state", &bundle.id]).success()).unwrap()
}

fn until_stopped(bundle: &Bundle) {
    let stopped = || state(bundle)["status"] == "stopped";
    let pause = std::time::Duration::from_millis(20);
    assert!((0..1000).any(|_| {
        std::thread::sleep(pause);
        stopped()
    }));
}

/// Nothing is left of a container that wasn't made.
fn assert_gone(bundle: &Bundle) {
    let left = fs::read_dir(bundle.host("state")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

fn an_ordinary_user_runs_a_container() {
    let script = "id; cat /proc/self/uid_map; echo x > /file; echo y > /dev/null; exit 7";
    let bundle = users(script);
    bundle.write();
    let said = by_user(&bundle, &["run", &bundle.id]);
    assert_eq!(said.code, 7, "{said:?}");
    let map: Vec<&str> = said.stdout.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(map, ["uid=0", "gid=0", "0", &user, "1"], "{said:?}");
    let made = fs::metadata(bundle.rootfs().join("file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), USER);
    assert_gone(&bundle);
}

fn an_ordinary_users_container_lives_and_is_deleted() {
    let mut bundle = users("trap 'exit 3' TERM; touch /begun; while true; do sleep 0.1; done");
    // Nobody can protect itself so without rights over the host.
    bundle.set("/process/oomScoreAdj", json!(-500));
    bundle.write();
    let id = bundle.id.clone();
    by_user(&bundle, &["create", &id]).success();
    assert_eq!(state(&bundle)["status"], "created");
    by_user(&bundle, &["start", &id]).success();
    assert_eq!(state(&bundle)["status"], "running");
    let begun = bundle.rootfs().join("begun");
    while !begun.exists() {
        assert_eq!(state(&bundle)["status"], "running");
    }
    let script = "id -u; readlink /proc/self/ns/pid; readlink /proc/1/ns/pid; exit 9";
    let said = by_user(&bundle, &["exec", &id, "sh", "-c", script]);
    assert_eq!(said.code, 9, "{said:?}");
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert!(lines[0] == "0" && lines[1] == lines[2], "{lines:?}");
    let pids = by_user(&bundle, &["ps", "--format", "json", &id]).success();
    let pids: Vec<i32> = serde_json::from_str(&pids).unwrap();
    assert!(pids.contains(&(state(&bundle)["pid"].as_i64().unwrap() as i32)));
    let paused = by_user(&bundle, &["pause", &id]).failure();
    assert!(paused.contains("without a cgroup of its own"), "{paused}");
    by_user(&bundle, &["kill", "--all", &id, "TERM"]).success();
    until_stopped(&bundle);
    by_user(&bundle, &["delete", &id]).success();
    by_user(&bundle, &["run", "--detach", &id]).success();
    by_user(&bundle, &["delete", "--force", &id]).success();
    assert_gone(&bundle);
}

fn an_ordinary_users_hooks_run() {
    let mut bundle = users("sleep 1000");
    let journal = bundle.host("journal");
    let script = format!("echo $0 >> {}", journal.display());
    let hook = |name: &str| {
        let path = crate::machine::busybox();
        json!([{"path": path, "args": ["sh", "-c", script, name]}])
    };
    let inside = json!([{"path": "/bin/busybox", "args": ["touch", "/started"]}]);
    bundle.config["hooks"] = json!({
        "createRuntime": hook("createRuntime"),
        "startContainer": inside,
        "poststart": hook("poststart"),
        "poststop": hook("poststop"),
    });
    bundle.write();
    by_user(&bundle, &["create", &bundle.id]).success();
    by_user(&bundle, &["start", &bundle.id]).success();
    by_user(&bundle, &["delete", "--force", &bundle.id]).success();
    let ran = fs::read_to_string(journal).unwrap();
    assert_eq!(ran, "createRuntime\npoststart\npoststop\n");
    assert!(bundle.rootfs().join("started").exists());
}

fn an_ordinary_user_needs_a_user_namespace() {
    let mut bundle = users("true");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "user");
    bundle.config["linux"]["uidMappings"] = json!([]);
    bundle.config["linux"]["gidMappings"] = json!([]);
    bundle.write();
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    assert!(refused.contains("linux.namespaces"), "{refused}");
    assert!(refused.contains("spec --rootless"), "{refused}");
    assert_gone(&bundle);
}

fn an_ordinary_users_container_is_not_saved() {
    let bundle = users("true");
    bundle.write();
    for command in ["checkpoint", "restore"] {
        let refused = by_user(&bundle, &[command, &bundle.id]).failure();
        assert!(refused.contains("for the host's root"), "{refused}");
    }
    assert_gone(&bundle);
}

fn an_ordinary_users_bad_configuration_leaves_nothing() {
    let mut bundle = users("true");
    bundle.set("/process/cwd", json!("relative"));
    bundle.write();
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    assert!(refused.contains("process.cwd"), "{refused}");
    bundle.set("/process/cwd", json!("/"));
    bundle.args(&["/missing"]);
    bundle.write();
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    assert!(refused.contains("/missing"), "{refused}");
    assert_gone(&bundle);
}

fn a_limit_without_a_delegated_cgroup_is_refused_with_what_to_do() {
    let mut bundle = users("true");
    bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}}));
    bundle.write();
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    for part in ["memory.max", "Delegate=yes", "--systemd-cgroup"] {
        assert!(refused.contains(part), "{refused}");
    }
    let said = by_user(&bundle, &["--limits", "best-effort", "run", &bundle.id]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("memory.max"), "{said:?}");
    assert_gone(&bundle);
}

/// A cgroup in the user's hands, and in it one that commands are run in; gone when dropped.
struct Delegated(PathBuf);

impl Delegated {
    fn make(bundle: &Bundle) -> Self {
        let path = Path::new("/sys/fs/cgroup").join(format!("delegated-{}", bundle.id));
        for directory in [path.clone(), path.join("inner")] {
            fs::create_dir(&directory).unwrap();
            chown(&directory, Some(USER), Some(USER)).unwrap();
            for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                chown(directory.join(file), Some(USER), Some(USER)).unwrap();
            }
        }
        Self(path)
    }

    /// Runs a command of the runtime in it, as the user.
    fn run(&self, bundle: &Bundle, args: &[&str]) -> Said {
        let mut command = Command::new(program(bundle));
        command.arg("--root").arg(bundle.host("state")).args(args);
        let procs = self.0.join("inner/cgroup.procs");
        let file = fs::OpenOptions::new().write(true).open(procs).unwrap();
        let enter = move || {
            // "0" is whoever writes it.
            nix::unistd::write(&file, b"0")
                .map(drop)
                .map_err(Into::into)
        };
        // SAFETY: one system call, between fork and exec.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(enter)
        };
        said(bundle, command.uid(USER).gid(USER))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for path in [self.0.join("inner"), self.0.clone()] {
            fs::remove_dir(path).unwrap();
        }
    }
}

fn a_delegated_cgroup_is_used() {
    let bundle = users("while true; do sleep 0.1; done");
    bundle.write();
    let id = &bundle.id;
    let delegated = Delegated::make(&bundle);
    delegated.run(&bundle, &["run", "--detach", id]).success();
    let own = delegated.0.join(format!("berth-runtime-{id}"));
    let frozen = || fs::read_to_string(own.join("cgroup.events")).unwrap();
    delegated.run(&bundle, &["exec", id, "true"]).success();
    delegated.run(&bundle, &["pause", id]).success();
    assert!(frozen().contains("frozen 1"));
    assert_eq!(state(&bundle)["status"], "paused");
    delegated.run(&bundle, &["resume", id]).success();
    let stats = delegated.run(&bundle, &["events", "--stats", id]).success();
    assert!(stats.contains("\"type\":\"stats\""), "{stats}");
    delegated.run(&bundle, &["delete", "--force", id]).success();
    assert!(!own.exists());
    assert_gone(&bundle);
}

fn a_cgroup_of_others_is_refused() {
    let mut bundle = users("true");
    bundle.set(
        "/linux/cgroupsPath",
        json!(format!("/others-{}", bundle.id)),
    );
    bundle.write();
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    assert!(refused.contains("mkdir cgroup others-"), "{refused}");
    assert_gone(&bundle);
}

fn one_group_is_all_that_one_group_is() {
    let mut bundle = users("true");
    bundle.set("/process/user/additionalGids", json!([0]));
    bundle.write();
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    assert!(refused.contains("process.user.additionalGids"), "{refused}");
    assert_gone(&bundle);
}

/// A file of the tests in the place of one of the host's, in the tests' mount namespace; gone when dropped.
struct Covered(&'static str);

impl Covered {
    fn with(bundle: &Bundle, place: &'static str, text: &str) -> Self {
        let file = bundle.host(place.rsplit('/').next().unwrap());
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let none = None::<&str>;
        mount(Some(&file), place, none, MsFlags::MS_BIND, none).unwrap();
        Self(place)
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// The user has a name and a thousand subordinate ids from 700000 on.
fn with_subordinate_ids(bundle: &Bundle) -> Vec<Covered> {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let users = format!("{users}berth-test:x:{USER}:{USER}::/:/bin/sh\n");
    let ids = "berth-test:700000:1000\n";
    vec![
        Covered::with(bundle, "/etc/passwd", &users),
        Covered::with(bundle, "/etc/subuid", ids),
        Covered::with(bundle, "/etc/subgid", ids),
    ]
}

/// Maps the container's root to the user, and a thousand ids from 1 on to others of the host.
fn map(bundle: &mut Bundle, first: u32) {
    let maps = json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": first, "size": 1000},
    ]);
    bundle.set("/linux/uidMappings", maps.clone());
    bundle.set("/linux/gidMappings", maps);
}

fn subordinate_ids_are_mapped() {
    let mut bundle =
        users("touch /file; chown 5:6 /file; stat -c %u:%g /file; grep Groups /proc/self/status");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/chown")).unwrap();
    map(&mut bundle, 700_000);
    bundle.set("/process/user/additionalGids", json!([10, 20]));
    bundle.capabilities(&["CAP_CHOWN"]);
    bundle.write();
    let _files = with_subordinate_ids(&bundle);
    let said = by_user(&bundle, &["run", &bundle.id]).success();
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["5:6", "Groups:", "10", "20"]
    );
    let made = fs::metadata(bundle.rootfs().join("file")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 700_004);
    bundle.script("sleep 1000");
    bundle.write();
    by_user(&bundle, &["run", "--detach", &bundle.id]).success();
    let exec = ["exec", "--user", "7:8", &bundle.id, "id", "-u"];
    assert_eq!(by_user(&bundle, &exec).success(), "7");
    by_user(&bundle, &["delete", "--force", &bundle.id]).success();
    assert_gone(&bundle);
}

fn ids_of_others_are_refused() {
    let mut bundle = users("true");
    map(&mut bundle, 100);
    bundle.write();
    let _files = with_subordinate_ids(&bundle);
    let refused = by_user(&bundle, &["run", &bundle.id]).failure();
    for part in ["linux.uidMappings", "100 to 1099", "/etc/subuid"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_gone(&bundle);
}

/// The user may write the file, and so may root in the container: but not through the process.
fn the_users_copy_of_the_runtime_can_not_be_written() {
    let bundle = users("true");
    chown(program(&bundle), Some(USER), Some(USER)).unwrap();
    bundle.write();
    by_user(&bundle, &["create", &bundle.id]).success();
    let exe = format!("/proc/{}/exe", state(&bundle)["pid"]);
    let flags = statvfs(exe.as_str()).unwrap().flags();
    assert!(flags.contains(FsFlags::ST_RDONLY));
    by_user(&bundle, &["delete", "--force", &bundle.id]).success();
}

fn the_hosts_root_enters_without_its_groups() {
    let bundle = users("sleep 1000");
    bundle.write();
    by_user(&bundle, &["run", "--detach", &bundle.id]).success();
    let mut command = bundle.command(&["exec", &bundle.id, "grep", "Groups", "/proc/self/status"]);
    let join_a_group = || {
        let disks = nix::unistd::Gid::from_raw(6);
        nix::unistd::setgroups(&[disks]).map_err(Into::into)
    };
    // SAFETY: one system call, between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(join_a_group)
    };
    let entered = said(&bundle, &mut command).success();
    assert_eq!(entered.split_whitespace().collect::<Vec<_>>(), ["Groups:"]);
    by_user(&bundle, &["delete", "--force", &bundle.id]).success();
}

/// As an engine does that made the namespace itself, and gives the runtime a configuration without one.
fn root_of_a_user_namespace_runs_a_container() {
    let mut bundle = users("id -u; echo x > /dev/null; stat -c %t:%T /dev/zero");
    let linux = &mut bundle.config["linux"];
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "user");
    linux["uidMappings"] = json!([]);
    linux["gidMappings"] = json!([]);
    linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    bundle.set("/process/oomScoreAdj", json!(-500));
    bundle.write();
    let mut command = Command::new("unshare");
    command.args(["-U", "-r", "-m"]).arg(program(&bundle));
    command.arg("--root").arg(bundle.host("state"));
    command.args(["run", &bundle.id]);
    let said = said(&bundle, command.uid(USER).gid(USER)).success();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "1:5"]);
    assert_gone(&bundle);
}

/// What the parent can't do for the child must not leave it waiting.
fn ids_that_an_engine_did_not_map_are_refused() {
    let mut bundle = users("true");
    for maps in ["/linux/uidMappings", "/linux/gidMappings"] {
        bundle.set(maps, json!([{"containerID": 0, "hostID": 0, "size": 2}]));
    }
    bundle.write();
    let mut command = Command::new("unshare");
    command.args(["-U", "-r", "-m"]).arg(program(&bundle));
    command.arg("--root").arg(bundle.host("state"));
    command.args(["run", &bundle.id]);
    let refused = said(&bundle, command.uid(USER).gid(USER)).failure();
    assert!(
        refused.contains("linux.uidMappings") && refused.contains("0 to 1"),
        "{refused}"
    );
    assert_gone(&bundle);
}

/// The user's systemd, which is there until this is dropped.
struct UsersSystemd(String);

impl UsersSystemd {
    fn start() -> Self {
        let unit = format!("user@{USER}.service");
        let status = Command::new("systemctl").args(["start", &unit]).status();
        assert!(status.unwrap().success(), "{unit} doesn't start");
        Self(unit)
    }

    /// Runs a command of the runtime in a scope of it, as the user: where systemd mounts what it does,
    /// which the tests' mount namespace doesn't see.
    fn run(&self, bundle: &Bundle, args: &[&str]) -> Said {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", "1", "--mount"])
            .args([format!("--setuid={USER}"), format!("--setgid={USER}")])
            .args(["env", "--chdir"])
            .arg(&bundle.directory)
            .arg(format!("XDG_RUNTIME_DIR=/run/user/{USER}"))
            .args(["systemd-run", "--user", "--scope", "--quiet"])
            .arg(program(bundle))
            .arg("--root")
            .arg(bundle.host("state"))
            .args(args);
        said(bundle, &mut command)
    }
}

impl Drop for UsersSystemd {
    fn drop(&mut self) {
        let status = Command::new("systemctl").args(["stop", &self.0]).status();
        assert!(status.unwrap().success());
    }
}

/// A container with a limit lives in a cgroup below the user's systemd, which has the limit, and leaves
/// none.
fn has_its_limit(global: &[&str], name: &str) {
    let mut bundle = users("while true; do sleep 0.1; done");
    bundle.set("/linux/resources", json!({"memory": {"limit": 67_108_864}}));
    bundle.write();
    let id = bundle.id.clone();
    let systemd = UsersSystemd::start();
    let run = |args: &[&str]| systemd.run(&bundle, &[global, args].concat());
    run(&["run", "--detach", &id]).success();
    let memberships =
        fs::read_to_string(format!("/proc/{}/cgroup", state(&bundle)["pid"])).unwrap();
    let path = memberships.trim_end().strip_prefix("0::/").unwrap();
    let above = format!("user.slice/user-{USER}.slice/user@{USER}.service/");
    assert!(path.starts_with(&above) && path.contains(name), "{path}");
    let cgroup = Path::new("/sys/fs/cgroup").join(path);
    assert_eq!(
        fs::read_to_string(cgroup.join("memory.max")).unwrap(),
        "67108864\n"
    );
    run(&["exec", &id, "true"]).success();
    run(&["update", "--memory", "32m", &id]).success();
    assert_eq!(
        fs::read_to_string(cgroup.join("memory.max")).unwrap(),
        "33554432\n"
    );
    run(&["delete", "--force", &id]).success();
    assert!(!cgroup.exists());
    assert_gone(&bundle);
}

fn the_users_systemd_makes_the_cgroup() {
    has_its_limit(&["--systemd-cgroup"], ".scope");
}

fn a_cgroup_is_made_below_the_users_systemd() {
    has_its_limit(&[], "app.slice/berth-runtime-");
}
