//! Saving a container and having it go on, here or as another one.

use super::{Podman, Running};
use crate::ran::until;
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[Case(
    "checkpoint_and_restore_go_on_where_it_was",
    Needs::Criu,
    checkpoint,
)];

const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

/// The last number that a container has printed.
fn last(container: &Running) -> u32 {
    let logs = container.logs();
    let last = logs.lines().last().unwrap_or_default();
    last.trim().parse().unwrap_or(0)
}

fn checkpoint(podman: &Podman) {
    let counter = ["sh", "-c", COUNTER];
    let one = podman.start("saved", &["--tmpfs", "/scratch"], &counter);
    until("it counts", || last(&one) > 2);
    podman.does(&["container", "checkpoint", "saved"]).ok();
    assert_eq!(
        one.inspect("{{.State.Status}} {{.State.Checkpointed}}"),
        "exited true"
    );
    let reached = last(&one);
    podman.does(&["container", "restore", "saved"]).ok();
    one.until_status("running");
    until("it counts on", || last(&one) > reached);

    let archive = format!("{}/saved.tar", crate::place::DATA);
    let words = [
        "container",
        "checkpoint",
        "--compress",
        "none",
        "--export",
        &archive,
        "saved",
    ];
    podman.does(&words).ok();
    let reached = last(&one);
    drop(one);
    let words = [
        "container",
        "restore",
        "--import",
        &archive,
        "--name",
        "again",
    ];
    podman.does(&words).ok();
    let again = Running {
        podman,
        name: "again".to_owned(),
    };
    until("it counts on as another", || last(&again) > reached);
    assert_eq!(again.exec(&[], &["ls", "/scratch"]).ok(), "");
    std::fs::remove_file(archive).unwrap();
}
