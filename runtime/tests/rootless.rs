//! Containers of an ordinary user, and of root in somebody's user namespace.

mod cgroups;
mod ids;

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_runtime::spec;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};

use crate::bundle::{Bundle, Said};
use crate::machine::{runtime, wait_until};

pub(crate) fn tests() -> Vec<crate::Test> {
    let mut all = lives();
    all.extend(cgroups::tests());
    all.extend(ids::tests());
    all
}

fn lives() -> Vec<crate::Test> {
    crate::tests! {
        an_ordinary_user_runs_a_container;
        an_ordinary_users_container_lives_and_is_deleted;
        an_ordinary_users_hooks_run;
        an_ordinary_user_needs_a_user_namespace;
        an_ordinary_users_container_is_not_saved;
        an_ordinary_users_bad_configuration_leaves_nothing;
        the_users_copy_of_the_runtime_can_not_be_written;
        root_of_a_user_namespace_runs_a_container;
    }
    tests()
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
    bundle.said(command.uid(USER).gid(USER))
}

fn state(bundle: &Bundle) -> Value {
    serde_json::from_str(&by_user(bundle, &["state", &bundle.id]).success()).unwrap()
}

fn until_stopped(bundle: &Bundle) {
    wait_until(|| state(bundle)["status"] == "stopped");
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
    let said = bundle.said(command.uid(USER).gid(USER)).success();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "1:5"]);
    assert_gone(&bundle);
}
