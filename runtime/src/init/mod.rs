//! What the child does between clone and exec: OCI's create and start, as a list of named steps.
//!
//! It runs on a copy of the parent's memory in which other threads may have held locks, so nothing
//! here allocates, locks or panics: it walks the [`Plan`] and makes system calls. A failure is
//! reported over the channel as (step, item, errno), which the parent turns into words.

mod copy_up;
mod devices;
mod identity;
mod mounts;
mod namespaces;
pub(crate) mod paths;
mod proc;
mod protect;
pub(crate) mod restoration;
mod root;
mod scheduling;
pub(crate) mod step;
mod terminal;

pub(crate) use identity::raise_hard_limits;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};

use self::step::{Failure, Step};
use crate::channel::{self, Report};
use crate::plan::{Filesystem, Gate, Groups, IdMaps, Plan, ProcessPlan};
use crate::sys::clone::{CloneArgs, clone3};
use crate::sys::{credentials, keyring, process, seccomp, socket};

/// The child's half of the channel, and the number of the parent's, of which a clone has a copy.
pub(crate) struct Channel<'a> {
    pub(crate) own: BorrowedFd<'a>,
    pub(crate) parents: i32,
}

/// The container's first process, or one that enters a container.
pub(crate) fn run(plan: &mut Plan, channel: &Channel) -> i32 {
    // While the parent's end were open here too, its death would not show.
    process::close_inherited(channel.parents);
    let (failure, starter) = set_up_and_execute(plan, channel.own);
    give_up(
        failure,
        starter.as_ref().map_or(channel.own, OwnedFd::as_fd),
    )
}

/// A helper that joins namespaces, clones the child into them as a sibling of itself, tells the parent
/// of it by `reports`, and leaves.
pub(crate) fn run_helper(
    plan: &mut Plan,
    channel: &Channel,
    reports: BorrowedFd,
    cgroup: Option<BorrowedFd>,
) -> i32 {
    let mut cloned = || {
        if let Some(offsets) = &plan.namespaces.time_offsets {
            namespaces::make_time_namespace(offsets)
                .map_err(Failure::of(Step::NewTimeNamespace))?;
        }
        isolate(plan.ignored_signals).map_err(Failure::of(Step::Isolate))?;
        if plan.namespaces.groups == Groups::Outside {
            credentials::set_supplementary_groups(&[]).map_err(Failure::of(Step::Groups))?;
        }
        identity::raise_hard_limits(&plan.process, 0);
        namespaces::join(&plan.namespaces.helper_joins, 0)?;
        let args = CloneArgs {
            flags: plan.namespaces.create | CloneFlags::CLONE_PARENT,
            cgroup,
        };
        clone3(&args, || run(plan, channel)).map_err(Failure::of(Step::Clone))
    };
    match cloned() {
        Ok(child) => {
            // The descriptor is the parent's too, so it stays open.
            let pidfd = child.pidfd.into_raw_fd();
            let pid = child.pid.as_raw();
            channel::report(reports, &Report::Cloned { pid, pidfd }).map_or(1, |()| 0)
        }
        Err(failure) => give_up(failure, reports),
    }
}

/// When nobody is left to be told, exiting is all there is to do: the code is the same.
fn give_up(failure: Failure, channel: BorrowedFd) -> i32 {
    channel::report(channel, &Report::Failed(failure)).map_or(1, |()| 1)
}

/// The connection over which a failure of exec is told, if it isn't the channel.
type StartConnection = Option<OwnedFd>;

/// Returns only if something failed.
fn set_up_and_execute(plan: &mut Plan, channel: BorrowedFd) -> (Failure, StartConnection) {
    let program = match set_up(plan, channel) {
        Ok(program) => program,
        Err(failure) => return (failure, None),
    };
    match wait_for_start(&plan.gate, channel) {
        Ok(starter) => (execute(&plan.process, program), starter),
        Err(errno) => (Failure::of(Step::WaitForStart)(errno), None),
    }
}

/// Everything up to the point where only `start` is missing; returns the program's place in the plan.
fn set_up(plan: &mut Plan, channel: BorrowedFd) -> Result<usize, Failure> {
    let wait_for_maps =
        || channel::wait_to_go_on(channel).map_err(Failure::of(Step::WaitForIdMaps));
    let new_user = plan.namespaces.new_user;
    if new_user == Some(IdMaps::WrittenByAnOrdinaryUser) {
        wait_for_maps()?;
    }
    isolate(plan.ignored_signals).map_err(Failure::of(Step::Isolate))?;
    if new_user == Some(IdMaps::WrittenByRoot) {
        wait_for_maps()?;
    }
    scheduling::start_on(&plan.process.scheduling)?;
    namespaces::enter(&plan.namespaces)?;
    nix::unistd::setsid().map_err(Failure::of(Step::NewSession))?;
    join_keyring(plan.process.keyring.as_deref()).map_err(Failure::of(Step::SessionKeyring))?;
    if let Some(filesystem) = &plan.filesystem {
        build_filesystem(filesystem, &plan.process, channel)?;
    } else if let Some(size) = plan.process.terminal {
        terminal::open_inside(size, channel).map_err(Failure::of(Step::Console))?;
    }
    let process = &mut plan.process;
    protect::set_apparmor_profile(process).map_err(Failure::of(Step::Apparmor))?;
    protect::set_selinux_label(process).map_err(Failure::of(Step::Selinux))?;
    terminal::place_stdio(process).map_err(Failure::of(Step::Stdio))?;
    identity::limit_resources(process)?;
    scheduling::set(&process.scheduling)?;
    receive_filter(process, channel).map_err(Failure::of(Step::ReceiveSeccomp))?;
    identity::give_up_rights(process, plan.namespaces.groups, channel)?;
    let program = identity::find_executable(process).map_err(Failure::of(Step::FindExecutable))?;
    keep_only_wanted_descriptors(process).map_err(Failure::of(Step::Descriptors))?;
    if process.parent_death_signal != 0 {
        // After the change of user, which clears it.
        credentials::set_parent_death_signal(process.parent_death_signal)
            .map_err(Failure::of(Step::ParentDeathSignal))?;
    }
    Ok(program)
}

/// Makes this copy of the parent's process unreadable to the container before it is anywhere near it
/// (CVE-2016-9962), and drops what exec would pass on.
fn isolate(ignored_signals: u64) -> nix::Result<()> {
    credentials::set_undumpable()?;
    process::reset_signals(ignored_signals)?;
    // Modes are as the plan says until the process's own mask is set.
    umask(Mode::empty());
    Ok(())
}

/// A kernel without keyrings has none that could be seen.
fn join_keyring(name: Option<&CStr>) -> nix::Result<()> {
    match name.map_or(Ok(()), keyring::join_session) {
        Err(Errno::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Mounts, devices and the rest of what the container sees; ends with it as the root.
fn build_filesystem(
    plan: &Filesystem,
    process: &ProcessPlan,
    channel: BorrowedFd,
) -> Result<(), Failure> {
    let root = plan.root.as_fd();
    root::attach(root, &plan.attach_at)?;
    mounts::mount_all(root, &plan.mounts)?;
    devices::make_nodes(root, &plan.devices)?;
    devices::make_links(root, &plan.links)?;
    if let Some(size) = process.terminal {
        terminal::open_in_root(root, size, channel).map_err(Failure::of(Step::Console))?;
    }
    if plan.parents_turn {
        channel::take_turns(channel).map_err(Failure::of(Step::ParentsTurn))?;
    }
    proc::write_sysctls(&plan.sysctls)?;
    protect::make_readonly(root, &plan.readonly_paths)?;
    protect::mask(root, &plan.masked)?;
    root::finish(root, plan)
}

/// The filter's program comes last, since the parent compiled it meanwhile.
fn receive_filter(process: &mut ProcessPlan, channel: BorrowedFd) -> nix::Result<()> {
    let Some(filter) = &mut process.seccomp else {
        return Ok(());
    };
    let buffer = seccomp::as_bytes_mut(&mut filter.buffer);
    let (length, _) = socket::receive(channel, buffer)?;
    if length == 0 {
        return Err(Errno::EPIPE);
    }
    filter
        .buffer
        .truncate(length / size_of::<seccomp::Instruction>());
    Ok(())
}

/// The last defence against a leaked descriptor (CVE-2024-21626): whatever is open beyond the
/// standard streams and those that the caller wants kept is closed by exec.
fn keep_only_wanted_descriptors(process: &ProcessPlan) -> nix::Result<()> {
    let first = 3 + process.preserve_fds;
    process::close_on_exec_from(first)?;
    for number in 3..first {
        process::keep_on_exec(number as i32)?;
    }
    Ok(())
}

fn wait_for_start(gate: &Gate, channel: BorrowedFd) -> nix::Result<StartConnection> {
    channel::report(channel, &Report::Ready)?;
    match gate {
        Gate::Open => Ok(None),
        Gate::Channel => channel::wait_to_go_on(channel).map(|()| None),
        Gate::Socket(listener) => socket::accept(listener.as_fd()).map(Some),
        Gate::SocketOnceOnRecord(listener) => {
            channel::wait_to_go_on(channel)?;
            socket::accept(listener.as_fd()).map(Some)
        }
    }
}

/// Installs the filter, unless that had to be done while we had the right to, and becomes the program.
fn execute(plan: &ProcessPlan, program: usize) -> Failure {
    if identity::filter_comes_last(plan)
        && let Err(errno) = identity::install_filter(plan)
    {
        return Failure::of(Step::Seccomp)(errno);
    }
    let errno = match plan.candidates.get(program) {
        Some(program) => process::execve(program, &plan.args, &plan.env),
        None => Errno::ENOENT,
    };
    Failure::of(Step::Exec)(errno)
}
