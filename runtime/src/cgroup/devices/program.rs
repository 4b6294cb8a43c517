//! From device rules to eBPF.
//!
//! The program walks the rules from the last to the first; the first that matches decides, and no
//! match refuses. Neighbours that differ in numbers alone share what they have in common: the kernel
//! follows every branch before it accepts a program, so each that isn't there shortens a start.

use super::rules::{ALL, Rule};
use crate::sys::bpf::Instruction;

// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Both numbers in one.
const DEVICE: u8 = 6;

/// The kernel's numbers of devices have 12 and 20 bits (include/linux/kdev_t.h).
const MINOR_BITS: i32 = 20;
const MAX_MAJOR: i32 = 0xfff;
const MAX_MINOR: i32 = 0xf_ffff;

/// As many rules as jumps over all of them reach with ease.
const MAX_GROUP: usize = 1000;

// Instructions (Documentation/bpf/standardization/instruction-set.rst); all are on 32 bits.
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const OR_REGISTER: u8 = 0x4c;
const SHIFT_LEFT: u8 = 0x64;
const SHIFT_RIGHT: u8 = 0x74;
const LOAD_WORD: u8 = 0x61;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x16;
const JUMP_UNLESS_EQUAL: u8 = 0x56;

pub(super) fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // The context's first word is the kind in its low half and the access in its high half.
    let mut program = vec![
        load_word(KIND, 0),
        alu(AND, KIND, 0xffff),
        load_word(ACCESS, 0),
        alu(SHIFT_RIGHT, ACCESS, 16),
        load_word(MAJOR, 4),
        load_word(MINOR, 8),
        between(MOVE_REGISTER, DEVICE, MAJOR),
        alu(SHIFT_LEFT, DEVICE, MINOR_BITS),
        between(OR_REGISTER, DEVICE, MINOR),
    ];
    let rules: Vec<_> = rules.iter().rev().filter(|rule| can_match(rule)).collect();
    let alike = |a: &&Rule, b: &&Rule| {
        (a.allow, a.kind, a.access) == (b.allow, b.kind, b.access)
            && has_numbers(a)
            && has_numbers(b)
    };
    let groups = rules.chunk_by(alike);
    for group in groups.flat_map(|group| group.chunks(MAX_GROUP)) {
        let Some(first) = group.first() else { continue };
        program.extend(compile_group(first, group));
        if first.is_unconditional() {
            // The kernel takes no program with instructions that can't be reached.
            return program;
        }
    }
    program.extend([alu(MOVE, RESULT, 0), EXIT]);
    program
}

/// Whether there could be such a device.
fn can_match(rule: &Rule) -> bool {
    rule.major.is_none_or(|major| major <= MAX_MAJOR)
        && rule.minor.is_none_or(|minor| minor <= MAX_MINOR)
}

fn has_numbers(rule: &Rule) -> bool {
    rule.major.or(rule.minor).is_some()
}

/// Rules that have all in common with the first but the numbers of their devices.
fn compile_group(first: &Rule, group: &[&Rule]) -> Vec<Instruction> {
    let mut code = Vec::new();
    if let Some(kind) = first.kind {
        code.push(jump(JUMP_UNLESS_EQUAL, KIND, kind, TO_END));
    }
    if first.access != ALL {
        // An allowing rule must cover the whole request; a denying one applies to any part of it.
        let (mask, unless) = match first.allow {
            true => (!first.access & ALL, JUMP_UNLESS_EQUAL),
            false => (first.access, JUMP_IF_EQUAL),
        };
        code.push(between(MOVE_REGISTER, RESULT, ACCESS));
        code.push(alu(AND, RESULT, mask));
        code.push(jump(unless, RESULT, 0, TO_END));
    }
    let numbers: Vec<_> = group.iter().filter_map(|rule| match_number(rule)).collect();
    // Each jumps over those that follow and over the jump to the end.
    for (after, (register, number)) in (1..=numbers.len()).rev().zip(&numbers) {
        code.push(jump(JUMP_IF_EQUAL, *register, *number, after as i16));
    }
    if !numbers.is_empty() {
        code.push(jump(JUMP, 0, 0, TO_END));
    }
    code.extend([alu(MOVE, RESULT, i32::from(first.allow)), EXIT]);
    let length = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if instruction.offset == TO_END {
            instruction.offset = (length - at - 1) as i16;
        }
    }
    code
}

/// The register that has what tells a rule's devices, and what that is; none if all are meant.
fn match_number(rule: &Rule) -> Option<(u8, i32)> {
    match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => Some((DEVICE, major << MINOR_BITS | minor)),
        (Some(major), None) => Some((MAJOR, major)),
        (None, Some(minor)) => Some((MINOR, minor)),
        (None, None) => None,
    }
}

const EXIT: Instruction = Instruction {
    code: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

/// Stands for the distance to the next group until that is known.
const TO_END: i16 = -1;

fn jump(code: u8, register: u8, value: i32, offset: i16) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset,
        immediate: value,
    }
}

/// An operation on two registers.
fn between(code: u8, to: u8, from: u8) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset: 0,
        immediate: 0,
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
        code: LOAD_WORD,
        registers: register | CONTEXT << 4,
        offset,
        immediate: 0,
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceCgroup;

    use super::super::rules::{self, BLOCK, CHARACTER, MKNOD, READ, WRITE};
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let mut registers = [0i32; 7];
        let mut at = 0usize;
        loop {
            let step = program[at];
            at += 1;
            let (to, from) = (
                usize::from(step.registers & 15),
                usize::from(step.registers >> 4),
            );
            match step.code {
                LOAD_WORD => {
                    registers[to] = [kind | access << 16, major, minor][step.offset as usize / 4]
                }
                AND => registers[to] &= step.immediate,
                OR_REGISTER => registers[to] |= registers[from],
                SHIFT_LEFT => registers[to] <<= step.immediate,
                SHIFT_RIGHT => registers[to] >>= step.immediate,
                MOVE => registers[to] = step.immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP => at += step.offset as usize,
                JUMP_UNLESS_EQUAL if registers[to] != step.immediate => at += step.offset as usize,
                JUMP_IF_EQUAL if registers[to] == step.immediate => at += step.offset as usize,
                JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL => {}
                0x95 => return registers[0] != 0,
                other => unreachable!("{other:#x}"),
            }
        }
    }

    fn rules(json: &str) -> Vec<Rule> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        rules::of(&rules)
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
    fn numbers_are_compared_whole() {
        let program = compile(&rules(
            r#"[{"allow": true, "type": "b", "major": 4095, "minor": 1048575, "access": "rwm"},
                {"allow": true, "type": "b", "minor": 7, "access": "rwm"},
                {"allow": true, "type": "b", "major": 4096, "minor": 3, "access": "rwm"}]"#,
        ));
        assert!(decide(&program, BLOCK, READ, 4095, 1_048_575));
        assert!(decide(&program, BLOCK, READ, 259, 7));
        assert!(!decide(&program, BLOCK, READ, 0, 3));
        assert!(!decide(&program, BLOCK, READ, 4095, 1));
        assert!(!decide(&program, CHARACTER, READ, 259, 7));
    }

    #[test]
    fn a_denial_between_keeps_neighbours_apart() {
        let program = compile(&rules(
            r#"[{"allow": true, "type": "c", "major": 10, "access": "rwm"},
                {"allow": false, "type": "c", "major": 10, "minor": 1, "access": "rwm"},
                {"allow": true, "type": "c", "major": 11, "minor": 1, "access": "rwm"}]"#,
        ));
        assert!(decide(&program, CHARACTER, WRITE, 10, 2));
        assert!(!decide(&program, CHARACTER, WRITE, 10, 1));
        assert!(decide(&program, CHARACTER, WRITE, 11, 1));
    }

    #[test]
    fn any_number_of_rules_is_a_program_of_short_jumps() {
        let rule = |minor| Rule {
            allow: true,
            kind: Some(BLOCK),
            major: Some(8),
            minor: Some(minor),
            access: ALL,
        };
        let many: Vec<Rule> = (0..100_000).map(rule).collect();
        let program = compile(&many);
        assert!(decide(&program, BLOCK, READ, 8, 0));
        assert!(decide(&program, BLOCK, READ, 8, 99_999));
        assert!(!decide(&program, BLOCK, READ, 8, 100_000));
    }

    #[test]
    fn a_privileged_container_gets_no_program() {
        assert!(rules::allow_everything(&rules(
            r#"[{"allow": true, "access": "rwm"}]"#
        )));
        assert!(!rules::allow_everything(&rules(
            r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"}]"#
        )));
    }
}
