//! Interfaces that are prepared before a task wants one.
//!
//! What is in the pool is up, but closed by the firewall. It is held by descriptors only, and goes with this process. It
//! has an id, from which its MAC address and its link's name follow, and no address: who wants it takes that id
//! ([`Network::choose_eni`]).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::eni::EniId;
use crate::error::{Doing, Error, Result};
use crate::network::Network;
use crate::prepared::Prepared;
use crate::subnet::SubnetId;
use crate::subordinate_ids::HeldRange;

/// The interfaces that wait for a task.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Those that nobody has asked for.
    idle: BTreeMap<SubnetId, Vec<Prepared>>,
    /// Those whose id somebody has.
    chosen: BTreeMap<EniId, Prepared>,
}

impl Pool {
    fn count(&self, subnet: &SubnetId) -> usize {
        self.idle.get(subnet).map_or(0, Vec::len)
    }

    fn add(&mut self, prepared: Prepared) {
        let idle = self.idle.entry(prepared.subnet.clone()).or_default();
        idle.push(prepared);
    }

    fn choose(&mut self, subnet: &SubnetId) -> Option<EniId> {
        let prepared = self.idle.get_mut(subnet)?.pop()?;
        let id = prepared.id.clone();
        self.chosen.insert(id.clone(), prepared);
        Some(id)
    }

    /// The interface with this id.
    pub(crate) fn take(&mut self, id: &EniId) -> Option<Prepared> {
        self.chosen.remove(id)
    }

    /// Lets go of the interface with this id.
    pub(crate) fn discard(&mut self, id: &EniId) {
        self.chosen.remove(id);
    }

    /// The ids of all.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &EniId> {
        let idle = self.idle.values().flatten().map(|prepared| &prepared.id);
        idle.chain(self.chosen.keys())
    }
}

impl Network {
    /// Prepares interfaces in a subnet until so many wait for a task there, and returns how many were missing. Each
    /// takes one to two milliseconds, two descriptors, and, in a bridged subnet, a port of the bridge.
    ///
    /// For a thread that nobody waits for: attachments go on meanwhile.
    pub fn prepare_interfaces(&self, subnet: &SubnetId, count: usize) -> Result<usize> {
        let bridge = self.bridge(subnet)?;
        let mut made = 0;
        while self.pool().count(subnet) < count {
            let id = generate()?;
            let range = self.take_id_range()?;
            let owner = range.as_ref().map(|held| held.range);
            let namespace = self.new_namespace(&bridge.subnet, owner)?;
            let mut prepared = self.prepare(&id, bridge, namespace)?;
            prepared.id_range = range;
            self.finish(&mut prepared, bridge, Vec::new())?;
            self.pool().add(prepared);
            made += 1;
        }
        Ok(made)
    }

    /// The id for a new interface in a subnet: that of a prepared one, if there is one, else one that nobody has used.
    /// Who then doesn't attach it detaches it.
    pub fn choose_eni(&self, subnet: &SubnetId) -> Result<EniId> {
        let chosen = self.pool().choose(subnet);
        chosen.map_or_else(generate, Ok)
    }

    /// Removes the interfaces that nobody has asked for, and their links with them: some 16 ms for all.
    pub fn discard_prepared(&self) -> Result<()> {
        let idle = std::mem::take(&mut self.pool().idle);
        self.discard(idle.into_values().flatten().collect())
    }

    /// Ids for a task: the last may be those of interfaces that nobody has asked for.
    pub(crate) fn take_id_range_for_task(&self) -> Result<Option<HeldRange>> {
        match self.take_id_range() {
            Err(Error::IdsExhausted(_)) => {
                self.discard_prepared()?;
                self.take_id_range()
            }
            outcome => outcome,
        }
    }

    /// Does so with those of one subnet; whether there were any.
    pub(crate) fn discard_idle(&self, subnet: &SubnetId) -> Result<bool> {
        let idle = self.pool().idle.remove(subnet).unwrap_or_default();
        let were_any = !idle.is_empty();
        self.discard(idle)?;
        Ok(were_any)
    }

    fn discard(&self, idle: Vec<Prepared>) -> Result<()> {
        let links: Vec<u32> = idle.iter().map(|prepared| prepared.link).collect();
        self.routes()
            .delete_links(&links)
            .doing(|| "remove the links of prepared interfaces".into())
    }
}

fn generate() -> Result<EniId> {
    EniId::generate().map_err(|error| Error::io("draw the id of an interface", error))
}
