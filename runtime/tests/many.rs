//! Many containers: nothing is left of them, neither of those in sequence nor of those at once. How long
//! they take is for `cargo measure many`.

use std::fs;
use std::process::Stdio;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::bundle::Bundle;
use crate::leaks::Snapshot;

crate::tests! {
    many_containers_in_sequence_leave_nothing;
    many_containers_at_once_leave_nothing;
}

/// A part of what is measured, which does: a leak shows in the first.
const IN_SEQUENCE: usize = 200;
const AT_ONCE: usize = 50;

/// Runs a command for each of these containers of a bundle, all at once.
#[track_caller]
fn step(bundle: &Bundle, ids: &[String], words: fn(&str) -> Vec<&str>) {
    let start = |id: &String| {
        let mut command = bundle.command(&words(id));
        let errors = fs::File::create(bundle.host(&format!("{id}.err"))).unwrap();
        command
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap()
    };
    let started: Vec<_> = ids.iter().map(start).collect();
    for (mut child, id) in started.into_iter().zip(ids) {
        let status = child.wait().unwrap();
        let said = fs::read_to_string(bundle.host(&format!("{id}.err"))).unwrap();
        assert!(status.success(), "{id}: {said}");
    }
}

/// Creates, starts, kills and deletes.
fn live(bundle: &Bundle, ids: &[String]) {
    step(bundle, ids, |id| vec!["create", id]);
    step(bundle, ids, |id| vec!["start", id]);
    let pids = ids.iter().map(|id| {
        let state = bundle.runtime(&["state", id]).success();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["status"], "running", "{id}");
        state["pid"].as_i64().unwrap() as i32
    });
    let pids: Vec<_> = pids.collect();
    step(bundle, ids, |id| vec!["kill", id, "KILL"]);
    for pid in pids {
        waitpid(Pid::from_raw(pid), None).unwrap();
    }
    step(bundle, ids, |id| vec!["delete", id]);
}

/// Beyond what is looked for after every test: what the runtime keeps of containers.
#[track_caller]
fn assert_nothing_is_left(before: &Snapshot, bundle: &Bundle) {
    assert_eq!(before.what_is_left(), Vec::<String>::new());
    let kept = fs::read_dir(bundle.host("state")).unwrap().count();
    assert_eq!(kept, 0);
}

fn many_containers_in_sequence_leave_nothing() {
    let bundle = Bundle::new("sleep 1000");
    bundle.write();
    let before = Snapshot::take();
    for number in 0..IN_SEQUENCE {
        live(&bundle, &[format!("{}-{number}", bundle.id)]);
    }
    assert_nothing_is_left(&before, &bundle);
}

fn many_containers_at_once_leave_nothing() {
    let bundle = Bundle::new("sleep 1000");
    bundle.write();
    let before = Snapshot::take();
    let ids: Vec<_> = (0..AT_ONCE)
        .map(|number| format!("{}-{number}", bundle.id))
        .collect();
    live(&bundle, &ids);
    assert_nothing_is_left(&before, &bundle);
}
