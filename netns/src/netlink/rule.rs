//! Rules of the routing policy: which of a host's routing tables are asked for a packet, if any.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::frame::{Attributes, flags};
use super::route::{Request, RouteSocket};
use super::{NetlinkError, Socket};

/// What our rules say of who made them: a number that no routing daemon has.
const OURS: u8 = 190;

/// The numbers of `linux/fib_rules.h`, which libc doesn't have.
mod uapi {
    pub(super) const FRA_DST: u16 = 1;
    pub(super) const FRA_SRC: u16 = 2;
    pub(super) const FRA_IIFNAME: u16 = 3;
    pub(super) const FRA_GOTO: u16 = 4;
    pub(super) const FRA_PRIORITY: u16 = 6;
    pub(super) const FRA_FWMARK: u16 = 10;
    pub(super) const FRA_PROTOCOL: u16 = 21;
    pub(super) const FR_ACT_GOTO: u8 = 2;
    pub(super) const FR_ACT_NOP: u8 = 3;
    /// The groups RTNLGRP_IPV4_RULE and RTNLGRP_IPV6_RULE, of `linux/rtnetlink.h`.
    pub(super) const GROUPS: u32 = 1 << 7 | 1 << 18;
}

/// A family of IP, each of which has rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl PolicyFamily {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of a range.
    pub(crate) fn of(range: IpNet) -> Self {
        match range {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    fn number(self) -> AddressFamily {
        match self {
            Self::Ipv4 => AddressFamily::Inet,
            Self::Ipv6 => AddressFamily::Inet6,
        }
    }
}

/// A rule of ours: for packets that meet all its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Of which packets' addresses.
    pub family: PolicyFamily,
    /// Rules are asked from the lowest on.
    pub priority: u32,
    /// Of packets that come from this link; `lo` is the host itself.
    pub from_link: Option<String>,
    /// Of packets from this range.
    pub from: Option<IpNet>,
    /// Of packets to this range.
    pub to: Option<IpNet>,
    /// Of packets whose mark has all these bits.
    pub mark: Option<u32>,
    /// What happens to them.
    pub action: PolicyAction,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyAction {
    /// The rules from this priority on are asked next.
    Goto(u32),
    /// The next rule is asked.
    Nop,
    /// There is no route; the packet goes without a word.
    Blackhole,
}

impl PolicyRule {
    /// Makes the rule. One that is there already is refused with `EEXIST`.
    fn add(&self) -> Request {
        Request::change(
            RouteNetlinkMessage::NewRule(self.message()),
            flags::CREATE | flags::EXCL,
        )
    }

    fn delete(&self) -> Request {
        Request::change(RouteNetlinkMessage::DelRule(self.message()), 0)
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.number();
        message.header.action = match self.action {
            PolicyAction::Goto(_) => RuleAction::Goto,
            PolicyAction::Nop => RuleAction::Nop,
            PolicyAction::Blackhole => RuleAction::Blackhole,
        };
        let mut attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Protocol(RouteProtocol::Other(OURS)),
        ];
        if let PolicyAction::Goto(target) = self.action {
            attributes.push(RuleAttribute::Goto(target));
        }
        if let Some(link) = &self.from_link {
            attributes.push(RuleAttribute::Iifname(link.clone()));
        }
        if let Some(range) = self.from {
            message.header.src_len = range.prefix_len();
            attributes.push(RuleAttribute::Source(range.network()));
        }
        if let Some(range) = self.to {
            message.header.dst_len = range.prefix_len();
            attributes.push(RuleAttribute::Destination(range.network()));
        }
        if let Some(bits) = self.mark {
            attributes.extend([RuleAttribute::FwMark(bits), RuleAttribute::FwMask(bits)]);
        }
        message.attributes = attributes;
        message
    }

    /// Reads a rule, if it is one of ours.
    fn read(payload: &[u8]) -> Option<Self> {
        let header: &[u8; 12] = payload.first_chunk()?;
        let [family, to_length, from_length, _, _, _, _, action, ..] = *header;
        let family = match i32::from(family) {
            libc::AF_INET => PolicyFamily::Ipv4,
            libc::AF_INET6 => PolicyFamily::Ipv6,
            _ => return None,
        };
        let attribute = |wanted: u16| {
            let mut all = Attributes(payload.get(12..)?);
            all.find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| value)
        };
        let number = |kind| Some(u32::from_ne_bytes(attribute(kind)?.try_into().ok()?));
        if attribute(uapi::FRA_PROTOCOL)? != [OURS] {
            return None;
        }
        let action = match action {
            uapi::FR_ACT_GOTO => PolicyAction::Goto(number(uapi::FRA_GOTO)?),
            uapi::FR_ACT_NOP => PolicyAction::Nop,
            _ => PolicyAction::Blackhole,
        };
        let link = attribute(uapi::FRA_IIFNAME).map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        let to = attribute(uapi::FRA_DST).map(|address| range(address, to_length));
        let from = attribute(uapi::FRA_SRC).map(|address| range(address, from_length));
        Some(Self {
            family,
            priority: number(uapi::FRA_PRIORITY)?,
            from_link: link.map(|name| String::from_utf8_lossy(name).into_owned()),
            from: from.flatten(),
            to: to.flatten(),
            mark: number(uapi::FRA_FWMARK).filter(|bits| *bits != 0),
            action,
        })
    }
}

fn range(address: &[u8], length: u8) -> Option<IpNet> {
    let ipv4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
    let ipv6 = <[u8; 16]>::try_from(address).map(IpAddr::from);
    IpNet::new(ipv4.or(ipv6).ok()?, length).ok()
}

impl RouteSocket {
    /// Makes a rule; it may be there already.
    pub(crate) fn add_rule(&mut self, rule: &PolicyRule) -> Result<(), NetlinkError> {
        match self.send(&[rule.add()]) {
            Err(error) if error.errno == Errno::EEXIST => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes a rule; it may be gone already.
    pub fn delete_rule(&mut self, rule: &PolicyRule) -> Result<(), NetlinkError> {
        match self.send(&[rule.delete()]) {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            outcome => outcome,
        }
    }

    /// The rules that are ours, of both families.
    pub fn policy_rules(&mut self) -> Result<Vec<PolicyRule>, NetlinkError> {
        let message = RuleMessage::default();
        let payloads = self.ask(&Request::list(RouteNetlinkMessage::GetRule(message)))?;
        let rules = payloads
            .iter()
            .filter_map(|payload| PolicyRule::read(payload));
        Ok(rules.collect())
    }
}

/// Hears when rules of ours are removed.
#[derive(Debug)]
pub(crate) struct PolicyWatch(Socket);

impl PolicyWatch {
    /// From now on, in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::subscribe(SockProtocol::NetlinkRoute, uapi::GROUPS)?;
        Ok(Self(socket))
    }

    /// Whether any was, or may have been, as far as has been told.
    pub(crate) fn has_heard(&mut self) -> Result<bool, NetlinkError> {
        self.0.has_heard(|(kind, payload)| {
            *kind == libc::RTM_DELRULE && PolicyRule::read(payload).is_some()
        })
    }
}

impl AsFd for PolicyWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        let rule = PolicyRule {
            family: PolicyFamily::Ipv4,
            priority: 72,
            from_link: Some("berth0".into()),
            from: Some("10.231.4.0/22".parse().expect("a network")),
            to: Some("10.231.0.0/24".parse().expect("a network")),
            mark: Some(0x10),
            action: PolicyAction::Goto(74),
        };
        let nop = PolicyRule {
            family: PolicyFamily::Ipv6,
            from_link: None,
            from: Some("fd00::/64".parse().expect("a network")),
            to: None,
            mark: None,
            action: PolicyAction::Nop,
            ..rule.clone()
        };
        for rule in [rule, nop] {
            let payload = rule.add().frame().payload;
            assert_eq!(PolicyRule::read(&payload), Some(rule));
        }
    }
}
