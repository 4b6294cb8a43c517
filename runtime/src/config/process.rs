//! The process: what it runs, as whom, with which limits and priorities.

use oci_spec::runtime::{Process, Scheduler};

use super::{Error, bounds, value};
use crate::scheduling;

/// Tells what is wrong with a process, if anything.
pub fn validate_process(process: &Process) -> Result<(), Error> {
    validate_command(process)?;
    bounds::path("process.cwd", process.cwd())?;
    if !process.cwd().is_absolute() {
        return Err(value(
            "process.cwd",
            process.cwd(),
            "must be an absolute path",
        ));
    }
    if process
        .oom_score_adj()
        .is_some_and(|score| !(-1000..=1000).contains(&score))
    {
        return Err(value(
            "process.oomScoreAdj",
            process.oom_score_adj(),
            "must be -1000 to 1000",
        ));
    }
    validate_user(process)?;
    validate_rlimits(process)?;
    if let Some(scheduler) = process.scheduler() {
        validate_scheduler(scheduler)?;
    }
    if let Some(priority) = process.io_priority()
        && !(0..=7).contains(&priority.priority())
    {
        return Err(value(
            "process.ioPriority.priority",
            priority.priority(),
            "must be 0 to 7",
        ));
    }
    validate_affinity(process)?;
    validate_console(process)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    bounds::short_text("process.selinuxLabel", &text(process.selinux_label()))?;
    bounds::short_text("process.apparmorProfile", &text(process.apparmor_profile()))
}

/// The kernel keeps a terminal's size in 16 bits each.
fn validate_console(process: &Process) -> Result<(), Error> {
    let Some(size) = process.console_size() else {
        return Ok(());
    };
    for (field, number) in [
        ("process.consoleSize.height", size.height()),
        ("process.consoleSize.width", size.width()),
    ] {
        if number > u64::from(u16::MAX) {
            return Err(value(field, number, "must be at most 65535"));
        }
    }
    Ok(())
}

fn validate_command(process: &Process) -> Result<(), Error> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::Missing {
            field: "process.args",
            expected: "the program and its arguments",
        });
    }
    check_args("process.args", args)?;
    check_env("process.env", process.env().as_deref().unwrap_or_default())
}

/// `MAX_ARG_STRLEN`, for one argument or variable with its null byte; and three quarters of the largest
/// stack, which all of them have at most (execve(2)).
const LONGEST_ARGUMENT: usize = 131_071;
const LARGEST_ARGUMENTS: usize = 6 << 20;

pub(super) fn check_args(field: &str, args: &[String]) -> Result<(), Error> {
    let mut total = 0;
    for (index, argument) in args.iter().enumerate() {
        bounds::text(&format!("{field}[{index}]"), argument, LONGEST_ARGUMENT)?;
        // With its pointer.
        total += argument.len() + 9;
    }
    match total <= LARGEST_ARGUMENTS {
        true => Ok(()),
        false => {
            let expected = format!("bytes in all: must be at most {LARGEST_ARGUMENTS}");
            Err(value(field, total, expected))
        }
    }
}

pub(super) fn check_env(field: &str, env: &[String]) -> Result<(), Error> {
    check_args(field, env)
}

/// The kernel takes the largest number for "leave it as it is", which here means the host's root.
fn validate_user(process: &Process) -> Result<(), Error> {
    let user = process.user();
    // `NGROUPS_MAX`, by chance.
    bounds::list(
        "process.user.additionalGids",
        user.additional_gids().as_deref().unwrap_or_default(),
    )?;
    let groups = user.additional_gids().iter().flatten();
    let ids = [
        ("process.user.uid", user.uid()),
        ("process.user.gid", user.gid()),
    ];
    let groups = groups.map(|gid| ("process.user.additionalGids", *gid));
    for (field, id) in ids.into_iter().chain(groups) {
        if id == u32::MAX {
            return Err(value(field, id, "is no id: they end at 4294967294"));
        }
    }
    if user.umask().is_some_and(|umask| umask > 0o777) {
        return Err(value(
            "process.user.umask",
            user.umask(),
            "must be at most 511 (0777)",
        ));
    }
    Ok(())
}

fn validate_rlimits(process: &Process) -> Result<(), Error> {
    let rlimits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in rlimits.iter().enumerate() {
        if limit.soft() > limit.hard() {
            let field = format!("process.rlimits[{index}].soft ({})", limit.typ());
            return Err(value(
                field,
                limit.soft(),
                format!("must be at most hard, {}", limit.hard()),
            ));
        }
        if rlimits
            .iter()
            .take(index)
            .any(|other| other.typ() == limit.typ())
        {
            let field = format!("process.rlimits[{index}].type");
            return Err(value(field, limit.typ(), "must not be listed twice"));
        }
    }
    Ok(())
}

/// The rules are those of sched_setattr(2); the kernel would answer any breach with a bare EINVAL.
fn validate_scheduler(scheduler: &Scheduler) -> Result<(), Error> {
    use oci_spec::runtime::LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedIso, SchedRr};
    let policy = *scheduler.policy();
    if policy == SchedIso {
        return Err(value(
            "process.scheduler.policy",
            policy,
            "is in no released kernel",
        ));
    }
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(value("process.scheduler.nice", nice, "must be -20 to 19"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    let is_real_time = matches!(policy, SchedFifo | SchedRr);
    let allowed = if is_real_time { 1..=99 } else { 0..=0 };
    if !allowed.contains(&priority) {
        let expected = if is_real_time {
            "must be 1 to 99 for this policy"
        } else {
            "is for SCHED_FIFO and SCHED_RR alone"
        };
        return Err(value("process.scheduler.priority", priority, expected));
    }
    let times = [
        scheduler.runtime().unwrap_or(0),
        scheduler.deadline().unwrap_or(0),
        scheduler.period().unwrap_or(0),
    ];
    if policy != SchedDeadline && times != [0; 3] {
        return Err(value(
            "process.scheduler.runtime, deadline, period",
            times,
            "are for SCHED_DEADLINE alone",
        ));
    }
    match policy {
        SchedDeadline => validate_deadline(times),
        _ => Ok(()),
    }
}

/// `__checkparam_dl` of kernel/sched/deadline.c; a period of zero is the deadline's.
fn validate_deadline([runtime, deadline, period]: [u64; 3]) -> Result<(), Error> {
    const LEAST: u64 = 1024;
    if runtime < LEAST || runtime > deadline {
        let expected = format!("must be {LEAST} ns to deadline, {deadline}");
        return Err(value("process.scheduler.runtime", runtime, expected));
    }
    if deadline >= 1 << 63 {
        let expected = "must be less than 2^63 ns";
        return Err(value("process.scheduler.deadline", deadline, expected));
    }
    if period != 0 && !(deadline..1 << 63).contains(&period) {
        let expected = format!("must be at least deadline, {deadline}, and less than 2^63 ns");
        return Err(value("process.scheduler.period", period, expected));
    }
    Ok(())
}

fn validate_affinity(process: &Process) -> Result<(), Error> {
    let Some(affinity) = process.exec_cpu_affinity() else {
        return Ok(());
    };
    for (field, list) in [
        ("process.execCPUAffinity.initial", affinity.initial()),
        (
            "process.execCPUAffinity.final",
            affinity.cpu_affinity_final(),
        ),
    ] {
        if let Some(list) = list
            && scheduling::parse_list(list).is_none()
        {
            return Err(value(
                field,
                list,
                "must be a list of processors such as \"0-3,7\"",
            ));
        }
    }
    Ok(())
}
