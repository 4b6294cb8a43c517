//! The watch over firewalld: whenever it has loaded its rules, tasks' links are put into its zone again.
//!
//! It is the kernel that tells of it, as of every change to the ruleset, so that there is nothing to do, and no bus to
//! listen to, where firewalld isn't. It answers calls once it is done with loading.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{Joined, TABLE, is_here, join, links};
use crate::error::{Doing, Error, Result};
use crate::netlink::NetlinkError;
use crate::network::Network;
use crate::nftables::{NftSocket, Notice, Notices};
use crate::watch_stop::{WatchStop, Woken};

/// How long after a failure it is tried again.
const UNTIL_RETRY: Duration = Duration::from_secs(10);

/// How long what is told is let gather, after firewalld was looked at: it loads its rules in several transactions,
/// and ours are among what is told.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What the watch did, or could not do.
#[derive(Debug)]
#[non_exhaustive]
pub enum FirewalldEvent {
    /// firewalld lets pass what comes from these links, as of now. After a failure these are all of tasks' links that
    /// it lets pass, whenever it was told to.
    Passes {
        /// Names of links, or the beginning of names with a `+` behind.
        links: Vec<String>,
    },
    /// Somebody has put a link of tasks' in a zone of their own choice: its rules decide what passes.
    Elsewhere {
        /// The link.
        link: String,
        /// The zone.
        zone: String,
    },
    /// firewalld can't be asked, or refuses, and rejects tasks' traffic. The watch goes on trying, every ten seconds,
    /// and says so once; [`FirewalldEvent::Passes`] ends it.
    Failed(Error),
}

/// A watch over firewalld. It hears what happens from when it is opened.
#[derive(Debug)]
pub struct FirewalldWatch {
    notices: Notices,
    socket: NftSocket,
    links: Vec<String>,
    stop: WatchStop,
    elsewhere: Vec<(String, String)>,
    failing: bool,
}

impl FirewalldWatch {
    /// Opens the watch, in the network namespace of the calling thread, which is the network's.
    pub fn open(network: &Network) -> Result<Self> {
        let doing = || "watch the rules of firewalld".to_owned();
        let notices = Notices::open(network.firewall().port()).doing(doing)?;
        let socket = NftSocket::open().doing(|| "open the socket of nftables".into())?;
        Ok(Self {
            notices,
            socket,
            links: links(&network.config),
            stop: WatchStop::new()?,
            elsewhere: Vec::new(),
            failing: false,
        })
    }

    /// What ends [`Self::run`]: when firewalld was just being asked, after the reply, or five seconds without one.
    pub fn stop(&self) -> WatchStop {
        self.stop.clone()
    }

    /// Has firewalld let tasks' traffic pass, if it is there, and tells what came of it. It takes tens of milliseconds
    /// the first time; if firewalld doesn't answer, five seconds.
    pub fn look(&mut self, mut tell: impl FnMut(FirewalldEvent)) {
        let looked = match is_here(&mut self.socket) {
            Ok(true) => join(&self.links),
            Ok(false) => Ok(Joined::default()),
            Err(error) => Err(error),
        };
        match looked {
            Ok(joined) => {
                self.tell_of(joined, &mut tell);
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tell(FirewalldEvent::Failed(error));
                }
                self.failing = true;
            }
        }
    }

    fn tell_of(&mut self, joined: Joined, tell: &mut impl FnMut(FirewalldEvent)) {
        let Joined {
            inside,
            added,
            elsewhere,
        } = joined;
        let links = if self.failing { inside } else { added };
        if !links.is_empty() {
            tell(FirewalldEvent::Passes { links });
        }
        for (link, zone) in &elsewhere {
            let place = (link.clone(), zone.clone());
            if !self.elsewhere.contains(&place) {
                let (link, zone) = place;
                tell(FirewalldEvent::Elsewhere { link, zone });
            }
        }
        self.elsewhere = elsewhere;
    }

    /// Looks again whenever firewalld has changed its rules, and tells what came of it, until it is stopped.
    pub fn run(mut self, mut tell: impl FnMut(FirewalldEvent)) {
        loop {
            match self.wait() {
                Ok(Heard::Stop) => return,
                Ok(Heard::Change) => {}
                Err(errno) => {
                    tell(FirewalldEvent::Failed(Error::io(
                        "wait for changes to firewalld's rules",
                        errno,
                    )));
                    return;
                }
            }
            self.look(&mut tell);
            if self.stop.comes_within(BETWEEN_LOOKS) {
                return;
            }
        }
    }

    /// Waits until firewalld's rules change, or it is time to try again.
    fn wait(&mut self) -> Result<Heard, Errno> {
        let retry = Instant::now() + UNTIL_RETRY;
        loop {
            let left = retry.saturating_duration_since(Instant::now());
            if self.failing && left.is_zero() {
                return Ok(Heard::Change);
            }
            let patience = self.failing.then_some(left);
            match self.stop.wait([self.notices.as_fd()], patience)? {
                Woken::Stopped => return Ok(Heard::Stop),
                Woken::Nothing => return Ok(Heard::Change),
                Woken::Ready(_) => {}
            }
            match self.has_changed() {
                Ok(false) => {}
                Ok(true) => return Ok(Heard::Change),
                Err(error) => return Err(error.errno),
            }
        }
    }

    /// Reads all that has been told: whether firewalld's table is in it.
    fn has_changed(&mut self) -> Result<bool, NetlinkError> {
        let mut has_changed = false;
        loop {
            match self.notices.read(Instant::now()) {
                Ok(notices) if notices.is_empty() => return Ok(has_changed),
                Ok(notices) => has_changed |= notices.iter().any(is_firewallds),
                // More was told than there was room for, and this may have been in it.
                Err(error) if error.errno == Errno::ENOBUFS => has_changed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

enum Heard {
    Stop,
    Change,
}

fn is_firewallds(notice: &Notice) -> bool {
    let of_firewalld =
        |family: u8, table: &str| family == TABLE.family as u8 && table == TABLE.name;
    matches!(notice, Notice::Change { family, table, .. } if of_firewalld(*family, table))
}
