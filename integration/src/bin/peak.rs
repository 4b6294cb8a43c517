//! The most memory that a command and its processes held, in KiB: `peak COMMAND...`.
//!
//! A program of its own, because Linux counts what the caller held when it executed the command as
//! the command's: the rig would be larger than what it measures.
#![forbid(unsafe_code)]

use std::process::{Command, ExitCode, Stdio};

use nix::sys::resource::{UsageWho, getrusage};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("peak COMMAND...");
        return ExitCode::from(2);
    };
    let ended = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .status();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    match (ended, usage) {
        (Ok(status), Ok(usage)) if status.success() => {
            println!("{}", usage.max_rss());
            ExitCode::SUCCESS
        }
        (ended, _) => {
            eprintln!("peak: {ended:?}");
            ExitCode::FAILURE
        }
    }
}
