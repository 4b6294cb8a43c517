//! The network of tasks, over real traffic on the real kernel.
//!
//! Needs root, and touches nothing of the machine: every test runs on a thread with a network
//! namespace, which is its host, and a mount namespace of its own. One static binary; what it can
//! use of the machine, where it is there, is `nft`, as a second opinion on the firewall.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod attempt;
mod check;
mod closed;
mod crashes;
mod docker;
mod firewall;
mod firewalld;
mod host;
mod host_address;
mod isolated;
mod leaks;
mod lifecycle;
mod packet;
mod prepared;
mod public;
mod published;
mod reach;
mod security_groups;
mod spoofing;
mod user_namespaces;
mod watch;
mod world;

use std::process::ExitCode;

use berth_netns::AttachmentMode;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::world::{World, name_of};

/// A test: what a person would say it shows, and how.
type Case = (&'static str, fn(&World));

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, action, rest @ ..] = arguments.as_slice()
        && flag == "--child"
    {
        return match action.as_str() {
            "own-user-namespace" => prepared::own_user_namespace(),
            "make-without-ptrace" => user_namespaces::make_without_ptrace(),
            "make-and-stay-dumpable" => user_namespaces::make_and_stay_dumpable(),
            "make-while-its-owner-looks" => user_namespaces::make_while_its_owner_looks(),
            "look-at-memory" => match rest {
                [of, owner] => user_namespaces::look_at_memory(of, owner),
                _ => ExitCode::from(2),
            },
            "make-with-wrong-ids" => user_namespaces::make_with_wrong_ids(),
            "root-of-task" => match rest {
                [path, link] => user_namespaces::root_of_task(path, link),
                _ => ExitCode::from(2),
            },
            action => crashes::child(action, rest),
        };
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: the tests of the network need root; none of them runs");
    }
    if !leaks::nft_is_installed() {
        eprintln!("SKIPPED: nft (package nftables) is not installed; its opinion is not asked");
    }
    if !firewalld::is_installed() {
        eprintln!(
            "SKIPPED: firewalld and its bus (packages firewalld and dbus) are not installed; none of their tests runs"
        );
    }
    let groups: [(&str, Vec<Case>); 18] = [
        ("reach", reach::cases()),
        ("security_groups", security_groups::cases()),
        ("published", published::cases()),
        ("public", public::cases()),
        ("spoofing", spoofing::cases()),
        ("lifecycle", lifecycle::cases()),
        ("prepared", prepared::cases()),
        ("user_namespaces", user_namespaces::cases()),
        ("isolated", isolated::cases()),
        ("host", host::cases()),
        ("host_address", host_address::cases()),
        ("crashes", crashes::cases()),
        ("firewall", firewall::cases()),
        ("watch", watch::cases()),
        ("closed", closed::cases()),
        ("docker", docker::cases()),
        ("firewalld", firewalld::cases()),
        ("check", check::cases()),
    ];
    let trials = groups.into_iter().flat_map(|(group, cases)| {
        let modes: &[AttachmentMode] = match group {
            // What the tables are is the same in both, and what has no link.
            "isolated" | "firewall" | "watch" | "docker" | "host_address" => {
                &[AttachmentMode::Bridged]
            }
            _ => &[AttachmentMode::Bridged, AttachmentMode::Routed],
        };
        cases
            .into_iter()
            .flat_map(move |case| modes.iter().map(move |mode| trial(group, case, *mode)))
    });
    let needs_nft = [
        "nft_agrees_that_the_tables_are_ours_and_whole",
        "nft_shows_the_rules_of_groups",
        "groups_that_can_not_be_replaced_stay",
    ];
    let trials = trials.map(|trial| {
        let last = |name: &str| name.rsplit("::").next().map(str::to_owned);
        let is_it = |name: &&str| last(name) == last(trial.name());
        let of_group = |group: &&str| trial.name().starts_with(*group);
        let groups = [
            "firewall::",
            "firewalld::",
            "watch::",
            "closed::",
            "check::",
        ];
        let needs_nft = needs_nft.iter().any(is_it) || groups.iter().any(of_group);
        let needs_owned = firewall::NEED_OWNED_TABLES.iter().any(is_it);
        let skip = needs_nft && !leaks::nft_is_installed()
            || needs_owned && !firewall::kernel_has_owned_tables()
            || last(trial.name()).as_deref() == Some(lifecycle::FILLS_CONNECTIONS)
                && !lifecycle::can_fill_connections()
            || trial.name().starts_with("docker::") && !docker::is_installed()
            || trial.name().starts_with("firewalld::") && !firewalld::is_installed();
        trial.with_ignored_flag(skip || !nix::unistd::geteuid().is_root())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Almost every test runs in both modes: a task sees no difference.
fn trial(group: &str, (name, case): Case, mode: AttachmentMode) -> Trial {
    let name = format!("{group}::{}::{name}", name_of(mode));
    Trial::test(name, move || World::run(case, mode).map_err(Failed::from))
}
