//! The end-to-end tests: the real command, real containers, a real network, real processes to
//! kill. Each module is about what a user does.
//!
//! They run as root. On a host they first enter a network and a mount namespace of their own, so
//! that the host's interfaces, firewall and mounts stay as they are; in the rig's virtual machine
//! there is nothing to spare. After each test the [`leaks`] checker looks for whatever is left.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]
#![allow(missing_docs)]

mod api;
mod bad_input;
mod check;
mod crash;
mod firewalld;
mod host;
mod host_address;
mod images;
mod interfaces;
mod leaks;
mod limits;
mod modes;
mod names;
mod naming;
mod network;
mod ports;
mod run;
mod service_discovery;
mod user_namespaces;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use host::Host;
use leaks::Snapshot;

/// What a test needs of the place where it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Root and a Linux kernel.
    Kernel,
    /// The cgroup v2 controllers of cpu, memory and pids.
    Controllers,
    /// A hierarchy without them, where limits can't be applied.
    NoControllers,
    /// Programs of this host's packages: skopeo, docker-registry, firewalld.
    Packages,
}

/// A test: its name, what it needs, and what it does.
pub struct Case(pub &'static str, pub Needs, pub fn(&Host));

fn main() {
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, trials()).exit();
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "the end-to-end tests need root"
    );
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    if !in_machine() {
        enter_own_namespaces();
    }
    libtest_mimic::run(&arguments, trials()).exit()
}

fn in_machine() -> bool {
    std::env::var_os("BERTH_RIG_MACHINE").is_some()
}

fn enter_own_namespaces() {
    // The calls are for this thread only: libtest-mimic's come after it.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
    mount(
        Some("cgroup2"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    // So that /sys/class/net shows our namespace's interfaces, and /run is nobody else's.
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    assert!(
        Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap()
            .success()
    );
}

fn has_controllers() -> bool {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["cpu", "memory", "pids"]
        .iter()
        .all(|name| text.split_whitespace().any(|word| word == *name))
}

fn trials() -> Vec<Trial> {
    let modules: [(&str, &[Case]); 17] = [
        ("run", run::CASES),
        ("network", network::CASES),
        ("check", check::CASES),
        ("names", names::CASES),
        ("service_discovery", service_discovery::CASES),
        ("host_address", host_address::CASES),
        ("modes", modes::CASES),
        ("naming", naming::CASES),
        ("ports", ports::CASES),
        ("firewalld", firewalld::CASES),
        ("interfaces", interfaces::CASES),
        ("user_namespaces", user_namespaces::CASES),
        ("limits", limits::CASES),
        ("images", images::CASES),
        ("bad_input", bad_input::CASES),
        ("api", api::CASES),
        ("crash", crash::CASES),
    ];
    let mut all = Vec::new();
    for (module, cases) in modules {
        for Case(name, needs, test) in cases {
            let can = match needs {
                Needs::Kernel => true,
                Needs::Controllers => has_controllers(),
                Needs::NoControllers => !has_controllers(),
                Needs::Packages => !in_machine(),
            };
            let run = move || checked(*test);
            all.push(Trial::test(format!("{module}::{name}"), run).with_ignored_flag(!can));
        }
    }
    all
}

/// Runs a test from a clean state, and fails it too if it leaves something behind.
fn checked(test: fn(&Host)) -> Result<(), Failed> {
    let before = Snapshot::take();
    let host = Host::new();
    let result = catch_unwind(AssertUnwindSafe(|| test(&host)));
    let left = host.clean_up();
    let leaks = before.compare();
    if let Err(cause) = result {
        let message = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied())
            .unwrap_or("it panicked");
        return Err(format!("{message}\n{left}{leaks}").into());
    }
    if left.is_empty() && leaks.is_empty() {
        Ok(())
    } else {
        Err(format!("something is left behind:\n{left}{leaks}").into())
    }
}
