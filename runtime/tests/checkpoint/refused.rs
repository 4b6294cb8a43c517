//! What is refused before CRIU is asked, and how its absence and its failures are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{checkpoint, restore};
use crate::bundle::{Bundle, Said};
use crate::machine::wait_until;

crate::tests! {
    only_what_runs_can_be_saved;
    flags_with_bad_values_are_refused_by_name;
    flags_may_be_given_twice_and_the_last_counts;
    a_flag_without_its_value_is_known;
    containerds_flag_with_one_dash_is_known;
    a_missing_criu_is_to_be_installed;
    a_criu_that_fails_is_told_with_its_log;
    an_old_criu_is_too_old;
    what_criu_would_restore_wrongly_is_refused;
    images_that_are_not_there_are_named;
}

fn only_what_runs_can_be_saved() {
    let bundle = Bundle::new("true");
    bundle.create().success();
    let said = checkpoint(&bundle, &[]).failure();
    assert!(
        said.contains("cannot be checkpointed in created state"),
        "{said}"
    );
    bundle.runtime(&["start", &bundle.id]).success();
    wait_until(|| bundle.status() == "stopped");
    let said = checkpoint(&bundle, &[]).failure();
    assert!(
        said.contains("cannot be checkpointed in stopped state"),
        "{said}"
    );
    let said = bundle.runtime(&["checkpoint", "nothing"]).failure();
    assert!(said.contains("does not exist"), "{said}");
}

fn flags_with_bad_values_are_refused_by_name() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    fs::write(bundle.host("file"), "").unwrap();
    for (args, words) in [
        (["--parent-path", "/before"], "relative to --image-path"),
        (["--parent-path", "../before"], "No such file"),
        (["--parent-path", "../file"], "must be a directory"),
        (["--page-server", "host"], "ADDRESS:PORT"),
        (
            ["--manage-cgroups-mode", "none"],
            "soft, full, strict or ignore",
        ),
        (["--status-fd", "99"], "isn't an open descriptor"),
        (["--status-fd", "1"], "from 3 on"),
        (["--empty-ns", "pid"], "network"),
    ] {
        let said = checkpoint(&bundle, &args).failure();
        assert!(said.contains(args[0]) && said.contains(words), "{said}");
    }
    for (args, words) in [
        (
            ["--lsm-profile", "smack:x"],
            "apparmor:PROFILE or selinux:LABEL",
        ),
        (
            ["--manage-cgroups-mode", "none"],
            "soft, full, strict or ignore",
        ),
    ] {
        let said = restore(&bundle, &args).failure();
        assert!(said.contains(args[0]) && said.contains(words), "{said}");
    }
    assert_eq!(bundle.status(), "running");
}

fn flags_may_be_given_twice_and_the_last_counts() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let twice = [
        "--leave-running",
        "--leave-running",
        "--parent-path",
        "/one",
    ];
    let args = [&twice[..], &["--parent-path", "/two"]].concat();
    let said = checkpoint(&bundle, &args).failure();
    assert!(said.contains("--parent-path /two"), "{said}");
}

/// Podman looks for these words to know whether pods can be restored.
fn a_flag_without_its_value_is_known() {
    let bundle = Bundle::new("true");
    let said = bundle.runtime(&["restore", "--lsm-profile"]).failure();
    assert!(said.contains("flag needs an argument"), "{said}");
}

fn containerds_flag_with_one_dash_is_known() {
    let bundle = Bundle::new("true");
    let said = restore(&bundle, &["-no-subreaper"]).failure();
    assert!(said.contains("open images"), "{said}");
    // Another command's words are its own.
    let said = bundle.runtime(&["delete", "restore", "-no-subreaper"]);
    assert!(said.failure().contains("unexpected argument"));
}

/// With a `criu` of ours, or none.
fn with_path(bundle: &Bundle, args: &[&str], program: Option<&str>) -> Said {
    let directory = bundle.host("path");
    fs::create_dir_all(&directory).unwrap();
    if let Some(script) = program {
        let criu = directory.join("criu");
        let shell = bundle.rootfs().join("bin/busybox");
        fs::write(&criu, format!("#!{} sh\n{script}\n", shell.display())).unwrap();
        fs::set_permissions(&criu, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = bundle.command(args);
    command.env("PATH", directory);
    command.output().unwrap().into()
}

fn a_missing_criu_is_to_be_installed() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let said = with_path(&bundle, &["checkpoint", &bundle.id], None).failure();
    assert!(said.contains("install the package criu"), "{said}");
    assert_eq!(bundle.status(), "running");
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    // Restoring needs what a checkpoint leaves.
    fs::create_dir(bundle.host("images")).unwrap();
    fs::write(bundle.host("images/descriptors.json"), "[]").unwrap();
    let args = ["restore", "--image-path", "images", &bundle.id];
    let said = with_path(&bundle, &args, None).failure();
    assert!(said.contains("install the package criu"), "{said}");
    assert!(fs::read_dir(bundle.host("state")).unwrap().next().is_none());
}

fn a_criu_that_fails_is_told_with_its_log() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let said = with_path(&bundle, &["checkpoint", &bundle.id], Some("exit 3"));
    let said = said.failure();
    assert!(said.contains("criu") && said.contains("Code(3)"), "{said}");
    assert_eq!(bundle.status(), "running");
}

/// Takes one question about its version, by the number of its socket, and answers it. A question that nobody takes
/// would break the connection, and the answer with it.
fn answering(bundle: &Bundle, bytes: &str) -> String {
    let busybox = bundle.rootfs().join("bin/busybox");
    let take = format!(
        "{} dd bs=65536 count=1 <&$2 >/dev/null 2>&1",
        busybox.display()
    );
    format!("{take}; printf '{bytes}' >&$2")
}

fn an_old_criu_is_too_old() {
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    // The answer to a question about the version, which is 3.14.1.
    let old = r"\010\012\020\001\122\006\010\003\020\016\040\001";
    let args = ["checkpoint", &bundle.id];
    let said = with_path(&bundle, &args, Some(&answering(&bundle, old))).failure();
    assert!(said.contains("3.15") && said.contains("3.14.1"), "{said}");
    let nonsense = r"\377\377";
    let said = with_path(&bundle, &args, Some(&answering(&bundle, nonsense))).failure();
    assert!(said.contains("can't be understood"), "{said}");
    assert_eq!(bundle.status(), "running");
}

fn what_criu_would_restore_wrongly_is_refused() {
    let mut bundle = Bundle::new("sleep 1000");
    let map = json!([{"containerID": 0, "hostID": 500, "size": 1}]);
    let mount = json!({"type": "tmpfs", "source": "tmpfs", "destination": "/mapped",
        "uidMappings": map, "gidMappings": map});
    bundle.write();
    bundle.run_detached();
    fs::create_dir(bundle.host("images")).unwrap();
    bundle.runtime(&["delete", "--force", &bundle.id]).success();
    bundle.push("/mounts", mount);
    let said = restore(&bundle, &[]).failure();
    assert!(
        said.contains("on /mapped") && said.contains("id-mapped"),
        "{said}"
    );
    let mut bundle = Bundle::new("true");
    let listed = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    listed.retain(|listed| listed["type"] != "cgroup");
    listed.push(json!({"type": "cgroup", "path": "/proc/self/ns/cgroup"}));
    let said = restore(&bundle, &[]).failure();
    assert!(said.contains("linux.namespaces, cgroup"), "{said}");
}

fn images_that_are_not_there_are_named() {
    let bundle = Bundle::new("true");
    let said = restore(&bundle, &[]).failure();
    assert!(said.contains("images"), "{said}");
    fs::create_dir(bundle.host("images")).unwrap();
    let said = restore(&bundle, &[]).failure();
    assert!(said.contains("descriptors.json"), "{said}");
    assert!(fs::read_dir(bundle.host("state")).unwrap().next().is_none());
}
