//! The runtime's tests against the real kernel, as root.
//!
//! They enter a mount namespace of their own first, with the unified cgroup hierarchy at
//! /sys/fs/cgroup, so the machine's own mounts stay untouched. What the machine can't test (limits,
//! where cgroup v1 holds the controllers; scopes where systemd isn't process 1; AppArmor; checkpoints where CRIU can't work) is listed as
//! ignored, with a line that says why. After each test nothing may be left: no process, mount, cgroup
//! or state.
//!
//! The binary can be copied elsewhere and run on its own: `BERTH_RUNTIME` names the command and
//! `BERTH_BUSYBOX` a static busybox (Debian's package busybox-static) for the containers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apparmor;
mod bad_input;
mod bundle;
mod cgroups;
mod checkpoint;
mod confinement;
mod controllers;
mod crash;
mod escapes;
mod exec;
mod filesystem;
mod hooks;
mod in_use;
mod leaks;
mod library;
mod lifecycle;
mod limits;
mod machine;
mod many;
mod mounts;
mod namespaces;
mod net_devices;
mod no_cgroup;
mod notifications;
mod notify_socket;
mod priorities;
mod rootless;
mod systemd;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use machine::Machine;

/// A test: its name, its body, and what it needs: cgroup controllers, `systemd`, `apparmor` and
/// the like.
struct Test {
    name: &'static str,
    body: fn(),
    needs: &'static [&'static str],
}

impl Test {
    fn trial(self, machine: &Machine) -> Trial {
        let missing = machine.missing(self.needs);
        if !missing.is_empty() {
            eprintln!("SKIPPED {}: this machine lacks {missing:?}", self.name);
        }
        let body = self.body;
        Trial::test(self.name, move || run(body)).with_ignored_flag(!missing.is_empty())
    }
}

/// Makes tests of functions, with what they need.
macro_rules! tests {
    ($($name:ident $(needs $($need:literal),+)?;)*) => {
        pub(crate) fn tests() -> Vec<crate::Test> {
            vec![$(crate::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                body: $name,
                needs: &[$($($need),+)?],
            }),*]
        }
    };
}
pub(crate) use tests;

fn run(body: fn()) -> Result<(), Failed> {
    let before = leaks::Snapshot::take();
    let result = catch_unwind(AssertUnwindSafe(body));
    // What a failed test leaves is its failure's consequence.
    let left = before.what_is_left();
    match result {
        Err(panic) => Err(message(&*panic).into()),
        Ok(()) if left.is_empty() => Ok(()),
        Ok(()) => Err(format!("left behind:\n{}", left.join("\n")).into()),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked")
        .to_owned()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: the search for leaks looks at the whole machine.
    arguments.test_threads = Some(1);
    let machine = Machine::enter();
    let groups = [
        lifecycle::tests(),
        confinement::tests(),
        filesystem::tests(),
        namespaces::tests(),
        net_devices::tests(),
        escapes::tests(),
        exec::tests(),
        limits::tests(),
        controllers::tests(),
        cgroups::tests(),
        in_use::tests(),
        library::tests(),
        hooks::tests(),
        priorities::tests(),
        mounts::tests(),
        notifications::tests(),
        no_cgroup::tests(),
        notify_socket::tests(),
        rootless::tests(),
        bad_input::tests(),
        crash::tests(),
        many::tests(),
        checkpoint::tests(),
        systemd::tests(),
        apparmor::tests(),
    ];
    let tests = groups.into_iter().flatten();
    let trials = tests.map(|test| test.trial(&machine)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
