//! What ends a watch, from any thread, and how a watch waits until then.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};

/// What ends a watch, from any thread.
#[derive(Debug, Clone)]
pub struct WatchStop(Arc<EventFd>);

/// Why a watch woke up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Stopped,
    /// Something is to be read from this one, by its place.
    Ready(usize),
    /// Nothing was, in all that time.
    Nothing,
}

impl WatchStop {
    pub(crate) fn new() -> Result<Self> {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = stop.map_err(|errno| Error::io("make what ends a watch", errno))?;
        Ok(Self(Arc::new(stop)))
    }

    /// Ends it, soon: what it is just doing comes to its end.
    pub fn stop(&self) -> Result<()> {
        let told = self.0.write(1).map(drop);
        told.map_err(|errno| Error::io("stop a watch", errno))
    }

    /// Waits until one of these can be read, of several the first, or patience ends.
    pub(crate) fn wait<const N: usize>(
        &self,
        sources: [BorrowedFd<'_>; N],
        patience: Option<Duration>,
    ) -> Result<Woken, Errno> {
        let timeout = patience.map_or(PollTimeout::NONE, rounded_up);
        let mut stop_and_sources: Vec<PollFd<'_>> = std::iter::once(self.0.as_fd())
            .chain(sources)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        while let Err(errno) = poll(&mut stop_and_sources, timeout) {
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
        // What only a newer kernel could have said of it is news, too.
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(match stop_and_sources.iter().position(is_ready) {
            Some(0) => Woken::Stopped,
            Some(place) => Woken::Ready(place - 1),
            None => Woken::Nothing,
        })
    }

    /// Whether the watch is stopped within that time, which passes otherwise.
    pub(crate) fn comes_within(&self, time: Duration) -> bool {
        let mut stop = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // A signal only shortens it.
        poll(&mut stop, rounded_up(time)).is_ok_and(|ready| ready > 0)
    }
}

fn rounded_up(duration: Duration) -> PollTimeout {
    let milliseconds = duration.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_watch_comes_first_and_of_others_the_first_that_is_ready() {
        let stop = WatchStop::new().unwrap();
        let [quiet, loud] = [(), ()].map(|()| EventFd::new().unwrap());
        let wait = |patience| stop.wait([quiet.as_fd(), loud.as_fd()], patience);
        assert_eq!(wait(Some(Duration::ZERO)), Ok(Woken::Nothing));
        assert!(!stop.comes_within(Duration::ZERO));
        loud.write(1).unwrap();
        assert_eq!(wait(None), Ok(Woken::Ready(1)));
        quiet.write(1).unwrap();
        assert_eq!(wait(None), Ok(Woken::Ready(0)));
        stop.clone().stop().unwrap();
        assert_eq!(wait(None), Ok(Woken::Stopped));
        assert!(stop.comes_within(Duration::ZERO));
    }
}
