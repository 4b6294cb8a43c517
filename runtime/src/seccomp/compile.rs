//! From rules to BPF: number each call, cut the numbers into ranges that are decided alike, and emit
//! a binary search over the ranges for each architecture.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::Error;
use super::syscalls::SYSCALLS;
use crate::sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// Numbers from here on are calls of the x32 ABI. They are refused: it has been dying for a decade,
/// and its calls reach kernel code that filters written for x86-64 don't expect.
const X32_FIRST: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;

const RETURN_KILL_PROCESS: u32 = 0x8000_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_LOG: u32 = 0x7ffc_0000;

/// A filter whose names are resolved to numbers: all that can be wrong with it has been found.
#[derive(Debug)]
pub(crate) struct Filter {
    default: u32,
    native: Decisions,
    /// For processes of the 32-bit architecture, if it is among the profile's.
    compat: Option<Decisions>,
}

impl Filter {
    /// Resolves a configuration's filter.
    pub(crate) fn resolve(profile: &LinuxSeccomp) -> Result<Self, Error> {
        let default = action_value(profile.default_action(), profile.default_errno_ret())?;
        let length = length_of_conditions(profile);
        if length > CERTAINLY_LONG {
            return Err(Error::TooLong { length });
        }
        let with_i386 = runs_i386(profile)?;
        let mut filter = Self {
            default,
            native: Decisions::default(),
            compat: with_i386.then(Decisions::default),
        };
        for rule in profile.syscalls().iter().flatten() {
            let action = action_value(rule.action(), rule.errno_ret())?;
            for name in rule.names() {
                let Some(&(_, native, compat)) = find(name) else {
                    refuse_silent_allow(name, action, default)?;
                    continue;
                };
                let place = |number| Place {
                    name,
                    number,
                    default,
                };
                filter.native.add(&place(native), rule, action)?;
                if let Some(decisions) = &mut filter.compat {
                    decisions.add(&place(compat), rule, action)?;
                }
            }
        }
        // To be known before there is a process; all others would be compiled once for nothing.
        if length > CERTAINLY_SHORT {
            filter.program()?;
        }
        Ok(filter)
    }

    /// Compiles it to the kernel's program.
    pub(crate) fn program(&self) -> Result<Vec<Instruction>, Error> {
        let mut program = vec![load(OFFSET_ARCH)];
        let mut body = Vec::new();
        emit_architecture(&self.native, self.default, Some(X32_FIRST), &mut body);
        // Not x86-64: over the body, by a long jump.
        program.push(jump(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0));
        program.push(always(body.len()));
        program.append(&mut body);
        if let Some(compat) = &self.compat {
            emit_architecture(compat, self.default, None, &mut body);
            program.push(jump(JUMP_EQUAL, AUDIT_ARCH_I386, 1, 0));
            program.push(always(body.len()));
            program.append(&mut body);
        }
        program.push(give(RETURN_KILL_PROCESS));
        match program.len() {
            length if length > MAX_INSTRUCTIONS => Err(Error::TooLong { length }),
            _ => Ok(program),
        }
    }
}

/// How many instructions the conditions of a filter take at most, before it is known which of its calls
/// there are.
///
/// Without conditions no filter is too long: a search over the 470 numbers of both architectures, each
/// decided otherwise than its neighbours, has less than 2,900 instructions.
fn length_of_conditions(profile: &LinuxSeccomp) -> usize {
    const ARCHITECTURES: usize = 2;
    /// A condition has six, and with its rule's action and a share of the search two more.
    const CONDITION: usize = 8;
    let rules = profile.syscalls().iter().flatten();
    let lengths = rules.map(|rule| {
        let conditions = rule.args().as_ref().map_or(0, Vec::len);
        rule.names().len().saturating_mul(conditions)
    });
    let conditions = lengths.fold(0, usize::saturating_add);
    conditions.saturating_mul(CONDITION * ARCHITECTURES)
}

/// What the conditions may take for it to be certain that the kernel takes the filter.
const CERTAINLY_SHORT: usize = MAX_INSTRUCTIONS - 2900;

/// From here on a filter isn't even looked at: names times conditions would fill memory.
const CERTAINLY_LONG: usize = 1 << 24;

/// Resolves and compiles a filter.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, Error> {
    Filter::resolve(profile)?.program()
}

/// What is to become of one call: the rules in their order, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decision {
    conditional: Vec<(Vec<LinuxSeccompArg>, u32)>,
    otherwise: u32,
}

/// Decisions by the number of the call; none means the default.
#[derive(Debug, Default)]
struct Decisions(Vec<Option<Decision>>);

/// A call on one architecture; its number is negative where there is no such call.
struct Place<'a> {
    name: &'a str,
    number: i16,
    default: u32,
}

impl Decisions {
    fn add(&mut self, place: &Place, rule: &LinuxSyscall, action: u32) -> Result<(), Error> {
        let Ok(number) = usize::try_from(place.number) else {
            return Ok(());
        };
        if self.0.len() <= number {
            self.0.resize(number + 1, None);
        }
        let Some(slot) = self.0.get_mut(number) else {
            return Ok(());
        };
        let decision = slot.get_or_insert_with(|| Decision {
            conditional: Vec::new(),
            otherwise: place.default,
        });
        add_rule(decision, place.name, rule, action)
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &Decision)> {
        let numbered = (0..).zip(&self.0);
        numbered.filter_map(|(number, decision)| Some((number, decision.as_ref()?)))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn find(name: &str) -> Option<&'static (&'static str, i16, i16)> {
    let at = SYSCALLS.binary_search_by(|entry| entry.0.cmp(name)).ok()?;
    SYSCALLS.get(at)
}

/// Profiles name calls of every architecture; one that we lack can only be passed over when it stays
/// denied.
fn refuse_silent_allow(name: &str, action: u32, default: u32) -> Result<(), Error> {
    let allows = |value| value == RETURN_ALLOW || value == RETURN_LOG;
    if allows(default) && !allows(action) {
        return Err(Error::UnknownSyscall {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn add_rule(
    decision: &mut Decision,
    name: &str,
    rule: &LinuxSyscall,
    action: u32,
) -> Result<(), Error> {
    let args = rule.args().as_deref().unwrap_or_default();
    if let Some(bad) = args.iter().find(|arg| arg.index() > 5) {
        return Err(Error::ArgumentIndex {
            name: name.to_owned(),
            index: bad.index(),
        });
    }
    if args.is_empty() {
        decision.otherwise = action;
    } else if has_repeated_index(args) {
        // runc's reading, which profiles rely on: conditions on the same argument are alternatives.
        decision
            .conditional
            .extend(args.iter().map(|arg| (vec![*arg], action)));
    } else {
        decision.conditional.push((args.to_vec(), action));
    }
    Ok(())
}

fn has_repeated_index(args: &[LinuxSeccompArg]) -> bool {
    let mut seen = 0u8;
    args.iter().any(|arg| {
        let bit = 1u8 << arg.index();
        let repeated = seen & bit != 0;
        seen |= bit;
        repeated
    })
}

/// Numbers from `first` on, up to the next range's, are decided alike.
struct Range<'a> {
    first: u32,
    leaf: Leaf<'a>,
}

#[derive(PartialEq)]
enum Leaf<'a> {
    Return(u32),
    Check(&'a Decision),
}

fn emit_architecture(
    decisions: &Decisions,
    default: u32,
    end: Option<u32>,
    out: &mut Vec<Instruction>,
) {
    out.push(load(OFFSET_NUMBER));
    emit_search(&ranges(decisions, default, end), out);
}

fn ranges(decisions: &Decisions, default: u32, end: Option<u32>) -> Vec<Range<'_>> {
    let mut ranges = Vec::new();
    let mut next = 0;
    for (number, decision) in decisions.iter() {
        if number > next {
            extend(&mut ranges, next, Leaf::Return(default));
        }
        extend(&mut ranges, number, leaf_of(decision));
        next = number + 1;
    }
    // Calls newer than the profile's newest: a filter that refuses by default says that they don't
    // exist, or programs that probe for them would take EPERM as an answer.
    let refuses = default & 0xffff_0000 == RETURN_ERRNO && !decisions.is_empty();
    let newer = if refuses {
        RETURN_ERRNO | libc::ENOSYS as u32
    } else {
        default
    };
    extend(&mut ranges, next, Leaf::Return(newer));
    if let Some(end) = end {
        extend(
            &mut ranges,
            end,
            Leaf::Return(RETURN_ERRNO | libc::ENOSYS as u32),
        );
    }
    ranges
}

fn leaf_of(decision: &Decision) -> Leaf<'_> {
    match decision.conditional.is_empty() {
        true => Leaf::Return(decision.otherwise),
        false => Leaf::Check(decision),
    }
}

fn extend<'a>(ranges: &mut Vec<Range<'a>>, first: u32, leaf: Leaf<'a>) {
    if ranges.last().is_none_or(|last| last.leaf != leaf) {
        ranges.push(Range { first, leaf });
    }
}

/// Emits the search over the ranges, with the number in the accumulator.
fn emit_search(ranges: &[Range], out: &mut Vec<Instruction>) {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let Some(middle) = right.first() else { return };
    if left.is_empty() {
        return match &middle.leaf {
            Leaf::Return(value) => out.push(give(*value)),
            Leaf::Check(decision) => emit_checks(decision, out),
        };
    }
    // A conditional jump reaches only 255 instructions, so it goes over or onto a long one.
    let mut below = Vec::new();
    emit_search(left, &mut below);
    out.push(jump(JUMP_GREATER_EQUAL, middle.first, 0, 1));
    out.push(always(below.len()));
    out.append(&mut below);
    emit_search(right, out);
}

fn emit_checks(decision: &Decision, out: &mut Vec<Instruction>) {
    for (conditions, action) in &decision.conditional {
        let mut rule = Vec::new();
        // Built from its end, so that each test knows how far the next rule is.
        rule.push(give(*action));
        for condition in conditions.iter().rev() {
            let mut test = test(condition, rule.len());
            test.append(&mut rule);
            rule = test;
        }
        out.append(&mut rule);
    }
    out.push(give(decision.otherwise));
}

/// Tests one 64-bit argument in two halves: falls through when it holds, and else jumps over itself's
/// end by `rest` instructions.
fn test(condition: &LinuxSeccompArg, rest: usize) -> Vec<Instruction> {
    use LinuxSeccompOperator as Op;
    let low = 16 + 8 * condition.index() as u32;
    let high = low + 4;
    let (value, two) = (condition.value(), condition.value_two().unwrap_or(0));
    match condition.op() {
        Op::ScmpCmpEq => equal(low, high, u64::MAX, value, rest),
        Op::ScmpCmpMaskedEq => equal(low, high, value, two, rest),
        Op::ScmpCmpNe => not_equal(low, high, value, rest),
        Op::ScmpCmpGt => ordered(low, high, value, JUMP_GREATER, true, rest),
        Op::ScmpCmpGe => ordered(low, high, value, JUMP_GREATER_EQUAL, true, rest),
        Op::ScmpCmpLe => ordered(low, high, value, JUMP_GREATER, false, rest),
        Op::ScmpCmpLt => ordered(low, high, value, JUMP_GREATER_EQUAL, false, rest),
    }
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

/// Six instructions; a false half jumps past what is left of them and past the rest of the rule.
fn equal(low: u32, high: u32, mask: u64, value: u64, rest: usize) -> Vec<Instruction> {
    let ((mask_high, mask_low), (value_high, value_low)) = (halves(mask), halves(value));
    vec![
        load(high),
        Instruction {
            code: AND,
            operand: mask_high,
            ..Default::default()
        },
        jump(JUMP_EQUAL, value_high, 0, near(3 + rest)),
        load(low),
        Instruction {
            code: AND,
            operand: mask_low,
            ..Default::default()
        },
        jump(JUMP_EQUAL, value_low, 0, near(rest)),
    ]
}

fn not_equal(low: u32, high: u32, value: u64, rest: usize) -> Vec<Instruction> {
    let (value_high, value_low) = halves(value);
    vec![
        load(high),
        jump(JUMP_EQUAL, value_high, 0, 2),
        load(low),
        jump(JUMP_EQUAL, value_low, near(rest), 0),
    ]
}

/// `compare` decides about the low half when the high ones are equal; `wanted` says whether the rule
/// holds for the greater or for the smaller.
fn ordered(
    low: u32,
    high: u32,
    value: u64,
    compare: u16,
    wanted: bool,
    rest: usize,
) -> Vec<Instruction> {
    let (value_high, value_low) = halves(value);
    let fail = near(rest);
    let (greater, smaller) = if wanted {
        (3, near(2 + rest))
    } else {
        (near(3 + rest), 2)
    };
    let (yes, no) = if wanted { (0, fail) } else { (fail, 0) };
    vec![
        load(high),
        jump(JUMP_GREATER, value_high, greater, 0),
        jump(JUMP_EQUAL, value_high, 0, smaller),
        load(low),
        jump(compare, value_low, yes, no),
    ]
}

/// A rule has at most six tests of six instructions, so its jumps are short.
fn near(distance: usize) -> u8 {
    debug_assert!(distance < 256);
    distance as u8
}

fn load(offset: u32) -> Instruction {
    Instruction {
        code: LOAD,
        operand: offset,
        ..Default::default()
    }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

fn always(distance: usize) -> Instruction {
    Instruction {
        code: JUMP,
        operand: distance as u32,
        ..Default::default()
    }
}

fn give(value: u32) -> Instruction {
    Instruction {
        code: RETURN,
        operand: value,
        ..Default::default()
    }
}

fn action_value(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    match errno {
        Some(value) if value > 4095 => Err(Error::Errno { value }),
        Some(value) if !takes_errno(action) => Err(Error::ErrnoOfAction { value, action }),
        _ => Ok(action.as_u32(errno)),
    }
}

/// Whether an action answers with an errno. The specification wants it to be an error where one is given
/// that would be passed over.
fn takes_errno(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction::{ScmpActErrno, ScmpActTrace};
    matches!(action, ScmpActErrno | ScmpActTrace)
}

/// Which architectures the profile covers; processes of another are killed.
fn runs_i386(profile: &LinuxSeccomp) -> Result<bool, Error> {
    let Some(named) = profile
        .architectures()
        .as_ref()
        .filter(|named| !named.is_empty())
    else {
        return Ok(false);
    };
    if !named
        .iter()
        .any(|arch| matches!(arch, Arch::ScmpArchX86_64 | Arch::ScmpArchNative))
    {
        let missing = named
            .iter()
            .map(Arch::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Error::Architecture { missing });
    }
    Ok(named.contains(&Arch::ScmpArchX86))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod interpreter;
#[cfg(test)]
mod tests;
