//! Places at which a test can have the runtime killed.
//!
//! `BERTH_RUNTIME_FAILPOINT=<name>` ends the process with SIGKILL when it comes to the place of that
//! name, as the out-of-memory killer or an impatient engine would. Who can set the variable starts the
//! runtime, as root: containers and hooks get their variables from the configuration, and the runtime
//! reads none of theirs. `<name>+<milliseconds>` has it wait before, for what others do meanwhile. A place
//! costs a comparison; the variable is looked up once.

use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable.
pub const VARIABLE: &str = "BERTH_RUNTIME_FAILPOINT";

/// The places, in the order in which a container's life passes them.
pub const FAILPOINTS: [&str; 24] = [
    // create
    "state-directory-made",
    "cgroup-noted",
    "socket-listening",
    "scope-begun",
    "cgroup-made",
    "cgroup-marked",
    "cgroup-limited",
    "plan-made",
    // create and exec
    "helper-gone",
    "process-cloned",
    "process-helped",
    // create
    "state-written",
    "state-saved",
    "hooks-run",
    // create and exec
    "process-ready",
    // start
    "start-connected",
    // start and exec
    "program-executed",
    // start
    "poststart-run",
    // exec
    "exec-prepared",
    "exec-published",
    // delete
    "process-ended",
    "cgroup-removed",
    "record-removed",
    "state-removed",
];

/// The place, and how long to wait there.
static CHOSEN: LazyLock<Option<(String, Duration)>> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).ok()?;
    let (name, wait) = text.split_once('+').unwrap_or((&text, "0"));
    Some((name.to_owned(), Duration::from_millis(wait.parse().ok()?)))
});

/// Dies here if this is the place that was chosen.
pub fn pass(name: &'static str) {
    debug_assert!(
        FAILPOINTS.contains(&name),
        "{name} is missing from the list"
    );
    let chosen = CHOSEN.as_ref().filter(|(chosen, _)| chosen == name);
    if let Some((_, wait)) = chosen {
        std::thread::sleep(*wait);
        // It can't fail: a process may signal itself.
        let _killed = kill(Pid::this(), Signal::SIGKILL).is_ok();
    }
}
