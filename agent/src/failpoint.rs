//! Places at which a test can make the agent die.
//!
//! `BERTH_FAILPOINT=<name>` ends the process with SIGKILL the first time it passes the place of
//! that name, as a power cut or an out-of-memory kill would. The variable is read once, from the
//! environment of a process that only root can start.

use std::sync::LazyLock;

/// The places, in the order in which a task's life passes them.
pub const FAILPOINTS: &[&str] = &[
    "task-recorded",
    "interface-attached",
    "network-attached",
    "images-ready",
    "files-written",
    "supervisor-spawned",
    "supervisor-connected",
    "container-started",
    "running-recorded",
    "stop-recorded",
    "stop-sent",
    "containers-stopped",
    "supervisor-gone",
    "network-detached",
    "files-removed",
    "stopped-recorded",
];

static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("BERTH_FAILPOINT").ok());

/// Dies here if this is the place that was chosen.
pub fn pass(name: &str) {
    debug_assert!(
        FAILPOINTS.contains(&name),
        "{name} is missing from the list"
    );
    if CHOSEN.as_deref() == Some(name) {
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).ok();
    }
}
