//! The host's address: the one that it sends from to the outside, and the watch over it, for it moves with the uplink.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::netlink::{RouteSocket, WayWatch};
use crate::uplink;
use crate::watch_stop::{WatchStop, Woken};

/// How long what is told is let gather: an uplink comes up in several steps, and tasks' links are among what is told.
const GATHER: Duration = Duration::from_millis(100);

/// How long after a change, or a failure, it is looked once more, and after that for the last time: the kernel tells of a
/// link that goes down before it takes the routes away, and may be kept from that for long.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// A watch over the host's IPv4 address, the one that it sends from to the outside, as the kernel chooses it. It hears
/// what happens from when it is opened.
#[derive(Debug)]
pub struct HostAddressWatch {
    changes: WayWatch,
    routes: RouteSocket,
    stop: WatchStop,
}

impl HostAddressWatch {
    /// Opens the watch, in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let doing = || "watch the host's routes".to_owned();
        Ok(Self {
            changes: WayWatch::open().doing(doing)?,
            routes: RouteSocket::open().doing(doing)?,
            stop: WatchStop::new()?,
        })
    }

    /// What ends [`Self::run`].
    pub fn stop(&self) -> WatchStop {
        self.stop.clone()
    }

    /// The address now; nothing where the host has no way to the outside.
    pub fn look(&mut self) -> Result<Option<Ipv4Addr>> {
        Ok(match uplink::source(&mut self.routes)? {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        })
    }

    /// Tells the address after each change that it may depend on, until it is stopped. It may be the same as before. A
    /// failure is told once, and it is tried again after a second.
    pub fn run(mut self, mut tell: impl FnMut(Result<Option<Ipv4Addr>>)) {
        let (mut failing, mut again) = (false, AGAIN.into_iter());
        loop {
            let woken = self.stop.wait([self.changes.as_fd()], again.next());
            if woken == Ok(Woken::Stopped) || self.stop.comes_within(GATHER) {
                return;
            }
            let looked = woken
                .map_err(|errno| Error::io("wait for changes to the host's routes", errno))
                .and_then(|_| self.look_anew());
            if !matches!(looked, Ok((false, _))) {
                again = AGAIN.into_iter();
            }
            let was_failing = std::mem::replace(&mut failing, looked.is_err());
            if !(failing && was_failing) {
                tell(looked.map(|(_, address)| address));
            }
        }
    }

    /// Whether changes have been heard until now, and the address as of now.
    fn look_anew(&mut self) -> Result<(bool, Option<Ipv4Addr>)> {
        let heard = self.changes.has_heard();
        let heard = heard.doing(|| "listen to the kernel".into())?;
        Ok((heard, self.look()?))
    }
}
