//! Forwarding stops when the firewall's rules are gone: without them, nothing is routed to our subnets, nor from them.
//!
//! The firewall marks the packets that it sees with one bit ([`MARK`]), before they are routed, and rules of the
//! routing policy give those without it no route to a subnet. They are no part of nftables, so that what removes the
//! firewall's rules leaves them. What has the bit, and what the host itself sends, jumps over them and goes on with
//! whatever other rules the host has.
//!
//! | priority | | |
//! |---|---|---|
//! | 71 | from the host itself | goto 74 |
//! | 72 | marked | goto 74 |
//! | 73 | to a subnet; of IPv6, also from one | blackhole |
//! | 74 | | nothing |
//!
//! What tasks send elsewhere over IPv4 fails the check of its source (`rp_filter`): that asks for the way back, to the
//! subnet, and on our bridges and routed links it does so with the packet's mark (`src_valid_mark`). A rule for packets
//! from a subnet would be simpler, but on other links the way back is asked for without the mark, and would be closed
//! with it. IPv6 has no such check, and so such a rule.
//!
//! The table of the host's own addresses is asked before all rules, and the way back from there is one of the host's
//! own packets: this says nothing of what tasks send to the host.
#![forbid(unsafe_code)]

use ipnet::IpNet;

use crate::error::{Doing, Problems, Result};
use crate::netlink::{PolicyAction, PolicyFamily, PolicyRule, RouteSocket};
use crate::ruleset::MARK;
use crate::subnet::Subnet;

const FROM_HOST: u32 = 71;
const MARKED: u32 = 72;
const CLOSED: u32 = 73;
const END: u32 = 74;

/// Makes the rules what they should be; whether any were missing. The firewall's must be there.
pub(crate) fn ensure(routes: &mut RouteSocket, subnets: &[Subnet]) -> Result<bool> {
    let wanted = wanted(subnets);
    let there = list(routes)?;
    for rule in there.iter().filter(|rule| !wanted.contains(rule)) {
        delete(routes, rule)?;
    }
    let missing = wanted.iter().filter(|rule| !there.contains(rule));
    let missing: Vec<&PolicyRule> = missing.collect();
    // What closes comes last, so that nothing is closed that the others let pass.
    for rule in &missing {
        routes
            .add_rule(rule)
            .doing(|| format!("make the routing policy's rule {rule:?}"))?;
    }
    Ok(!missing.is_empty())
}

/// Removes them all.
pub(crate) fn remove(routes: &mut RouteSocket) -> Result<()> {
    let mut there = list(routes)?;
    there.sort_by_key(|rule| rule.action != PolicyAction::Blackhole);
    let mut problems = Problems::default();
    for rule in there {
        problems.note(delete(routes, &rule));
    }
    problems.finish("remove the rules of the routing policy")
}

fn wanted(subnets: &[Subnet]) -> Vec<PolicyRule> {
    let ranges: Vec<IpNet> = subnets.iter().flat_map(Subnet::ranges).collect();
    let families = PolicyFamily::ALL.into_iter();
    // A family without a range has no rules: the kernel may not even have the family.
    let families =
        families.filter(|family| ranges.iter().any(|net| PolicyFamily::of(*net) == *family));
    let mut rules: Vec<PolicyRule> = families.flat_map(passing).collect();
    for range in ranges {
        let closed = rule(PolicyFamily::of(range), CLOSED, PolicyAction::Blackhole);
        if range.addr().is_ipv6() {
            rules.push(PolicyRule {
                from: Some(range),
                ..closed.clone()
            });
        }
        rules.push(PolicyRule {
            to: Some(range),
            ..closed
        });
    }
    rules
}

/// What jumps over what closes.
fn passing(family: PolicyFamily) -> [PolicyRule; 3] {
    let jump = |priority| rule(family, priority, PolicyAction::Goto(END));
    [
        rule(family, END, PolicyAction::Nop),
        PolicyRule {
            from_link: Some("lo".into()),
            ..jump(FROM_HOST)
        },
        PolicyRule {
            mark: Some(MARK),
            ..jump(MARKED)
        },
    ]
}

fn rule(family: PolicyFamily, priority: u32, action: PolicyAction) -> PolicyRule {
    PolicyRule {
        family,
        priority,
        from_link: None,
        from: None,
        to: None,
        mark: None,
        action,
    }
}

fn list(routes: &mut RouteSocket) -> Result<Vec<PolicyRule>> {
    routes
        .policy_rules()
        .doing(|| "list the rules of the routing policy".into())
}

fn delete(routes: &mut RouteSocket, rule: &PolicyRule) -> Result<()> {
    routes
        .delete_rule(rule)
        .doing(|| format!("remove the routing policy's rule {rule:?}"))
}
