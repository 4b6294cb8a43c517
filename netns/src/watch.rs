//! The watch over the firewall's rules, and those of the routing policy: what somebody else changes in them is put back.
//!
//! Of tables that we own there is nothing to put back: the kernel lets nobody change them. Of others it tells, in the
//! same moment, that they were changed and who did it. Rules of the routing policy can always be removed: systemd-networkd
//! does, when it starts, with those that it doesn't know.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Doing, Error, Problems, Result};
use crate::firewall::is_dockers;
use crate::netlink::{NetlinkError, PolicyWatch};
use crate::network::Network;
use crate::nftables::{Notice, Notices, Process};
use crate::ruleset::{BRIDGE_TABLE, INET_TABLE};
use crate::watch_stop::{WatchStop, Woken};

/// How long the end of a transaction may take whose beginning has been told.
const UNTIL_COMMIT: Duration = Duration::from_millis(500);

/// What the watch did.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The rules were changed or removed, and are back.
    Restored {
        /// Who changed them, if that is known.
        by: Option<Process>,
    },
    /// Rules of the routing policy were removed, and are back. Without them nothing closes the subnets when the
    /// firewall's rules are gone.
    RestoredRoutingPolicy,
    /// Docker has come, and what its rules would drop of tasks' traffic passes now.
    PassesDocker,
    /// The rules can't be put back, or what happens to them can't be heard. The watch goes on trying, once a second,
    /// and says so once.
    Failed(Error),
}

/// A watch over the firewall's rules. It hears what happens from when it is opened.
#[derive(Debug)]
pub struct FirewallWatch {
    notices: Notices,
    policy: PolicyWatch,
    stop: WatchStop,
}

/// What was waited for.
enum Heard {
    /// Somebody has changed something that is of interest, or may have.
    Changed(Change),
    /// Nobody has, in all that time.
    Nothing,
    Stop,
}

/// What somebody has changed, and what is to be put right of it. Docker's chain is looked at in any case.
#[derive(Default)]
struct Change {
    /// Whether our tables were.
    ours: bool,
    /// Whether our rules of the routing policy were.
    policy: bool,
    /// Who changed our tables.
    by: Option<Process>,
}

/// What may have been changed when it is not known.
const ANYTHING: Change = Change {
    ours: true,
    policy: true,
    by: None,
};

impl Change {
    /// What was changed besides.
    fn add(&mut self, more: Self) {
        if more.ours {
            self.by = more.by;
        }
        self.ours |= more.ours;
        self.policy |= more.policy;
    }
}

impl FirewallWatch {
    /// Opens the watch, in the network namespace of the calling thread, which is the network's.
    pub fn open(network: &Network) -> Result<Self> {
        let doing = || "watch the rules of nftables".to_owned();
        let notices = Notices::open(network.firewall().port()).doing(doing)?;
        let policy = PolicyWatch::open().doing(|| "watch the routing policy".into())?;
        Ok(Self {
            notices,
            policy,
            stop: WatchStop::new()?,
        })
    }

    /// What ends [`Self::run`].
    pub fn stop(&self) -> WatchStop {
        self.stop.clone()
    }

    /// Puts the rules back whenever somebody else changes them, and tells of it, until it is stopped.
    ///
    /// They are back at once, and within a second where somebody removes them again and again.
    pub fn run(mut self, network: &Network, mut tell: impl FnMut(WatchEvent)) {
        let mut turns = Turns::default();
        // It listens before it looks, so that nothing falls in between.
        let mut pending = Change {
            ours: !network.firewall_is_whole().unwrap_or(false),
            policy: true,
            by: None,
        };
        loop {
            let patience = match put_right(network, &mut pending, &mut tell) {
                Ok(()) => {
                    turns.failing = false;
                    None
                }
                Err(error) => {
                    turns.failed(error, &mut tell);
                    Some(LONGEST_PAUSE)
                }
            };
            match self.wait(patience, &mut turns, &mut tell) {
                Heard::Changed(change) => pending.add(change),
                Heard::Nothing => {}
                Heard::Stop => return,
            }
            if self.pause(turns.next(Instant::now()), &mut pending) {
                return;
            }
        }
    }

    /// Waits until somebody changes something of interest, or patience ends.
    fn wait(
        &mut self,
        patience: Option<Duration>,
        turns: &mut Turns,
        tell: &mut impl FnMut(WatchEvent),
    ) -> Heard {
        loop {
            // The quieter one first.
            let sources = [self.policy.as_fd(), self.notices.as_fd()];
            let heard = match self.stop.wait(sources, patience) {
                Ok(Woken::Stopped) => return Heard::Stop,
                Ok(Woken::Nothing) => return Heard::Nothing,
                Ok(Woken::Ready(0)) => self.change_of_policy(),
                Ok(Woken::Ready(_)) => self.change(),
                Err(errno) => Err(errno.into()),
            };
            match heard {
                Ok(None) => {}
                Ok(Some(change)) => return Heard::Changed(change),
                Err(error) => {
                    let error = Err::<(), _>(error).doing(|| "listen to the kernel".into());
                    error.unwrap_or_else(|error| turns.failed(error, tell));
                    return Heard::Changed(ANYTHING);
                }
            }
        }
    }

    /// Reads what has been told: what of interest was changed, if anything was.
    fn change(&mut self) -> Result<Option<Change>, NetlinkError> {
        let mut deadline = Instant::now();
        let mut change: Option<Change> = None;
        loop {
            let notices = match self.notices.read(deadline) {
                // More was told than there was room for, and something of ours may have been in it.
                Err(error) if error.errno == Errno::ENOBUFS => return Ok(Some(ANYTHING)),
                outcome => outcome?,
            };
            let nothing_more = notices.is_empty();
            for notice in notices {
                match notice {
                    Notice::Change {
                        family,
                        table,
                        chain,
                    } => {
                        if is_of_ours(family, &table) {
                            change.get_or_insert_default().ours = true;
                        } else if is_dockers(family, &table, chain.as_deref()) {
                            change.get_or_insert_default();
                        }
                    }
                    Notice::Commit(process) => {
                        if let Some(change) = change {
                            let by = Some(process);
                            return Ok(Some(Change { by, ..change }));
                        }
                    }
                }
            }
            if change.is_none() || nothing_more {
                return Ok(change);
            }
            deadline = Instant::now() + UNTIL_COMMIT;
        }
    }

    /// Reads what has been told of the routing policy.
    fn change_of_policy(&mut self) -> Result<Option<Change>, NetlinkError> {
        let policy = Change {
            policy: true,
            ..Change::default()
        };
        Ok(self.policy.has_heard()?.then_some(policy))
    }

    /// Waits before it is our turn. What is told until then is put right in the same turn. Whether the watch was stopped.
    fn pause(&mut self, pause: Duration, pending: &mut Change) -> bool {
        if self.stop.comes_within(pause) {
            return true;
        }
        // What can't be heard is told of when it is waited for.
        let ours = self.notices.has_heard(Notice::is_of_ours);
        pending.ours |= ours.unwrap_or(true);
        pending.policy |= self.policy.has_heard().unwrap_or(true);
        false
    }
}

/// Puts right what was changed, each part whatever becomes of the others. What could not be is still pending.
fn put_right(
    network: &Network,
    pending: &mut Change,
    tell: &mut impl FnMut(WatchEvent),
) -> Result<()> {
    let mut problems = Problems::default();
    if pending.ours
        && let Some(was_needed) = problems.note(network.restore_firewall())
    {
        pending.ours = false;
        let by = pending.by.take();
        if was_needed {
            tell(WatchEvent::Restored { by });
        }
    }
    if pending.policy
        && let Some(was_needed) = problems.note(network.restore_routing_policy())
    {
        pending.policy = false;
        if was_needed {
            tell(WatchEvent::RestoredRoutingPolicy);
        }
    }
    if problems.note(network.pass_docker()) == Some(true) {
        tell(WatchEvent::PassesDocker);
    }
    problems.finish("put rules back that somebody has changed")
}

impl Notice {
    fn is_of_ours(&self) -> bool {
        matches!(self, Self::Change { family, table, .. } if is_of_ours(*family, table))
    }
}

fn is_of_ours(family: u8, table: &str) -> bool {
    let mut ours = [INET_TABLE, BRIDGE_TABLE].into_iter();
    ours.any(|of_ours| of_ours.family as u8 == family && of_ours.name == table)
}

/// The longest that the rules are missing.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Turns with somebody who removes the rules again and again: each time it takes longer until we put them back.
#[derive(Debug, Default)]
struct Turns {
    pause: Duration,
    last: Option<Instant>,
    failing: bool,
}

impl Turns {
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    /// Rules that were whole for this long are not being removed again and again.
    const PEACE: Duration = Duration::from_secs(10);

    /// How long to wait before the rules are put back: at first not at all.
    fn next(&mut self, now: Instant) -> Duration {
        let since_last = self.last.map(|last| now.saturating_duration_since(last));
        self.pause = match since_last {
            Some(since) if since < Self::PEACE => {
                (self.pause * 2).clamp(Self::FIRST_PAUSE, LONGEST_PAUSE)
            }
            _ => Duration::ZERO,
        };
        self.last = Some(now + self.pause);
        self.pause
    }

    /// Tells of a failure, unless that has been told.
    fn failed(&mut self, error: Error, tell: &mut impl FnMut(WatchEvent)) {
        if !self.failing {
            tell(WatchEvent::Failed(error));
        }
        self.failing = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_removes_the_rules_again_and_again_waits_longer_and_longer_but_no_more_than_a_second()
    {
        let mut turns = Turns::default();
        let mut now = Instant::now();
        let pauses: Vec<u128> = std::iter::repeat_with(|| {
            let pause = turns.next(now);
            now += pause;
            pause.as_millis()
        })
        .take(10)
        .collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        now += Turns::PEACE;
        assert_eq!(turns.next(now), Duration::ZERO);
    }
}
