//! The compiler of system call filters against a reading of the profile that knows nothing of BPF.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::seccomp::interpreter::{Call, check, run};
use crate::seccomp::{self, Filter, SYSCALLS};

const ACTIONS: [LinuxSeccompAction; 9] = [
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActTrap,
    LinuxSeccompAction::ScmpActNotify,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActLog,
];

const OPERATORS: [LinuxSeccompOperator; 7] = [
    LinuxSeccompOperator::ScmpCmpNe,
    LinuxSeccompOperator::ScmpCmpLt,
    LinuxSeccompOperator::ScmpCmpLe,
    LinuxSeccompOperator::ScmpCmpEq,
    LinuxSeccompOperator::ScmpCmpGe,
    LinuxSeccompOperator::ScmpCmpGt,
    LinuxSeccompOperator::ScmpCmpMaskedEq,
];

const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// Makes a profile of the bytes, compiles it, has it checked as the kernel would, and runs it on the
/// calls that its rules are about.
pub fn filter(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let profile = profile(&mut bytes);
    let filter = match Filter::resolve(&profile) {
        Ok(filter) => filter,
        Err(error) => return super::said(&error),
    };
    // Nothing can be wrong with what could be resolved: the container is there by then.
    #[allow(clippy::expect_used)]
    let program = filter.program().expect("a resolved filter compiles");
    assert_eq!(check(&program), Ok(()));
    let with_i386 = profile
        .architectures()
        .iter()
        .flatten()
        .any(|arch| *arch == Arch::ScmpArchX86);
    for arch in [X86_64, I386] {
        let reading = Reading::of(&profile, arch);
        for call in reading.calls() {
            let expected = match arch == X86_64 || with_i386 {
                true => reading.decide(&call),
                // Processes of an architecture that the profile doesn't cover are killed.
                false => 0x8000_0000,
            };
            assert_eq!(run(&program, &call), expected, "{call:x?} {profile:?}");
        }
    }
    // What the checks of a configuration say must be said of whatever compiles, too.
    let _checked = seccomp::check(&profile).is_ok();
}

/// Bytes that end in zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number of one of the sizes that arguments have, at whose edges comparisons go wrong.
    fn long(&mut self) -> u64 {
        match self.byte() {
            form @ 0..64 => 1u64 << form,
            form @ 64..128 => (1u64 << (form - 64)).wrapping_sub(1),
            128..192 => u64::from(self.byte()),
            192..224 => u64::from(self.short()) << 32 | u64::from(self.short()),
            _ => {
                let mut all = [0; 8];
                all.fill_with(|| self.byte());
                u64::from_le_bytes(all)
            }
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = usize::from(self.byte()) % from.len().max(1);
        from.get(at).copied()
    }
}

fn profile(bytes: &mut Bytes) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    let default = bytes.pick(&ACTIONS).unwrap_or_default();
    let form = bytes.byte();
    let mut architectures = vec![Arch::ScmpArchX86_64];
    if form & 1 != 0 {
        architectures.push(Arch::ScmpArchX86);
    }
    profile
        .set_default_action(default)
        .set_architectures((form & 2 == 0).then_some(architectures))
        .set_default_errno_ret((form & 4 != 0).then(|| u32::from(bytes.short())))
        .set_listener_path((form & 8 != 0).then(|| "/run/listener".into()));
    let mut rules = Vec::new();
    while !bytes.is_empty() {
        rules.push(rule(bytes));
    }
    profile.set_syscalls(Some(rules));
    profile
}

fn rule(bytes: &mut Bytes) -> LinuxSyscall {
    let form = bytes.byte();
    let name = |bytes: &mut Bytes| {
        let at = usize::from(bytes.short()) % (SYSCALLS.len() + 1);
        SYSCALLS
            .get(at)
            .map_or("of_another_kernel", |known| known.0)
            .to_owned()
    };
    let names = (0..=form & 3).map(|_| name(bytes)).collect();
    let arguments = (0..(form >> 2) & 7)
        .map(|_| argument(bytes))
        .collect::<Vec<_>>();
    let mut rule = LinuxSyscall::default();
    rule.set_names(names)
        .set_action(bytes.pick(&ACTIONS).unwrap_or_default())
        .set_errno_ret((form & 32 != 0).then(|| u32::from(bytes.short())))
        .set_args((!arguments.is_empty()).then_some(arguments));
    rule
}

fn argument(bytes: &mut Bytes) -> LinuxSeccompArg {
    let form = bytes.byte();
    let built = LinuxSeccompArgBuilder::default()
        .index(usize::from(form & 7))
        .op(bytes.pick(&OPERATORS).unwrap_or_default())
        .value(bytes.long())
        .value_two(bytes.long())
        .build();
    #[allow(clippy::expect_used)]
    built.expect("every field is given")
}

fn number_of(name: &str, arch: u32) -> Option<u32> {
    let at = SYSCALLS.binary_search_by(|known| known.0.cmp(name)).ok()?;
    let (_, native, compat) = SYSCALLS.get(at)?;
    u32::try_from(if arch == X86_64 { *native } else { *compat }).ok()
}

/// A profile as one architecture reads it.
struct Reading<'a> {
    arch: u32,
    default: u32,
    /// Each rule with the numbers that it is about.
    rules: Vec<(Vec<u32>, &'a LinuxSyscall)>,
    newest: Option<u32>,
}

impl<'a> Reading<'a> {
    fn of(profile: &'a LinuxSeccomp, arch: u32) -> Self {
        let numbers = |rule: &LinuxSyscall| {
            let names = rule.names().iter();
            names
                .filter_map(|name| number_of(name, arch))
                .collect::<Vec<_>>()
        };
        let rules = profile.syscalls().iter().flatten();
        let rules: Vec<_> = rules.map(|rule| (numbers(rule), rule)).collect();
        Self {
            arch,
            default: profile.default_action().as_u32(profile.default_errno_ret()),
            newest: rules.iter().flat_map(|(numbers, _)| numbers).max().copied(),
            rules,
        }
    }

    /// The calls that the rules name, each with arguments on both sides of what it is compared with; and
    /// some that no rule names.
    fn calls(&self) -> Vec<Call> {
        let call = |number, arguments| Call {
            arch: self.arch,
            number,
            arguments,
        };
        let mut calls: Vec<_> = [0, 1, 300, 511, 0x4000_0000, u32::MAX]
            .map(|number| call(number, [0; 6]))
            .into();
        for (numbers, rule) in &self.rules {
            for arguments in around(rule) {
                calls.extend(numbers.iter().map(|number| call(*number, arguments)));
            }
        }
        calls
    }

    /// What the profile says of a call: the first rule whose conditions hold, else the last that has
    /// none, else the default; and calls beyond the newest that it names don't exist, where the default
    /// refuses.
    fn decide(&self, call: &Call) -> u32 {
        if call.arch == X86_64 && call.number >= 0x4000_0000 {
            return ENOSYS;
        }
        let (mut conditional, mut otherwise) = (None, None);
        let about_it = |(numbers, _): &&(Vec<u32>, _)| numbers.contains(&call.number);
        for (_, rule) in self.rules.iter().filter(about_it) {
            let action = rule.action().as_u32(rule.errno_ret());
            match rule.args().as_deref().unwrap_or_default() {
                [] => otherwise = Some(action),
                arguments if all_hold(arguments, call) => {
                    conditional = conditional.or(Some(action));
                }
                _ => {}
            }
        }
        let refuses = self.default & 0xffff_0000 == 0x0005_0000;
        let is_newer = self.newest.is_some_and(|newest| call.number > newest);
        match conditional.or(otherwise) {
            Some(action) => action,
            None if refuses && is_newer => ENOSYS,
            None => self.default,
        }
    }
}

/// Arguments that meet a rule's conditions, and some that miss one of them by a little.
fn around(rule: &LinuxSyscall) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6]];
    let mut exact = [0; 6];
    for argument in rule.args().iter().flatten() {
        let wanted = match argument.op() {
            LinuxSeccompOperator::ScmpCmpMaskedEq => argument.value_two().unwrap_or(0),
            _ => argument.value(),
        };
        let Some(place) = exact.get_mut(argument.index()) else {
            continue;
        };
        *place = wanted;
        for near in [
            wanted.wrapping_sub(1),
            wanted.wrapping_add(1),
            wanted ^ 1 << 32,
        ] {
            let mut arguments = exact;
            if let Some(place) = arguments.get_mut(argument.index()) {
                *place = near;
            }
            all.push(arguments);
        }
    }
    all.push(exact);
    all
}

/// All conditions of a rule; those on one argument that is named twice are alternatives.
fn all_hold(arguments: &[LinuxSeccompArg], call: &Call) -> bool {
    let repeats = (0..6).any(|index| {
        let of_it = |argument: &&LinuxSeccompArg| argument.index() == index;
        arguments.iter().filter(of_it).count() > 1
    });
    let mut held = arguments.iter().map(|argument| holds(argument, call));
    match repeats {
        true => held.any(|held| held),
        false => held.all(|held| held),
    }
}

fn holds(argument: &LinuxSeccompArg, call: &Call) -> bool {
    let given = call.arguments.get(argument.index()).copied().unwrap_or(0);
    let (value, two) = (argument.value(), argument.value_two().unwrap_or(0));
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => given != value,
        LinuxSeccompOperator::ScmpCmpLt => given < value,
        LinuxSeccompOperator::ScmpCmpLe => given <= value,
        LinuxSeccompOperator::ScmpCmpEq => given == value,
        LinuxSeccompOperator::ScmpCmpGe => given >= value,
        LinuxSeccompOperator::ScmpCmpGt => given > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => given & value == two,
    }
}
