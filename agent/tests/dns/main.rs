//! The tasks' resolver, over real traffic on the real kernel.
//!
//! Needs root, and touches nothing of the machine: every test runs on a thread with a network
//! namespace, which is its host, and a mount namespace of its own. The resolvers that the host asks
//! are `dnsmasq` on a host outside, where it is installed, and the clients in the tasks `dig`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod client;
mod forwarding;
mod limits;
mod local;
mod services;
mod upstream;
mod world;

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::wait::{WaitPidFlag, waitpid};

use crate::world::World;

/// A test: what a person would say it shows, and how.
type Case = (&'static str, fn(&World));

fn main() {
    let installed = |program: &str| {
        let folders = ["/usr/bin", "/usr/sbin"].map(Path::new);
        folders.iter().any(|folder| folder.join(program).exists())
    };
    let can = nix::unistd::geteuid().is_root() && installed("dnsmasq") && installed("dig");
    if !can {
        eprintln!(
            "SKIPPED: the tests of the resolver need root, dnsmasq (package dnsmasq-base) and dig \
             (package bind9-dnsutils); none of them runs"
        );
    }
    let groups: [(&str, Vec<Case>); 4] = [
        ("local", local::cases()),
        ("services", services::cases()),
        ("forwarding", forwarding::cases()),
        ("limits", limits::cases()),
    ];
    let trials = groups.into_iter().flat_map(|(group, cases)| {
        cases
            .into_iter()
            .map(move |(name, case)| trial(&format!("{group}::{name}"), case))
    });
    let trials = trials.map(|trial| trial.with_ignored_flag(!can)).collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    let children = waitpid(None, Some(WaitPidFlag::WNOHANG));
    assert_eq!(
        children,
        Err(nix::Error::ECHILD),
        "a process is left behind"
    );
    conclusion.exit();
}

fn trial(name: &str, case: fn(&World)) -> Trial {
    Trial::test(name, move || World::run(case).map_err(Failed::from))
}
