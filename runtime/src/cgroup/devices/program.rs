//! From device rules to eBPF.
//!
//! The program walks the rules from the last to the first; the first that matches decides, and no
//! match refuses.

use super::rules::{ALL, Rule};
use crate::sys::bpf::Instruction;

// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

pub(super) fn compile(rules: &[Rule]) -> Vec<Instruction> {
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
    use oci_spec::runtime::LinuxDeviceCgroup;

    use super::super::rules::{self, BLOCK, CHARACTER, MKNOD, READ, WRITE};
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
    fn a_privileged_container_gets_no_program() {
        assert!(rules::allow_everything(&rules(
            r#"[{"allow": true, "access": "rwm"}]"#
        )));
        assert!(!rules::allow_everything(&rules(
            r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"}]"#
        )));
    }
}
