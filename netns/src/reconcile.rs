//! After a crash: what belongs to no task is removed, and what a task lacks is put back.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::attachment::ways;
use crate::eni::{Eni, EniId, HOST_LINK_PREFIX, NetnsName};
use crate::error::{Doing, Problems, Result};
use crate::namespace;
use crate::netlink::Link;
use crate::network::{Bridge, Network, namespaces, netns_dir};
use crate::subnet::AttachmentMode;

/// What [`Network::reconcile`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// The interfaces that were allocated and no task's.
    pub released: Vec<Eni>,
    /// The isolated network namespaces that were on record and no task's.
    pub isolated: Vec<NetnsName>,
    /// The network namespaces that no allocation had.
    pub namespaces: Vec<String>,
    /// The links that no allocation had.
    pub links: Vec<String>,
    /// How many neighbour entries no allocation had.
    pub neighbours: usize,
    /// The live interfaces that are not whole: without an address, or without a namespace. Their
    /// tasks have no network.
    pub lost: Vec<EniId>,
}

impl Network {
    /// Frees whatever none of the `live` interfaces has, all network namespaces among it but those `isolated` ones, and
    /// puts back what the neighbour tables and routes lack of the interfaces'. (The firewall's tables were made anew when
    /// the network was opened.) When it returns, what it removed is gone.
    pub fn reconcile(&self, live: &[EniId], isolated: &[NetnsName]) -> Result<Report> {
        let live: BTreeSet<&EniId> = live.iter().collect();
        let isolated: BTreeSet<&NetnsName> = isolated.iter().collect();
        let mut report = Report::default();
        let mut problems = Problems::default();
        for eni in self.list()? {
            if !live.contains(&eni.id) && problems.note(self.dismantle(&eni)).is_some() {
                report.released.push(eni);
            }
        }
        // Outside of the loop, whose head would hold the lock through it.
        let on_record = self.isolated().names();
        for netns in on_record {
            if !isolated.contains(&netns) && problems.note(self.release(&netns)).is_some() {
                report.isolated.push(netns);
            }
        }
        let kept = self.list()?;
        report.namespaces = problems
            .note(self.free_namespaces(&kept))
            .unwrap_or_default();
        report.links = problems.note(self.free_links(&kept)).unwrap_or_default();
        report.neighbours = problems
            .note(self.reconcile_neighbours(&kept))
            .unwrap_or_default();
        problems.note(self.forget_connections(None));
        report.lost = live
            .into_iter()
            .filter(|id| !self.is_whole(id, &kept))
            .cloned()
            .collect();
        problems.finish("reconcile the network")?;
        Ok(report)
    }

    fn is_whole(&self, id: &EniId, kept: &[Eni]) -> bool {
        let eni = kept.iter().find(|eni| eni.id == *id);
        eni.is_some_and(|eni| self.netns_path(&eni.netns).exists())
    }

    fn free_namespaces(&self, kept: &[Eni]) -> Result<Vec<String>> {
        let directory = netns_dir(&self.config);
        let isolated = self.isolated().names();
        let names = kept.iter().map(|eni| &eni.netns).chain(&isolated);
        let kept: BTreeSet<&str> = names.map(NetnsName::as_str).collect();
        let mut freed = Vec::new();
        for name in namespaces(&directory)? {
            let text = name.to_string_lossy().into_owned();
            if !kept.contains(text.as_str()) {
                namespace::remove(&directory.join(&name))?;
                freed.push(text);
            }
        }
        Ok(freed)
    }

    /// Links normally go with their namespace. One that a stray process keeps is removed here, and
    /// one that is about to go is too, so that it is gone afterwards.
    fn free_links(&self, kept: &[Eni]) -> Result<Vec<String>> {
        let mut kept: BTreeSet<String> = kept.iter().map(|eni| eni.id.host_link()).collect();
        kept.extend(self.pool().ids().map(EniId::host_link));
        let mut routes = self.routes();
        let links = routes.links().doing(|| "list the host's links".into())?;
        // A port of ours is on a bridge of ours; a routed link has the address of one.
        let is_ours = |link: &Link| {
            let of_bridge = |bridge: &Bridge| {
                let is_routed = link.mac == Some(bridge.subnet.router_mac());
                link.bridge == Some(bridge.index) || is_routed
            };
            link.name.starts_with(HOST_LINK_PREFIX) && self.bridges.iter().any(of_bridge)
        };
        let stray: Vec<_> = links
            .into_iter()
            .filter(is_ours)
            .filter(|link| !kept.contains(&link.name))
            .collect();
        let indexes: Vec<u32> = stray.iter().map(|link| link.index).collect();
        routes
            .delete_links(&indexes)
            .doing(|| "remove links that no task has".into())?;
        Ok(stray.into_iter().map(|link| link.name).collect())
    }

    fn reconcile_neighbours(&self, kept: &[Eni]) -> Result<usize> {
        let mut routes = self.routes();
        let mut removed = 0;
        for bridge in &self.bridges {
            let members: Vec<&Eni> = kept
                .iter()
                .filter(|eni| eni.subnet == *bridge.subnet.id())
                .collect();
            let doing = || format!("reconcile the neighbours of {}", bridge.subnet.bridge());
            let is_members = |address| {
                let bridged = members
                    .iter()
                    .filter(|eni| eni.mode == AttachmentMode::Bridged);
                bridged
                    .flat_map(|eni| eni.addresses())
                    .any(|own| own == address)
            };
            for address in routes.permanent_neighbours(bridge.index).doing(doing)? {
                if !is_members(address) {
                    routes
                        .delete_neighbour(bridge.index, address)
                        .doing(doing)?;
                    removed += 1;
                }
            }
            for eni in members {
                // Without its link, it is among the lost.
                if let Some(link) = routes.link(&eni.id.host_link()).doing(doing)? {
                    // The subnet may have lost its range of IPv6, and the bridge IPv6 with it.
                    let has_it = |address: &IpAddr| bridge.subnet.is_for_tasks(*address);
                    let addresses = eni.addresses().filter(has_it);
                    let requests = ways(eni, addresses, bridge.index, link.index);
                    routes.send(&requests).doing(doing)?;
                }
            }
        }
        Ok(removed)
    }
}
