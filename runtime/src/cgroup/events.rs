//! `cgroup.events`: whether a cgroup has processes and whether they are frozen, and waiting for either.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Cgroup, Error, files};

const FILE: &str = "cgroup.events";

/// What the file tells.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// Processes here or below.
    Populated,
    /// All of them frozen.
    Frozen,
}

impl Event {
    fn is_in(self, text: &str) -> bool {
        let name = match self {
            Self::Populated => "populated",
            Self::Frozen => "frozen",
        };
        files::field(text, name) != 0
    }
}

pub(super) fn is(cgroup: &Cgroup, event: Event) -> Result<bool, Error> {
    Ok(event.is_in(&files::read(cgroup, FILE)?))
}

/// Waits until it is as wanted, or for so long; tells whether it is.
pub(super) fn wait(
    cgroup: &Cgroup,
    event: Event,
    wanted: bool,
    patience: Option<Duration>,
) -> Result<bool, Error> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let events = files::open_read(cgroup, FILE)?;
    loop {
        // The file is read again before each wait: reading is what arms the notification.
        let text = files::read_again(&cgroup.path, &events, FILE)?;
        if event.is_in(&text) == wanted {
            return Ok(true);
        }
        let Some(timeout) = timeout_until(deadline) else {
            return Ok(false);
        };
        let mut waits = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut waits, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(files::error(&cgroup.path, "poll", FILE, errno)),
        }
    }
}

/// The rest of the time, rounded up; nothing if it is over.
fn timeout_until(deadline: Option<Instant>) -> Option<PollTimeout> {
    let Some(deadline) = deadline else {
        return Some(PollTimeout::NONE);
    };
    let left = deadline.checked_duration_since(Instant::now())?;
    let left = left + Duration::from_millis(1);
    Some(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
}
