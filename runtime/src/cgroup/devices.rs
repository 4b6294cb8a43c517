//! Which devices a cgroup's processes may open or create: an eBPF program that the kernel asks.
//!
//! The program walks the rules from the last to the first; the first that matches decides, and no
//! match refuses.

use std::os::fd::AsFd;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, Error};
use crate::sys::bpf::{Instruction, attach_device_program, load_device_program};

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// One rule with its wildcards open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None` is both.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn is_unconditional(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, ALL)
    }
}

/// What every container may do, whatever its configuration says: make any node, and use the devices
/// that OCI lists as supplied by default.
const DEFAULTS: [Rule; 11] = [
    Rule {
        allow: true,
        kind: Some(CHARACTER),
        major: None,
        minor: None,
        access: MKNOD,
    },
    Rule {
        allow: true,
        kind: Some(BLOCK),
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

/// Installs the filter, unless the rules allow everything.
pub(super) fn attach(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    let rules = merge(rules.iter().map(parse).chain(DEFAULTS));
    if allows_everything(&rules) {
        return Ok(());
    }
    let failed = |call| {
        move |errno| Error::Devices {
            call,
            path: cgroup.path.clone(),
            errno,
        }
    };
    let program = load_device_program(&compile(&rules)).map_err(failed("load"))?;
    attach_device_program(cgroup.directory(), program.as_fd()).map_err(failed("attach"))
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
fn allows_everything(rules: &[Rule]) -> bool {
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

// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // The context's first word is the kind in its low half and the access in its high half.
    let mut program = vec![
        load_word(KIND, 0),
        alu(0x54, KIND, 0xffff),
        load_word(ACCESS, 0),
        alu(0x74, ACCESS, 16),
        load_word(MAJOR, 4),
        load_word(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(rule));
        if rule.is_unconditional() {
            // The kernel takes no program with instructions that can't be reached.
            return program;
        }
    }
    program.extend([alu(0xb7, RESULT, 0), EXIT]);
    program
}

const EXIT: Instruction = Instruction {
    code: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

fn compile_rule(rule: &Rule) -> Vec<Instruction> {
    // From its end, so that each test knows how far the next rule is.
    let mut code = vec![alu(0xb7, RESULT, i32::from(rule.allow)), EXIT];
    let mut prepend = |mut test: Vec<Instruction>| {
        test.append(&mut code);
        code = test;
    };
    for (register, wanted) in [(MINOR, rule.minor), (MAJOR, rule.major), (KIND, rule.kind)] {
        if let Some(wanted) = wanted {
            prepend(vec![jump_to_end(0x55, register, wanted)]);
        }
    }
    if rule.access != ALL {
        // An allowing rule must cover the whole request; a denying one applies to any part of it.
        let (mask, jump) = if rule.allow {
            (!rule.access & ALL, 0x55)
        } else {
            (rule.access, 0x15)
        };
        let copy = Instruction {
            code: 0xbc,
            registers: RESULT | ACCESS << 4,
            offset: 0,
            immediate: 0,
        };
        prepend(vec![
            copy,
            alu(0x54, RESULT, mask),
            jump_to_end(jump, RESULT, 0),
        ]);
    }
    let length = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if instruction.offset == TO_END {
            instruction.offset = (length - at - 1) as i16;
        }
    }
    code
}

/// Stands for the distance to the next rule until that is known.
const TO_END: i16 = -1;

fn jump_to_end(code: u8, register: u8, value: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: TO_END,
        immediate: value,
    }
}

fn alu(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        immediate,
    }
}

fn load_word(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: 0x61,
        registers: register | CONTEXT << 4,
        offset,
        immediate: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let mut registers = [0i32; 6];
        let mut at = 0usize;
        loop {
            let step = program[at];
            at += 1;
            let (to, from) = (
                usize::from(step.registers & 15),
                usize::from(step.registers >> 4),
            );
            match step.code {
                0x61 => {
                    registers[to] = [kind | access << 16, major, minor][step.offset as usize / 4]
                }
                0x54 => registers[to] &= step.immediate,
                0x74 => registers[to] >>= step.immediate,
                0xb7 => registers[to] = step.immediate,
                0xbc => registers[to] = registers[from],
                0x55 if registers[to] != step.immediate => at += step.offset as usize,
                0x15 if registers[to] == step.immediate => at += step.offset as usize,
                0x55 | 0x15 => {}
                0x95 => return registers[0] != 0,
                other => unreachable!("{other:#x}"),
            }
        }
    }

    fn rules(json: &str) -> Vec<Rule> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        merge(rules.iter().map(parse).chain(DEFAULTS))
    }

    #[test]
    fn without_rules_the_default_devices_work_and_disks_do_not() {
        let program = compile(&rules("[]"));
        assert!(decide(&program, CHARACTER, READ | WRITE, 1, 3));
        assert!(decide(&program, CHARACTER, READ | WRITE, 136, 7));
        assert!(decide(&program, BLOCK, MKNOD, 8, 0));
        assert!(!decide(&program, BLOCK, READ, 8, 0));
        assert!(!decide(&program, BLOCK, READ | MKNOD, 8, 0));
        assert!(!decide(&program, CHARACTER, READ, 1, 1));
    }

    #[test]
    fn later_rules_win_and_access_is_exact() {
        let program = compile(&rules(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
                {"allow": true, "type": "b", "major": 8, "access": "rw"},
                {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"}]"#,
        ));
        assert!(decide(&program, CHARACTER, READ, 10, 229));
        assert!(!decide(&program, CHARACTER, READ | WRITE, 10, 229));
        assert!(decide(&program, BLOCK, READ | WRITE, 8, 0));
        assert!(decide(&program, BLOCK, READ, 8, 1));
        assert!(!decide(&program, BLOCK, READ | WRITE, 8, 1));
    }

    #[test]
    fn accesses_given_in_two_rules_can_be_used_at_once() {
        let program = compile(&rules(
            r#"[{"allow": true, "type": "c", "major": 10, "minor": 1, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "minor": 1, "access": "w"}]"#,
        ));
        assert!(decide(&program, CHARACTER, READ | WRITE, 10, 1));
    }

    #[test]
    fn a_privileged_container_gets_no_program() {
        assert!(allows_everything(&rules(
            r#"[{"allow": true, "access": "rwm"}]"#
        )));
        assert!(!allows_everything(&rules(
            r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"}]"#
        )));
    }
}
