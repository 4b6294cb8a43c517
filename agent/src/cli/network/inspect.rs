//! `berth network inspect`: all of one subnet, interface or security group.

use anyhow::Context;
use berth_netns::{GroupView, IdRange, InterfaceView, RuleView, Snapshot, SubnetView};
use serde_json::json;

use super::list::lower;
use super::{look, names};
use crate::config::Config;

/// The options of `berth network inspect`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        berth network inspect 4c01                       a task's interface, and the rules that hold for it\n  \
        berth network inspect eni-0a1b                   the same, by the beginning of the interface's id\n  \
        berth network inspect subnet-00000000000000001   a subnet, and who is in it\n  \
        berth network inspect sg-00000000000000001       a security group's rules and members")]
pub struct Args {
    /// A subnet's, interface's, task's or security group's id; of a task or an interface the beginning will do
    name: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(config: &Config, args: &Args) -> anyhow::Result<()> {
    let snapshot = look(config)?;
    let name = args.name.as_str();
    if name.starts_with("subnet-") {
        return subnet(&snapshot, args);
    }
    if name.starts_with("sg-") {
        let group = snapshot.group_view(&name.parse()?);
        let group = group.with_context(|| format!("there is no security group {name}"))?;
        return match args.json {
            true => print(&json!(group)),
            false => show_group(&snapshot, &group),
        };
    }
    let id = names::interface(config, &snapshot, name)?;
    let interface = snapshot.interface_view(&id).context("it has just gone")?;
    match args.json {
        true => print(&json!(interface)),
        false => show_interface(&interface),
    }
}

fn print(value: &serde_json::Value) -> anyhow::Result<()> {
    println!("{value}");
    Ok(())
}

fn field(name: &str, value: impl std::fmt::Display) {
    println!("{name:<12} {value}");
}

fn subnet(snapshot: &Snapshot, args: &Args) -> anyhow::Result<()> {
    let mut views = snapshot.subnet_views().into_iter();
    let view = views.find(|view| view.subnet_id.as_str() == args.name);
    let view = view.with_context(|| format!("there is no subnet {} on this host", args.name))?;
    if args.json {
        return print(&json!(view));
    }
    show_subnet(snapshot, &view);
    Ok(())
}

fn show_subnet(snapshot: &Snapshot, view: &SubnetView) {
    field("subnet", view.subnet_id.as_str());
    field(
        "bridge",
        format!("{} ({})", view.bridge, lower(view.bridge_state)),
    );
    field("IPv4", view.cidr);
    let ipv6 = view.ipv6_cidr.map(|cidr| cidr.to_string());
    field("IPv6", ipv6.as_deref().unwrap_or("-"));
    field("mode", lower(view.mode));
    field(
        "addresses",
        format!("{} used, {} free", view.used, view.free),
    );
    for eni in snapshot.enis() {
        if eni.subnet == view.subnet_id {
            field(
                "interface",
                format!("{} {} {}", eni.id, eni.address, eni.netns),
            );
        }
    }
}

fn show_interface(view: &InterfaceView) -> anyhow::Result<()> {
    field("interface", view.eni_id.as_str());
    field("task", &view.task);
    for address in &view.addresses {
        field("address", address);
    }
    if let Some(address) = view.public_address {
        field("public", address);
    }
    field("MAC", &view.mac);
    field(
        "subnet",
        format!("{} ({})", view.subnet_id.as_str(), lower(view.mode)),
    );
    field(
        "link",
        format!("{} ({})", view.link, lower(view.link_state)),
    );
    if let Some(IdRange { first }) = view.id_range {
        let last = first.saturating_add(IdRange::SIZE - 1);
        field("user ids", format!("{first} to {last}"));
    }
    for port in &view.published {
        field("publishes", port);
    }
    for group in &view.security_groups {
        field("group", group.as_str());
    }
    match view.missing_elements.as_slice() {
        [] => field("firewall", "has its elements"),
        missing => field(
            "firewall",
            format!("LACKS its elements in {}", missing.join(", ")),
        ),
    }
    println!();
    println!("{:<8} {:>9} {:>11}  RULE", "FOR", "PACKETS", "BYTES");
    view.rules
        .iter()
        .for_each(|rule| println!("{}", rule_line(rule)));
    Ok(())
}

fn rule_line(rule: &RuleView) -> String {
    let group = rule.group.as_ref();
    let group = group.map_or(String::new(), |group| format!(" ({group})"));
    let family = rule
        .family
        .map_or(String::new(), |family| format!(" over {family}"));
    let missing = if rule.in_kernel {
        ""
    } else {
        ", which the kernel LACKS"
    };
    format!(
        "{:<8} {:>9} {:>11}  {}{family}{group}{missing}",
        rule.direction, rule.packets, rule.bytes, rule.rule
    )
}

fn show_group(snapshot: &Snapshot, view: &GroupView) -> anyhow::Result<()> {
    field("group", view.group_id.as_str());
    for rule in &view.ingress {
        field("ingress", rule);
    }
    for rule in &view.egress {
        field("egress", rule);
    }
    for id in &view.members {
        let task = snapshot.eni(id).map(|eni| eni.netns.to_string());
        field("member", format!("{id} {}", task.unwrap_or_default()));
    }
    Ok(())
}
