//! Device rules: the configuration's, and those of every container.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

pub(super) const BLOCK: i32 = 1;
pub(super) const CHARACTER: i32 = 2;
pub(super) const MKNOD: i32 = 1;
pub(super) const READ: i32 = 2;
pub(super) const WRITE: i32 = 4;
pub(super) const ALL: i32 = MKNOD | READ | WRITE;

/// One rule with its wildcards open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `None` is both.
    pub(super) kind: Option<i32>,
    pub(super) major: Option<i32>,
    pub(super) minor: Option<i32>,
    pub(super) access: i32,
}

impl Rule {
    pub(super) fn is_unconditional(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, ALL)
    }
}

/// What every container may do, whatever its configuration says: make any node, and use the devices
/// that OCI lists as supplied by default.
const DEFAULTS: [Rule; 10] = [
    Rule {
        allow: true,
        kind: None,
        major: None,
        minor: None,
        access: MKNOD,
    },
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(1)),
    character(5, Some(2)),
    character(136, None),
];

const fn character(major: i32, minor: Option<i32>) -> Rule {
    Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: Some(major),
        minor,
        access: ALL,
    }
}

/// The rules of a configuration and those of every container, in order: a later one wins, so the
/// defaults can't be taken away.
pub(super) fn of(rules: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    merge(rules.iter().map(parse).chain(DEFAULTS))
}

fn parse(rule: &LinuxDeviceCgroup) -> Rule {
    let number = |value: Option<i64>| {
        value
            .filter(|n| *n >= 0)
            .and_then(|n| i32::try_from(n).ok())
    };
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        _ => None,
    };
    Rule {
        allow: rule.allow(),
        kind,
        // A rule for both kinds is for all devices: v1 ignores its numbers.
        major: kind.and(number(rule.major())),
        minor: kind.and(number(rule.minor())),
        access: access_bits(rule.access().as_deref()),
    }
}

fn access_bits(access: Option<&str>) -> i32 {
    let bit = |letter, bit| {
        if access.is_some_and(|a| a.contains(letter)) {
            bit
        } else {
            0
        }
    };
    match access {
        None | Some("") => ALL,
        Some(_) => bit('m', MKNOD) | bit('r', READ) | bit('w', WRITE),
    }
}

/// Two rules in a row that allow different accesses to one device allow both at once, too.
fn merge(rules: impl Iterator<Item = Rule>) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::new();
    for rule in rules {
        match merged.last_mut() {
            Some(last)
                if Rule {
                    access: rule.access,
                    ..*last
                } == rule =>
            {
                last.access |= rule.access
            }
            _ => merged.push(rule),
        }
    }
    merged
}

/// Whether the last wildcard rule allows all and nothing after it denies.
pub(super) fn allow_everything(rules: &[Rule]) -> bool {
    for rule in rules.iter().rev() {
        if !rule.allow {
            return false;
        }
        if rule.is_unconditional() {
            return true;
        }
    }
    false
}
