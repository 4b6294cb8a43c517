//! The compiled programs are run by a small interpreter of classic BPF.

use super::interpreter::{self, Call, check};
use super::*;
use crate::seccomp::default_profile;

const EPERM: u32 = RETURN_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = RETURN_ERRNO | libc::ENOSYS as u32;

fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let call = Call {
        arch,
        number,
        arguments,
    };
    assert_eq!(check(program), Ok(()));
    interpreter::run(program, &call)
}

fn native(profile: &LinuxSeccomp, name: &str, args: [u64; 6]) -> u32 {
    let filter = compile(profile).unwrap();
    let number = find(name).unwrap().1;
    run(&filter, AUDIT_ARCH_X86_64, number as u32, args)
}

#[test]
fn the_name_table_is_sorted_so_that_it_can_be_searched() {
    assert!(SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn every_number_of_the_default_profile_is_decided_as_its_rules_say() {
    let profile = default_profile(&[]);
    let filter = compile(&profile).unwrap();
    let allowed = &profile.syscalls().as_ref().unwrap()[0];
    for (name, number, compat) in SYSCALLS {
        if ["clone", "clone3", "personality", "socket"].contains(name) {
            continue;
        }
        let want = if allowed.names().iter().any(|n| n == name) {
            RETURN_ALLOW
        } else {
            EPERM
        };
        for (arch, number) in [(AUDIT_ARCH_X86_64, *number), (AUDIT_ARCH_I386, *compat)] {
            // Above the newest call that the profile names, a refusal says ENOSYS.
            if let Ok(number) = u32::try_from(number).map(|n| n.min(468)) {
                let got = run(&filter, arch, number, [0; 6]);
                assert!(
                    got == want || number == 468,
                    "{name} on {arch:#x}: {got:#x}"
                );
            }
        }
    }
}

#[test]
fn the_default_profile_refuses_namespaces_but_not_threads() {
    let profile = default_profile(&[]);
    let thread = 0x3d_0f00;
    assert_eq!(
        native(&profile, "clone", [thread, 0, 0, 0, 0, 0]),
        RETURN_ALLOW
    );
    assert_eq!(
        native(&profile, "clone", [0x1000_0000, 0, 0, 0, 0, 0]),
        EPERM
    );
    assert_eq!(native(&profile, "clone3", [0; 6]), ENOSYS);
    assert_eq!(native(&profile, "unshare", [0; 6]), EPERM);
    assert_eq!(
        native(&default_profile(&["CAP_SYS_ADMIN"]), "unshare", [0; 6]),
        RETURN_ALLOW
    );
    assert_eq!(
        native(&default_profile(&["CAP_SYS_ADMIN"]), "clone3", [0; 6]),
        RETURN_ALLOW
    );
}

#[test]
fn arguments_are_compared_in_all_their_64_bits() {
    let profile = default_profile(&[]);
    assert_eq!(
        native(&profile, "personality", [0x2_0008, 0, 0, 0, 0, 0]),
        RETURN_ALLOW
    );
    assert_eq!(
        native(&profile, "personality", [0x4_0000, 0, 0, 0, 0, 0]),
        EPERM
    );
    assert_eq!(
        native(&profile, "personality", [1 << 32, 0, 0, 0, 0, 0]),
        EPERM
    );
    assert_eq!(native(&profile, "socket", [1, 0, 0, 0, 0, 0]), RETURN_ALLOW);
    assert_eq!(native(&profile, "socket", [AF_VSOCK, 0, 0, 0, 0, 0]), EPERM);
}

const AF_VSOCK: u64 = 40;

#[test]
fn unknown_newer_calls_do_not_exist_and_foreign_architectures_die() {
    let filter = compile(&default_profile(&[])).unwrap();
    assert_eq!(run(&filter, AUDIT_ARCH_X86_64, 999, [0; 6]), ENOSYS);
    assert_eq!(
        run(&filter, AUDIT_ARCH_X86_64, X32_FIRST + 1, [0; 6]),
        ENOSYS
    );
    assert_eq!(run(&filter, 0xc000_00b7, 1, [0; 6]), RETURN_KILL_PROCESS);
}

fn with_rule(operator: LinuxSeccompOperator, value: u64, two: u64) -> LinuxSeccomp {
    let arg = oci_spec::runtime::LinuxSeccompArgBuilder::default()
        .index(1usize)
        .op(operator)
        .value(value)
        .value_two(two)
        .build()
        .unwrap();
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec!["read".into()])
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args(Some(vec![arg]));
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_syscalls(Some(vec![rule]));
    profile
}

#[test]
fn each_operator_means_what_it_says_around_its_edges() {
    use LinuxSeccompOperator as Op;
    let edge = 0x1_0000_0005u64;
    let near = [
        0,
        4,
        5,
        6,
        edge - 1,
        edge,
        edge + 1,
        0x2_0000_0000,
        u64::MAX,
    ];
    type Meaning = fn(u64, u64) -> bool;
    let cases: [(Op, Meaning); 6] = [
        (Op::ScmpCmpEq, |a, b| a == b),
        (Op::ScmpCmpNe, |a, b| a != b),
        (Op::ScmpCmpGt, |a, b| a > b),
        (Op::ScmpCmpGe, |a, b| a >= b),
        (Op::ScmpCmpLt, |a, b| a < b),
        (Op::ScmpCmpLe, |a, b| a <= b),
    ];
    for (operator, holds) in cases {
        let profile = with_rule(operator, edge, 0);
        for value in near {
            let want = if holds(value, edge) {
                RETURN_ALLOW
            } else {
                EPERM
            };
            let got = native(&profile, "read", [0, value, 0, 0, 0, 0]);
            assert_eq!(got, want, "{operator} {value:#x}");
        }
    }
    let masked = with_rule(Op::ScmpCmpMaskedEq, 0xff, 0x12);
    assert_eq!(
        native(&masked, "read", [0, 0xab12, 0, 0, 0, 0]),
        RETURN_ALLOW
    );
    assert_eq!(native(&masked, "read", [0, 0xab13, 0, 0, 0, 0]), EPERM);
}

#[test]
fn a_denial_of_an_unknown_call_is_refused_when_calls_are_allowed_by_default() {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec!["no_such_call".into()])
        .set_action(LinuxSeccompAction::ScmpActErrno);
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActAllow)
        .set_syscalls(Some(vec![rule]));
    assert!(matches!(
        compile(&profile),
        Err(Error::UnknownSyscall { .. })
    ));
}

#[test]
fn a_filter_that_is_too_long_is_refused_when_it_is_resolved() {
    let mut profile = with_rule(LinuxSeccompOperator::ScmpCmpEq, 5, 0);
    let rule = profile.syscalls().as_ref().unwrap()[0].clone();
    profile.set_syscalls(Some(vec![rule.clone(); 500]));
    Filter::resolve(&profile).unwrap().program().unwrap();
    profile.set_syscalls(Some(vec![rule; 600]));
    let refused = Filter::resolve(&profile).unwrap_err();
    assert!(
        matches!(refused, Error::TooLong { length: 4097.. }),
        "{refused}"
    );
}

#[test]
fn a_filter_without_conditions_is_never_too_long() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    // Each number decided otherwise than the one before it, of both architectures.
    let mut profile = LinuxSeccomp::default();
    let mut numbers: Vec<_> = SYSCALLS.iter().collect();
    numbers.sort_by_key(|known| known.1);
    let rules = numbers.iter().enumerate().map(|(at, known)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec![known.0.to_owned()])
            .set_action(if at % 2 == 0 {
                ScmpActAllow
            } else {
                ScmpActErrno
            })
            .set_errno_ret((at % 2 == 1).then_some(at as u32));
        rule
    });
    let rules = rules.collect();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActTrap)
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]))
        .set_syscalls(Some(rules));
    let length = Filter::resolve(&profile).unwrap().program().unwrap().len();
    assert!(length < 2900, "{length}");
}
