//! Whether the tables are as they should be when the network is opened, so that they needn't be made anew.
//!
//! The kernel counts the changes to the ruleset of a network namespace, by anybody. As long as the count is the one
//! that our own last change made, which is on record, the tables are what we made them, to the last element. Else
//! somebody has changed something, most likely of their own: then ours are read, and compared.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Firewall;
use super::intended::{self, write_contents};
use super::tables::{Found, TABLES, is_unknown_kind};
use crate::allocation::boot_id;
use crate::config::NetworkConfig;
use crate::error::{Doing, Error, Result};
use crate::hash;
use crate::nftables::{Batch, Generation, Ruleset, TableKind};

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    place: RecordedPlace,
    /// As our last change left the ruleset, if nobody else had changed it then.
    generation: Option<Generation>,
    is_owned: bool,
    /// A hash of all that the tables consist of.
    contents: u64,
}

/// Where and when the tables are, and how they were to be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedPlace {
    boot_id: String,
    /// The network namespace, by a number that no other has during a boot.
    netns: u64,
    /// Whether they were to be owned; on older kernels they aren't all the same.
    were_to_be_owned: bool,
}

impl Firewall {
    /// Takes the tables as they were found, if they are what they should be; whether it is so.
    pub(super) fn take_unchanged(&mut self, config: &NetworkConfig, found: &Found) -> Result<bool> {
        let Some(record) = read(&path(config)) else {
            return Ok(false);
        };
        let Some(place) = self.place(config)? else {
            return Ok(false);
        };
        let generation = found.generation;
        let is_as_intended = record.place == place
            && self.are_ours(found)
            && match record.generation == Some(generation) {
                true => record.contents == self.hash(config, record.is_owned),
                // What is read is of one moment if nothing has changed meanwhile.
                false => self.is_as_intended(config)? && self.generation()? == generation,
            };
        if !is_as_intended {
            return Ok(false);
        }
        if !record.is_owned {
            self.socket.set_known(generation);
            self.kind = TableKind::Plain;
            return Ok(true);
        }
        let is_adopted = match self.adopt(generation) {
            // Somebody has loaded them anew, as tables that nobody can own.
            Err(error) if is_unknown_kind(&error) => return Ok(false),
            outcome => outcome.doing(|| "make the firewall's tables our own".into())?,
        };
        if is_adopted {
            self.kind = TableKind::Owned;
        }
        Ok(is_adopted)
    }

    /// Whether the tables are there with all that they should have, and nothing else.
    fn is_as_intended(&mut self, config: &NetworkConfig) -> Result<bool> {
        let enis = self.admitted.values();
        let intended = intended::ruleset(&self.rules, config, &self.policies, enis);
        let mut own = Ruleset::default();
        for table in TABLES {
            let read = self.socket.contents(table, &mut own);
            read.doing(|| format!("read the table {table:?}"))?;
        }
        Ok(own.is_as(&intended))
    }

    /// Leaves word for the next. Without it the tables are made anew, so nothing depends on it.
    pub(crate) fn leave_record(&mut self, config: &NetworkConfig) -> Result<()> {
        let Some(place) = self.place(config)? else {
            return Ok(());
        };
        let record = Record {
            place,
            generation: self.socket.known(),
            is_owned: self.is_owned(),
            contents: self.hash(config, self.is_owned()),
        };
        let path = path(config);
        let text =
            serde_json::to_vec(&record).map_err(|error| Error::file("encode", &path, error))?;
        fs::write(&path, text).map_err(|error| Error::file("write", &path, error))
    }

    /// Where the tables are; nothing on kernels where namespaces have no number (before Linux 5.14).
    fn place(&self, config: &NetworkConfig) -> Result<Option<RecordedPlace>> {
        let Some(netns) = self.socket.netns_cookie() else {
            return Ok(None);
        };
        Ok(Some(RecordedPlace {
            boot_id: boot_id()?,
            netns,
            were_to_be_owned: config.own_tables,
        }))
    }

    /// A hash of all that the tables consist of, as they should be.
    fn hash(&self, config: &NetworkConfig, is_owned: bool) -> u64 {
        let kind = match is_owned {
            true => TableKind::Owned,
            false => TableKind::Plain,
        };
        let mut batch = Batch::default();
        self.rules.write_tables(&mut batch, kind);
        write_contents(&mut batch, config, &self.policies, self.admitted.values());
        hash::of_parts(batch.payloads())
    }
}

/// Removes the record: of tables that are gone.
pub(crate) fn remove(config: &NetworkConfig) -> Result<()> {
    let path = path(config);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", &path, error))
        }
        _ => Ok(()),
    }
}

fn path(config: &NetworkConfig) -> PathBuf {
    config.run_dir.join("firewall.json")
}

/// One that was not written to the end is none.
fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
