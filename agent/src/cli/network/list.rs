//! `berth network ls`: the subnets, and the interfaces in them.

use berth_netns::{InterfaceView, SubnetView};
use serde_json::json;

use super::look;
use crate::config::Config;

/// The options of `berth network ls`.
#[derive(clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn list(config: &Config, args: &Args) -> anyhow::Result<()> {
    let snapshot = look(config)?;
    let (subnets, interfaces) = (snapshot.subnet_views(), snapshot.interface_views());
    if args.json {
        println!("{}", json!({"subnets": subnets, "interfaces": interfaces}));
        return Ok(());
    }
    println!(
        "{:<24} {:<10} {:<18} {:<22} {:<8} {:>5} {:>5}",
        "SUBNET", "BRIDGE", "IPV4", "IPV6", "MODE", "USED", "FREE"
    );
    subnets
        .iter()
        .for_each(|subnet| println!("{}", subnet_line(subnet)));
    println!();
    println!(
        "{:<21} {:<32} {:<32} {:<17} {:<7} GROUPS",
        "INTERFACE", "TASK", "ADDRESSES", "MAC", "LINK"
    );
    interfaces
        .iter()
        .for_each(|one| println!("{}", interface_line(one)));
    Ok(())
}

fn subnet_line(subnet: &SubnetView) -> String {
    let ipv6 = subnet.ipv6_cidr.map(|cidr| cidr.to_string());
    format!(
        "{:<24} {:<10} {:<18} {:<22} {:<8} {:>5} {:>5}",
        subnet.subnet_id.as_str(),
        subnet.bridge,
        subnet.cidr.to_string(),
        ipv6.as_deref().unwrap_or("-"),
        lower(subnet.mode),
        subnet.used,
        subnet.free
    )
}

fn interface_line(interface: &InterfaceView) -> String {
    let addresses: Vec<String> = interface
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    let groups: Vec<&str> = interface
        .security_groups
        .iter()
        .map(|group| group.as_str())
        .collect();
    format!(
        "{:<21} {:<32} {:<32} {:<17} {:<7} {}",
        interface.eni_id.as_str(),
        interface.task,
        addresses.join(" "),
        interface.mac,
        lower(interface.link_state),
        groups.join(",")
    )
}

/// The name of a mode or a state.
pub(super) fn lower(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}
