//! What the tables were when we last changed them, so that the next to open the network need not make them anew.
//!
//! The kernel counts the changes to the ruleset of a network namespace, by anybody. As long as the count is the one
//! that our own last change made, the tables are what we made them, to the last element.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Firewall;
use crate::addresses::boot_id;
use crate::config::NetworkConfig;
use crate::error::{Doing, Error, Result};
use crate::hash::fnv1a;
use crate::nftables::{Batch, Generation, TableKind};

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    boot_id: String,
    /// The network namespace, by a number that no other has during a boot.
    netns: u64,
    generation: Generation,
    /// Whether they were to be owned; on older kernels they aren't all the same.
    were_to_be_owned: bool,
    is_owned: bool,
    /// A hash of all that the tables consist of.
    contents: u64,
}

impl Firewall {
    /// Takes the tables as they are, if they are what they should be and nobody has changed them since we did;
    /// whether it is so.
    pub(super) fn take_unchanged(&mut self, config: &NetworkConfig) -> Result<bool> {
        let Some(record) = read(&path(config)) else {
            return Ok(false);
        };
        let generation = self.generation()?;
        let expected = self.record(config, generation, record.is_owned)?;
        if expected.as_ref() != Some(&record) {
            return Ok(false);
        }
        if !record.is_owned {
            self.socket.set_known(generation);
            self.kind = TableKind::Plain;
            return Ok(true);
        }
        let is_adopted = self.adopt(config, generation);
        let is_adopted = is_adopted.doing(|| "make the firewall's tables our own".into())?;
        if is_adopted {
            self.kind = TableKind::Owned;
        }
        Ok(is_adopted)
    }

    /// Leaves word for the next. Without it the tables are made anew, so nothing depends on it.
    pub(crate) fn leave_record(&mut self, config: &NetworkConfig) -> Result<()> {
        let Some(known) = self.socket.known() else {
            return Ok(());
        };
        let is_ours = self.generation()? == known;
        let record = self.record(config, known, self.is_owned())?;
        let Some(record) = record.filter(|_| is_ours) else {
            return Ok(());
        };
        let path = path(config);
        let text =
            serde_json::to_vec(&record).map_err(|error| Error::file("encode", &path, error))?;
        fs::write(&path, text).map_err(|error| Error::file("write", &path, error))
    }

    /// What is to be on record of the tables as they should be; nothing on kernels where namespaces have no number
    /// (before Linux 5.14).
    fn record(
        &self,
        config: &NetworkConfig,
        generation: Generation,
        is_owned: bool,
    ) -> Result<Option<Record>> {
        let Some(netns) = self.socket.netns_cookie() else {
            return Ok(None);
        };
        let kind = if is_owned {
            TableKind::Owned
        } else {
            TableKind::Plain
        };
        let mut batch = Batch::default();
        self.write_whole(&mut batch, config, kind);
        Ok(Some(Record {
            boot_id: boot_id()?,
            netns,
            generation,
            were_to_be_owned: config.own_tables,
            is_owned,
            contents: fnv1a(batch.payloads().flatten().copied()),
        }))
    }

    fn generation(&mut self) -> Result<Generation> {
        let generation = self.socket.generation();
        generation.doing(|| "ask for the generation of the nftables ruleset".into())
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
