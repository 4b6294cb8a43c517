//! `berth network`: what there is of the network, and whether something gets from one end to the other.
//!
//! It looks for itself, at the network's file, at the state folder and at the kernel, and changes nothing: it needs no
//! agent, and disturbs none.

mod check;
mod inspect;
mod list;
mod names;

use std::process::ExitCode;

use anyhow::Context;
use berth_netns::Snapshot;

use crate::config::Config;
use crate::engine::network_config;

/// The verbs of `berth network`.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// List the subnets, and the interfaces of tasks
    Ls(list::Args),
    /// Show all of a subnet, an interface, a task's interface or a security group
    Inspect(inspect::Args),
    /// Say whether traffic passes from one end to another, which rule decides, and what to do
    Check(check::Args),
}

pub fn network(config: &Config, verb: &Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Ls(args) => list::list(config, args).map(|()| ExitCode::SUCCESS),
        Verb::Inspect(args) => inspect::inspect(config, args).map(|()| ExitCode::SUCCESS),
        Verb::Check(args) => Ok(check::check(config, args)),
    }
}

/// The network as it is now.
fn look(config: &Config) -> anyhow::Result<Snapshot> {
    Snapshot::take(network_config(config)?)
        .context("looking at the network, which only root can do")
}
