//! The ids of the host's that tasks have as their own: each user namespace gets a range of them, for as long as it is
//! there.
//!
//! No two have the same range, so that what escapes from one task is nobody to another.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, InvalidName, Result};

const SIZE: u32 = IdRange::SIZE;

/// Beyond these, `net.ipv4.ping_group_range` lets nobody ping.
const MOST: u32 = 1 << 31;

/// The ids of users and groups that this host leaves to tasks, as `first:count` (subuid(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubordinateIds {
    first: u32,
    count: u32,
}

impl SubordinateIds {
    /// The first of them.
    pub fn first(self) -> u32 {
        self.first
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// How many user namespaces can be there at once.
    fn ranges(self) -> u32 {
        self.count / SIZE
    }
}

impl Default for SubordinateIds {
    /// 4,096 ranges at the end of what systemd leaves to containers: far from people's ids, and from those that
    /// useradd(8) notes in /etc/subuid.
    fn default() -> Self {
        Self {
            first: 0x6000_0000,
            count: 0x1000_0000,
        }
    }
}

impl fmt::Display for SubordinateIds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.first, self.count)
    }
}

impl FromStr for SubordinateIds {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parse = || {
            let (first, count) = text.split_once(':')?;
            let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
            let end = first.checked_add(count)?;
            let is_right = first >= SIZE && count >= SIZE && end <= MOST;
            is_right.then_some(Self { first, count })
        };
        parse().ok_or_else(|| InvalidName {
            what: "range of subordinate ids",
            text: text.to_owned(),
            expected: format!(
                "FIRST:COUNT, both at least {SIZE} and together at most {MOST}, such as {}",
                Self::default()
            ),
        })
    }
}

/// What a user namespace makes of its ids: 0 to 65,535 in it are as many of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The host's id of the namespace's root.
    pub first: u32,
}

impl IdRange {
    /// How many ids there are in one: those of 16 bits, as with other engines.
    pub const SIZE: u32 = 1 << 16;

    /// The map for `/proc/<pid>/uid_map` and `gid_map` (user_namespaces(7)).
    pub(crate) fn map(self) -> String {
        format!("0 {} {SIZE}\n", self.first)
    }
}

/// The ranges that are some namespace's, and the others.
#[derive(Debug, Clone)]
pub(crate) struct IdRanges {
    ids: SubordinateIds,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    firsts: BTreeSet<u32>,
    /// Which is tried first: one that was given back rests.
    next: u32,
}

/// A range that nobody else gets while this is there.
#[derive(Debug)]
pub(crate) struct HeldRange {
    pub(crate) range: IdRange,
    held: Arc<Mutex<Held>>,
}

impl IdRanges {
    pub(crate) fn new(ids: SubordinateIds) -> Self {
        Self {
            ids,
            held: Arc::default(),
        }
    }

    /// One that is nobody's.
    pub(crate) fn take(&self) -> Result<HeldRange> {
        let all = self.ids.ranges();
        let mut held = lock(&self.held);
        let mut indexes = (held.next..all).chain(0..held.next.min(all));
        let free = indexes.find_map(|index| {
            let first = self.ids.first + index * SIZE;
            held.is_free(first).then_some((index, first))
        });
        let (index, first) = free.ok_or(Error::IdsExhausted(self.ids))?;
        held.firsts.insert(first);
        held.next = index + 1;
        drop(held);
        Ok(self.held_range(first))
    }

    /// One that somebody has had since before.
    pub(crate) fn claim(&self, range: IdRange) -> HeldRange {
        lock(&self.held).firsts.insert(range.first);
        self.held_range(range.first)
    }

    fn held_range(&self, first: u32) -> HeldRange {
        HeldRange {
            range: IdRange { first },
            held: Arc::clone(&self.held),
        }
    }
}

impl Held {
    /// Those of an earlier configuration may lie across.
    fn is_free(&self, first: u32) -> bool {
        let touching = first.saturating_sub(SIZE - 1)..=first.saturating_add(SIZE - 1);
        self.firsts.range(touching).next().is_none()
    }
}

impl Drop for HeldRange {
    fn drop(&mut self) {
        lock(&self.held).firsts.remove(&self.range.first);
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> SubordinateIds {
        text.parse().unwrap()
    }

    #[test]
    fn ids_are_given_as_in_subuid() {
        assert_eq!(ids("100000:200000").to_string(), "100000:200000");
        let default = SubordinateIds::default();
        assert_eq!(ids(&default.to_string()), default);
        for wrong in [
            "",
            "100000",
            "0:65536",
            "65535:65536",
            "100000:65535",
            "2147418113:65536",
            "-1:65536",
        ] {
            let error = wrong.parse::<SubordinateIds>().unwrap_err().to_string();
            assert!(error.contains("FIRST:COUNT"), "{error}");
        }
        assert!("2147418112:65536".parse::<SubordinateIds>().is_ok());
    }

    #[test]
    fn a_range_is_one_namespaces_until_it_is_given_back() {
        let ranges = IdRanges::new(ids("100000:200000"));
        let take = || ranges.take().map(|held| (held.range.first, held));
        let (first, one) = take().unwrap();
        let (second, _two) = take().unwrap();
        let (third, _three) = take().unwrap();
        assert_eq!((first, second, third), (100_000, 165_536, 231_072));
        let error = take().unwrap_err().to_string();
        assert!(error.contains("100000:200000"), "{error}");
        drop(one);
        assert_eq!(take().unwrap().0, 100_000);
    }

    #[test]
    fn a_range_rests_and_one_of_before_is_no_part_of_another() {
        let ranges = IdRanges::new(ids("100000:262144"));
        let _before = ranges.claim(IdRange { first: 170_000 });
        let mut firsts = Vec::new();
        for _ in 0..3 {
            firsts.push(ranges.take().unwrap().range.first);
        }
        assert_eq!(firsts, [100_000, 296_608, 100_000]);
    }

    #[test]
    fn the_map_is_the_kernels() {
        assert_eq!(IdRange { first: 165_536 }.map(), "0 165536 65536\n");
    }
}
