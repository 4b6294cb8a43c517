//! The cgroup of an ordinary user's container: delegated, made by the user's systemd, or none.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::{USER, assert_gone, by_user, program, state, users};
use crate::bundle::{Bundle, Said};

crate::tests! {
    a_limit_without_a_delegated_cgroup_is_refused_with_what_to_do;
    a_delegated_cgroup_is_used;
    a_cgroup_of_others_is_refused;
    the_users_systemd_makes_the_cgroup needs "systemd", "user 54321", "memory";
    a_cgroup_is_made_below_the_users_systemd needs "systemd", "user 54321", "memory";
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
        bundle.said(command.uid(USER).gid(USER))
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
        bundle.said(&mut command)
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
