//! Follows a command and its processes instruction by instruction, until they execute another program:
//! `steps FILE COMMAND...` writes where they have been, each address once, in the order of the first time.
//!
//! A program of its own, because what lives on when the command has ended must be let go of.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let file = words.next().context("steps FILE COMMAND...")?;
    let mut command = Command::new(words.next().context("steps FILE COMMAND...")?);
    command.args(words);
    // SAFETY: between fork and exec there is one system call.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let first = Pid::from_raw(command.spawn()?.id().cast_signed());
    let mut places = BufWriter::new(File::create(file)?);
    let code = follow(first, &mut places)?;
    places.flush()?;
    Ok(ExitCode::from(code))
}

/// Returns the command's exit code.
fn follow(first: Pid, places: &mut impl Write) -> anyhow::Result<u8> {
    waitpid(first, None)?;
    let children = [Options::PTRACE_O_TRACECLONE, Options::PTRACE_O_TRACEFORK];
    let children = children.into_iter().collect::<Options>() | Options::PTRACE_O_TRACEVFORK;
    ptrace::setoptions(first, children | Options::PTRACE_O_TRACEEXEC)?;
    step(first, None)?;
    let mut seen = HashSet::new();
    loop {
        let (pid, signal) = match waitpid(None, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(pid, code) if pid == first => return Ok(u8::try_from(code)?),
            WaitStatus::Signaled(pid, signal, _) if pid == first => {
                anyhow::bail!("the command was killed by {signal}")
            }
            // A container's program, at last. The first process executes itself again.
            WaitStatus::PtraceEvent(pid, _, event)
                if event == Event::PTRACE_EVENT_EXEC as i32 && pid != first =>
            {
                ptrace::detach(pid, None)?;
                continue;
            }
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                let place = ptrace::getregs(pid)?.rip;
                if seen.insert(place) {
                    writeln!(places, "{place:x}")?;
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, Signal::SIGSTOP) | WaitStatus::PtraceEvent(pid, ..) => {
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        step(pid, signal)?;
    }
}

/// One that is killed meanwhile is waited for as the others.
fn step(pid: Pid, signal: Option<Signal>) -> nix::Result<()> {
    match ptrace::step(pid, signal) {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}
