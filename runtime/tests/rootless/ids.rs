//! Whose ids an ordinary user's container may have, and which groups.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::{USER, assert_gone, by_user, program, users};
use crate::bundle::Bundle;

crate::tests! {
    one_group_is_all_that_one_group_is;
    subordinate_ids_are_mapped needs "newuidmap";
    ids_of_others_are_refused needs "newuidmap";
    the_hosts_root_enters_without_its_groups;
    ids_that_an_engine_did_not_map_are_refused;
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
    let refused = bundle.said(command.uid(USER).gid(USER)).failure();
    assert!(
        refused.contains("linux.uidMappings") && refused.contains("0 to 1"),
        "{refused}"
    );
    assert_gone(&bundle);
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
    let entered = bundle.said(&mut command).success();
    assert_eq!(entered.split_whitespace().collect::<Vec<_>>(), ["Groups:"]);
    by_user(&bundle, &["delete", "--force", &bundle.id]).success();
}
