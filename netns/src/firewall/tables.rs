//! The two tables as a whole: whose they are, how they are put there, and how they go.
//!
//! Where the kernel has it, our socket owns them: nobody else changes them, and `nft flush ruleset` leaves them
//! out. They outlive the socket, and belong to nobody then, until the next one makes them its own. Whether somebody has
//! done anything to them in between is told by the generation of the ruleset ([`super::record`]): if it can't be
//! excluded, they are made anew; connections go on, and counters begin again.
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Firewall;
use super::intended::write_contents;
use crate::config::NetworkConfig;
use crate::eni::Eni;
use crate::error::{Doing, Error, Result};
use crate::netlink::NetlinkError;
use crate::nftables::{Batch, Generation, Table, TableKind, TableState};
use crate::ruleset::{BRIDGE_TABLE, INET_TABLE};

/// Both of ours.
pub(crate) const TABLES: [Table; 2] = [INET_TABLE, BRIDGE_TABLE];

/// How long a table may belong to a socket that is about to be closed. The lock says that its process is gone, but
/// a child that it is just making has all its descriptors until it runs its program.
const UNTIL_RELEASED: Duration = Duration::from_secs(2);

/// The tables as they were found, if at all, in a ruleset of that generation or a later one.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) generation: Generation,
    tables: [Option<TableState>; 2],
}

fn is_owned(table: &Option<TableState>) -> bool {
    table.as_ref().is_some_and(|state| state.owner.is_some())
}

impl Firewall {
    /// Puts the rules there, in place of what is there, with the elements of the subnets and of the
    /// interfaces that exist: in one batch, so that no packet of theirs passes between two sets of
    /// rules, and none sees rules without its elements.
    pub(crate) fn ensure(&mut self, config: &NetworkConfig, enis: &[Eni]) -> Result<()> {
        let found = self.wait_until_released()?;
        self.admit_only(enis);
        if self.take_unchanged(config, &found)? {
            return Ok(());
        }
        let kinds: &[TableKind] = match config.own_tables {
            true => &[TableKind::Owned, TableKind::Plain],
            false => &[TableKind::Plain],
        };
        let mut outcome = Ok(());
        for kind in kinds {
            outcome = self.load(config, *kind);
            match &outcome {
                Err(error) if is_unknown_kind(error) => {}
                _ => break,
            }
        }
        outcome.doing(|| "load the firewall's rules into nftables".into())
    }

    /// Puts the rules back as they should be, with all elements, in one batch; whether that was needed. Tables that
    /// are ours can't have been changed.
    pub(crate) fn restore(&mut self, config: &NetworkConfig) -> Result<bool> {
        if self.is_owned() && self.find()?.tables.iter().all(is_owned) {
            return Ok(false);
        }
        self.load(config, self.kind)
            .doing(|| "put the firewall's rules back into nftables".into())?;
        Ok(true)
    }

    /// Whether both tables are there and have our rules, as far as their comments say.
    pub(crate) fn is_present(&mut self) -> Result<bool> {
        let found = self.find()?;
        Ok(self.are_ours(&found))
    }

    pub(super) fn are_ours(&self, found: &Found) -> bool {
        found.tables.iter().all(|table| {
            let table = table.as_ref();
            table.is_some_and(|state| state.comment == self.rules.version() && !state.is_dormant)
        })
    }

    /// The number of the socket that changes them.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Whether nobody else can change the tables.
    pub(crate) fn is_owned(&self) -> bool {
        self.kind == TableKind::Owned
    }

    /// Removes both tables.
    pub(crate) fn remove(&mut self) -> Result<()> {
        self.wait_until_released()?;
        let mut batch = Batch::default();
        for table in TABLES {
            if self.table(table)?.is_some() {
                batch.delete_table(table);
            }
        }
        self.socket
            .commit(&batch)
            .doing(|| "remove the tables from nftables".into())
    }

    /// Puts both tables there as they should be, in place of what is there.
    pub(super) fn load(
        &mut self,
        config: &NetworkConfig,
        kind: TableKind,
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        for table in TABLES {
            if self.socket.table(table)?.is_some() {
                batch.delete_table(table);
            }
        }
        self.write_whole(&mut batch, config, kind);
        self.socket.commit_and_know(&batch)?;
        self.kind = kind;
        Ok(())
    }

    /// Both tables, as they should be.
    pub(super) fn write_whole(&self, batch: &mut Batch, config: &NetworkConfig, kind: TableKind) {
        self.rules.write(batch, kind);
        write_contents(batch, config, &self.policies, self.admitted.values());
    }

    /// Makes tables that are nobody's ours, if the ruleset is of this generation; whether it is.
    pub(super) fn adopt(&mut self, generation: Generation) -> Result<bool, NetlinkError> {
        let mut batch = Batch::default();
        for table in TABLES {
            batch.add_table(table, self.rules.version(), TableKind::Owned);
        }
        self.socket.commit_to(&batch, generation)
    }

    /// Waits until no other socket owns the tables.
    fn wait_until_released(&mut self) -> Result<Found> {
        let deadline = Instant::now() + UNTIL_RELEASED;
        loop {
            let found = self.find()?;
            let owners = found.tables.iter().flatten();
            let mut owners = owners.filter_map(|table| table.owner);
            let Some(port) = owners.find(|port| *port != self.socket.port()) else {
                return Ok(found);
            };
            if Instant::now() >= deadline {
                return Err(Error::TablesOwned(port));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks for both tables. If the generation is still the same later, so are they.
    fn find(&mut self) -> Result<Found> {
        let generation = self.generation()?;
        let [inet, bridge] = TABLES;
        Ok(Found {
            generation,
            tables: [self.table(inet)?, self.table(bridge)?],
        })
    }

    pub(super) fn generation(&mut self) -> Result<Generation> {
        let generation = self.socket.generation();
        generation.doing(|| "ask for the generation of the nftables ruleset".into())
    }

    fn table(&mut self, table: Table) -> Result<Option<TableState>> {
        self.socket
            .table(table)
            .doing(|| format!("look for the table {table:?}"))
    }
}

/// Whether the kernel is too old for the tables' flags.
pub(super) fn is_unknown_kind(error: &NetlinkError) -> bool {
    [Errno::EOPNOTSUPP, Errno::EINVAL].contains(&error.errno)
}
