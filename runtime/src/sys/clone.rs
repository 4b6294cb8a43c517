//! clone3(2): a child straight in its namespaces and its cgroup, with a pidfd.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// libc's constant is too narrow for this bit.
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// Signals that are handled get their default actions; those that are ignored stay so.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// How the child is made.
#[derive(Debug)]
pub(crate) struct CloneArgs<'a> {
    /// Namespaces to create, and `CLONE_PARENT` or `CLONE_FILES`.
    pub(crate) flags: CloneFlags,
    /// The cgroup that the child starts in, instead of its parent's.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// A child that has just been made.
#[derive(Debug)]
pub(crate) struct Cloned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Clones this process; the child runs `body`, and exits with the code that it returns.
///
/// The child has a copy of this process's memory and only the calling thread. When other threads
/// exist, they may have held locks, so `body` must only make system calls: no allocation, no locks,
/// no environment, no panics.
pub(crate) fn clone3(args: &CloneArgs, body: impl FnOnce() -> i32) -> nix::Result<Cloned> {
    let mut pidfd: i32 = -1;
    let exit_signal = match args.flags.contains(CloneFlags::CLONE_PARENT) {
        // The kernel wants none named, and gives a sibling the signal that we have ourselves.
        true => 0,
        false => Signal::SIGCHLD as u64,
    };
    let into_cgroup = match args.cgroup {
        Some(_) => CLONE_INTO_CGROUP,
        None => 0,
    };
    let mut raw = libc::clone_args {
        flags: u64::from(args.flags.bits() as u32)
            | libc::CLONE_PIDFD as u64
            | CLONE_CLEAR_SIGHAND
            | into_cgroup,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: args.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM and without a stack this behaves like fork: the child continues here
    // on a copy of our stack, and the arguments outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut raw,
            size_of::<libc::clone_args>(),
        )
    };
    match Errno::result(result)? {
        0 => exit_now(body()),
        pid => Ok(Cloned {
            pid: Pid::from_raw(pid as i32),
            // SAFETY: CLONE_PIDFD stored a new descriptor there, which only we know.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Takes over a descriptor that a helper process with our descriptor table (`CLONE_FILES`) opened.
pub(crate) fn adopt_descriptor(number: i32) -> nix::Result<OwnedFd> {
    nix::fcntl::fcntl(
        // SAFETY: borrowed only to ask the kernel whether it is open.
        unsafe { BorrowedFd::borrow_raw(number) },
        nix::fcntl::FcntlArg::F_GETFD,
    )?;
    // SAFETY: the helper opened it for us, told only us, and is gone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Leaves the process at once: no destructors, no exit handlers.
fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}
