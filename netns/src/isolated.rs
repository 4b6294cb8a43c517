//! Network namespaces that lead nowhere, for what is to have no network.
//!
//! There is loopback in one, and nothing else. It is owned and mounted as that of an interface is, so that root of a
//! container has in it what root of others has: ports below 1024, ping, sysfs, and nothing of the host's. Its file is
//! `<state_dir>/isolated/<name>` ([`crate::allocation`]).
//!
//! | isolate | release |
//! |---|---|
//! | the name and the ids are reserved, on disk | … released, last |
//! | the namespace is made, with its owner | … ends with its mount |
//! | it is mounted | … unmounted |
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::allocation::{boot_id, entries, read, read_of_another, remove, write};
use crate::eni::NetnsName;
use crate::error::{Error, Problems, Result};
use crate::failpoint::{self, reached};
use crate::namespace::{self, Namespace};
use crate::network::Network;
use crate::subordinate_ids::{HeldRange, IdRange, IdRanges};

/// A network namespace without an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolated {
    /// Its name; [`Network::netns_path`] says where it is mounted.
    pub netns: NetnsName,
    /// The ids of the user namespace that owns it, if that is not the host's.
    pub id_range: Option<IdRange>,
}

impl Network {
    /// Makes a network namespace in which there is loopback, up, and nothing else. When it fails, nothing is left.
    ///
    /// The caller records the name before, so that a crash can't lose it.
    pub fn isolate(&self, netns: &NetnsName) -> Result<Isolated> {
        let id_range = self.take_id_range_for_task()?;
        let isolated = {
            // Nobody attaches an interface under that name meanwhile.
            let addresses = self.addresses();
            if addresses.has_namespace(netns) {
                return Err(Error::NamespaceInUse(netns.clone()));
            }
            self.isolated().reserve(netns, id_range)?
        };
        match self.build_isolated(&isolated) {
            Ok(()) => Ok(isolated),
            Err(problem) => Err(self.abandon_isolated(netns, problem)),
        }
    }

    /// Takes such a namespace away; none is fine too. It ends when no process is in it any more.
    ///
    /// It is kept on record until its mount is gone: when that fails, release it again, or reconcile.
    pub fn release(&self, netns: &NetnsName) -> Result<()> {
        if !self.isolated().has(netns) {
            return Ok(());
        }
        namespace::remove(&self.netns_path(netns))?;
        reached(failpoint::RELEASE_NAMESPACE)?;
        self.isolated().forget(netns)?;
        reached(failpoint::RELEASE_RECORD)
    }

    fn build_isolated(&self, isolated: &Isolated) -> Result<()> {
        reached(failpoint::ISOLATE_RECORD)?;
        // No link will need IPv6 in it.
        let namespace = Namespace::create(isolated.id_range, &*self.sysctls()?, false)?;
        reached(failpoint::ISOLATE_NAMESPACE)?;
        namespace.mount(&self.netns_path(&isolated.netns))?;
        reached(failpoint::ISOLATE_MOUNT)
    }

    fn abandon_isolated(&self, netns: &NetnsName, problem: Error) -> Error {
        let mut problems = Problems::default();
        problems.note(self.release(netns));
        match problems.finish("undo it") {
            Ok(()) => problem,
            Err(more) => Error::Incomplete {
                doing: format!("make the network namespace {netns}, and undo it"),
                problems: vec![problem, more],
            },
        }
    }
}

/// What is in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Allocation {
    boot_id: String,
    isolated: Isolated,
}

/// Those that are there.
#[derive(Debug)]
pub(crate) struct IsolatedNamespaces {
    directory: PathBuf,
    boot_id: String,
    all: BTreeMap<NetnsName, Option<HeldRange>>,
}

impl IsolatedNamespaces {
    /// Reads the files, and removes those that are nobody's.
    pub(crate) fn load(state_dir: &Path, boot_id: String, ids: &IdRanges) -> Result<Self> {
        let directory = directory(state_dir);
        let mut all = BTreeMap::new();
        for file in entries(&directory)? {
            match read::<Allocation>(&file)? {
                Some(Allocation {
                    boot_id: made,
                    isolated,
                }) if made == boot_id => {
                    let range = isolated.id_range.map(|range| ids.claim(range));
                    all.insert(isolated.netns, range);
                }
                _ => remove(&file)?,
            }
        }
        Ok(Self {
            directory,
            boot_id,
            all,
        })
    }

    /// Whether there is one of that name.
    pub(crate) fn has(&self, netns: &NetnsName) -> bool {
        self.all.contains_key(netns)
    }

    /// The names of all.
    pub(crate) fn names(&self) -> Vec<NetnsName> {
        self.all.keys().cloned().collect()
    }

    /// Takes a name. [`IsolatedNamespaces::forget`] is the undo.
    fn reserve(&mut self, netns: &NetnsName, range: Option<HeldRange>) -> Result<Isolated> {
        let isolated = Isolated {
            netns: netns.clone(),
            id_range: range.as_ref().map(|held| held.range),
        };
        let allocation = Allocation {
            boot_id: self.boot_id.clone(),
            isolated,
        };
        if self.has(netns) || !write(&self.path(netns), &allocation)? {
            return Err(Error::NamespaceInUse(netns.clone()));
        }
        self.all.insert(netns.clone(), range);
        Ok(allocation.isolated)
    }

    /// Gives a name back, and its ids.
    fn forget(&mut self, netns: &NetnsName) -> Result<()> {
        remove(&self.path(netns))?;
        self.all.remove(netns);
        Ok(())
    }

    fn path(&self, netns: &NetnsName) -> PathBuf {
        self.directory.join(netns.as_str())
    }
}

/// The folder that the files are in.
pub(crate) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("isolated")
}

/// How many there are, as their files say; nothing is changed, also while another process has the network.
pub(crate) fn count(state_dir: &Path) -> Result<usize> {
    let boot_id = boot_id()?;
    let mut count = 0;
    for file in entries(&directory(state_dir))? {
        let allocation: Option<Allocation> = read_of_another(&file)?;
        count += usize::from(allocation.is_some_and(|allocation| allocation.boot_id == boot_id));
    }
    Ok(count)
}

#[cfg(test)]
#[path = "isolated_tests.rs"]
mod tests;
