//! Compiled filters, checked and run as the kernel does it: for tests and for the fuzzer.

use super::{
    AND, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, MAX_INSTRUCTIONS,
    RETURN,
};

/// The size of `struct seccomp_data`.
const DATA: u32 = 64;

/// A system call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) arch: u32,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    /// The word at an offset of `struct seccomp_data`; that of the instruction pointer is zero here.
    fn word(&self, offset: u32) -> u32 {
        let argument = |index: u32| self.arguments.get(index as usize).copied().unwrap_or(0);
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. if offset.is_multiple_of(8) => argument((offset - 16) / 8) as u32,
            16.. => (argument((offset - 16) / 8) >> 32) as u32,
            _ => 0,
        }
    }
}

/// The rules of `bpf_check_classic` and `seccomp_check_filter`: each jump stays inside, the last
/// instruction returns, and what is loaded is there.
pub(crate) fn check(program: &[Instruction]) -> Result<(), String> {
    if !(1..=MAX_INSTRUCTIONS).contains(&program.len()) {
        return Err(format!("{} instructions", program.len()));
    }
    for (at, step) in program.iter().enumerate() {
        let is_inside = |distance: usize| at + 1 + distance < program.len();
        let is_right = match step.code {
            LOAD => step.operand < DATA && step.operand.is_multiple_of(4),
            JUMP => is_inside(step.operand as usize),
            JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL => {
                is_inside(step.jump_true.into()) && is_inside(step.jump_false.into())
            }
            code => code == AND || code == RETURN,
        };
        if !is_right {
            return Err(format!("instruction {at}: {step:?}"));
        }
    }
    match program.last() {
        Some(last) if last.code == RETURN => Ok(()),
        last => Err(format!("ends with {last:?}")),
    }
}

/// What a program that has been checked answers.
pub(crate) fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    while let Some(step) = program.get(at) {
        at += 1;
        let is_taken = match step.code {
            LOAD => {
                accumulator = call.word(step.operand);
                continue;
            }
            AND => {
                accumulator &= step.operand;
                continue;
            }
            JUMP => {
                at += step.operand as usize;
                continue;
            }
            JUMP_EQUAL => accumulator == step.operand,
            JUMP_GREATER => accumulator > step.operand,
            JUMP_GREATER_EQUAL => accumulator >= step.operand,
            _ => return step.operand,
        };
        let (yes, no) = (step.jump_true, step.jump_false);
        at += usize::from(if is_taken { yes } else { no });
    }
    // Where the kernel's check would have refused it.
    0
}
