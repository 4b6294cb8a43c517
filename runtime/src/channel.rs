//! What parent and child say to each other while a container is made.
//!
//! Packets over a socket pair that exec closes: an end of file after `start` means that the program
//! runs. Every packet of the child is four words, so that it is written without allocating.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::init::step::{Failure, Step};
use crate::sys::socket;

/// A packet from the child.
#[derive(Debug)]
pub(crate) enum Report {
    /// The container is set up, and waits to be started.
    Ready,
    /// A step failed; the child is exiting.
    Failed(Failure),
    /// A helper process has cloned the child that does the rest: its pid, and its pidfd's number in
    /// the table of descriptors that the helper shares with us.
    Cloned { pid: i32, pidfd: i32 },
    /// The master of the terminal.
    Console(OwnedFd),
    /// Where the filter's notifications arrive (seccomp_unotify(2)).
    SeccompListener(OwnedFd),
    /// The way to what the child becomes.
    Socket(OwnedFd),
    /// The child waits for the parent to do its part, and to be told to go on.
    ParentsTurn,
}

const READY: u32 = 1;
const FAILED: u32 = 2;
const CLONED: u32 = 3;
const CONSOLE: u32 = 4;
const SECCOMP_LISTENER: u32 = 5;
const PARENTS_TURN: u32 = 6;
const SOCKET: u32 = 7;

/// Sends a report from the child.
pub(crate) fn report(socket: BorrowedFd, report: &Report) -> nix::Result<()> {
    let words = match report {
        Report::Ready => [READY, 0, 0, 0],
        Report::Failed(failure) => [
            FAILED,
            failure.step as u32,
            failure.index,
            failure.errno as i32 as u32,
        ],
        Report::Cloned { pid, pidfd } => [CLONED, *pid as u32, *pidfd as u32, 0],
        Report::Console(_) => [CONSOLE, 0, 0, 0],
        Report::SeccompListener(_) => [SECCOMP_LISTENER, 0, 0, 0],
        Report::ParentsTurn => [PARENTS_TURN, 0, 0, 0],
        Report::Socket(_) => [SOCKET, 0, 0, 0],
    };
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let descriptor = match report {
        Report::Console(fd) | Report::SeccompListener(fd) | Report::Socket(fd) => Some(fd.as_fd()),
        _ => None,
    };
    socket::send(socket, &bytes, descriptor)
}

/// Receives the child's next report; `None` when it has closed its end.
pub(crate) fn next_report(socket: BorrowedFd) -> nix::Result<Option<Report>> {
    let mut bytes = [0; 16];
    let (length, descriptor) = match socket::receive(socket, &mut bytes) {
        // It has closed its end before it had read all that we sent, which is told once (unix_release_sock()
        // of the kernel), ahead of what it has said.
        Err(Errno::ECONNRESET) => socket::receive(socket, &mut bytes)?,
        received => received?,
    };
    if length == 0 {
        return Ok(None);
    }
    let mut words = bytes
        .chunks_exact(4)
        .filter_map(|chunk| chunk.try_into().ok());
    let mut word = || words.next().map_or(0, u32::from_ne_bytes);
    let report = match (word(), descriptor) {
        (READY, _) => Report::Ready,
        (FAILED, _) => Report::Failed(Failure {
            step: Step::from_number(word()).ok_or(Errno::EPROTO)?,
            index: word(),
            errno: Errno::from_raw(word() as i32),
        }),
        (CLONED, _) => Report::Cloned {
            pid: word() as i32,
            pidfd: word() as i32,
        },
        (CONSOLE, Some(master)) => Report::Console(master),
        (SECCOMP_LISTENER, Some(listener)) => Report::SeccompListener(listener),
        (SOCKET, Some(socket)) => Report::Socket(socket),
        (PARENTS_TURN, _) => Report::ParentsTurn,
        _ => return Err(Errno::EPROTO),
    };
    Ok(Some(report))
}

/// Waits until the child has closed its end: by executing its program, or by ending. What it says until then
/// doesn't wake us, and is there to be received.
pub(crate) fn await_end(socket: BorrowedFd) -> nix::Result<()> {
    // That the other end is closed is told unasked (poll(2)).
    let mut wait = [PollFd::new(socket, PollFlags::empty())];
    loop {
        match poll(&mut wait, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Tells the child to go on. What comes next is fixed, so the packet says nothing more.
pub(crate) fn go_on(socket: BorrowedFd) -> nix::Result<()> {
    socket::send(socket, b"!", None)
}

/// Tells the child that nothing more will come, however long it waits.
pub(crate) fn give_up(socket: BorrowedFd) -> nix::Result<()> {
    socket::shut_down_writing(socket)
}

/// In the child: lets the parent do its part, and waits until it has.
pub(crate) fn take_turns(socket: BorrowedFd) -> nix::Result<()> {
    report(socket, &Report::ParentsTurn)?;
    wait_to_go_on(socket)
}

/// In the child: waits to be told to go on. A parent that is gone is an error.
pub(crate) fn wait_to_go_on(socket: BorrowedFd) -> nix::Result<()> {
    match socket::receive(socket, &mut [0; 1])? {
        (1, _) => Ok(()),
        _ => Err(Errno::EPIPE),
    }
}
