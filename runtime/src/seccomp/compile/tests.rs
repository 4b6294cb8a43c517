//! The compiled programs are run by a small interpreter of classic BPF.

use super::*;
use crate::seccomp::default_profile;

const EPERM: u32 = RETURN_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = RETURN_ERRNO | libc::ENOSYS as u32;

fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16.. => {
            let value = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) {
                value as u32
            } else {
                (value >> 32) as u32
            }
        }
        _ => unreachable!(),
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = program[at];
        at += 1;
        let taken = match step.code {
            LOAD => {
                accumulator = word(step.operand);
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
            RETURN => return step.operand,
            JUMP_EQUAL => accumulator == step.operand,
            JUMP_GREATER => accumulator > step.operand,
            JUMP_GREATER_EQUAL => accumulator >= step.operand,
            other => unreachable!("{other:#x}"),
        };
        at += usize::from(if taken {
            step.jump_true
        } else {
            step.jump_false
        });
    }
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
