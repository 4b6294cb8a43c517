//! Engines that run on `berth-runtime`: Podman, Docker and containerd from their packages, with the
//! commands that their users type.
//!
//! They run as root, but for the Podman of an ordinary user. On a host each engine works in a network
//! and a mount namespace of the tests' own; the rig's machine is all theirs. What needs cgroup
//! controllers runs only there, and there once with each of the two cgroup drivers. After each test the
//! [`leaks`] checker looks for whatever is left.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]
#![allow(missing_docs)]

mod containerd;
mod docker;
mod leaks;
mod place;
mod podman;
mod ran;
mod rootless;

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Mutex;

use libtest_mimic::{Arguments, Failed, Trial};

use leaks::Snapshot;
use place::Place;

/// What a test needs of the place where it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Root and a Linux kernel.
    Kernel,
    /// The cgroup v2 controllers of cpu, memory and pids.
    Controllers,
    /// All capabilities: Docker gives them without asking what there is to give.
    Capabilities,
    /// AppArmor in the kernel, with its parser.
    AppArmor,
    /// A CRIU that can work on this kernel.
    Criu,
}

/// A test: its name, what it needs, and what it does.
pub struct Case<Engine>(pub &'static str, pub Needs, pub fn(&Engine));

fn main() {
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, trials()).exit();
    }
    let place = Place::enter();
    let conclusion = libtest_mimic::run(&arguments, trials());
    // What fails from here on is to be said.
    drop(std::panic::take_hook());
    place.leave();
    conclusion.exit()
}

fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for cases in podman::CASES {
        all.extend(
            cases
                .iter()
                .map(|case| trial("podman", case, podman::engine)),
        );
    }
    let with_cgroup = match place::cgroup_driver() {
        "systemd" => rootless::WITH_CGROUP,
        _ => &[],
    };
    for case in rootless::CASES.iter().chain(with_cgroup) {
        all.push(trial("rootless", case, rootless::engine));
    }
    for cases in docker::CASES {
        all.extend(
            cases
                .iter()
                .map(|case| trial("docker", case, docker::engine)),
        );
    }
    for cases in containerd::CASES {
        all.extend(
            cases
                .iter()
                .map(|case| trial("containerd", case, containerd::engine)),
        );
    }
    all
}

fn trial<Engine: 'static>(
    name: &str,
    case: &'static Case<Engine>,
    engine: fn() -> &'static Engine,
) -> Trial {
    let Case(what, needs, test) = case;
    let can = match needs {
        Needs::Kernel => true,
        Needs::Controllers => place::has_controllers(),
        Needs::Capabilities => place::has_all_capabilities(),
        Needs::AppArmor => place::has_apparmor(),
        Needs::Criu => place::has_criu(),
    };
    let driver = place::cgroup_driver();
    let run = move || checked(engine, *test);
    Trial::test(format!("{name}::{driver}::{what}"), run).with_ignored_flag(!can)
}

/// Where and why the last test broke off. Printed with its failure rather than at once, which would
/// tear the line apart that says which test it was.
static CAUSE: Mutex<String> = Mutex::new(String::new());

fn note_cause(panic: &PanicHookInfo<'_>) {
    if let Ok(mut cause) = CAUSE.lock() {
        *cause = panic.to_string();
    }
}

/// Runs a test, and fails it too if it leaves something behind.
fn checked<Engine>(engine: fn() -> &'static Engine, test: fn(&Engine)) -> Result<(), Failed> {
    std::panic::set_hook(Box::new(note_cause));
    let failed = |left: &str| {
        let cause = CAUSE.lock().map(|cause| cause.clone());
        Err(format!("{}\n{left}", cause.unwrap_or_default()).into())
    };
    // An engine's daemon is to be there before.
    let Ok(engine) = catch_unwind(engine) else {
        return failed("");
    };
    let before = Snapshot::take();
    let result = catch_unwind(AssertUnwindSafe(|| test(engine)));
    let leaks = before.compare();
    match result {
        Err(_) => failed(&leaks),
        Ok(()) if leaks.is_empty() => Ok(()),
        Ok(()) => Err(format!("something is left behind:\n{leaks}").into()),
    }
}
