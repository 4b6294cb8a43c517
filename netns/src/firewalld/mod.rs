//! firewalld's place for others: its zone `trusted`, which has the links of tasks in it while firewalld runs.
//!
//! firewalld rejects what it doesn't know, and our accept can't override that. In this zone it lets pass whatever comes
//! from a link; what may pass is for our own tables. Links, and not ranges: whoever claims to be in a range would be
//! trusted, too. Only what firewalld has in memory is changed, so that its next start or reload forgets it; the
//! [`FirewalldWatch`] tells it again.
//!
//! It is asked only where its table is in this network namespace: the bus leads to the firewalld of a machine, and not
//! every network is that machine's.
#![forbid(unsafe_code)]

mod bus;
mod message;
mod watch;

use std::time::{Duration, Instant};

pub use bus::BusError;
pub use watch::{FirewalldEvent, FirewalldWatch};

use bus::Bus;
use message::Call;

use crate::config::NetworkConfig;
use crate::eni::HOST_LINK_PREFIX;
use crate::error::{Doing, Error, Problems, Result};
use crate::nftables::{Family, NftSocket, Table};
use crate::subnet::Subnet;

/// The table of firewalld's rules.
const TABLE: Table = Table {
    family: Family::Inet,
    name: "firewalld",
};

/// The zone that lets everything pass.
const ZONE: &str = "trusted";

/// How long one conversation with firewalld may take: it answers nobody while it loads its rules.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of asking firewalld.
#[derive(Debug, Default, PartialEq, Eq)]
struct Joined {
    /// The links that are in the zone.
    inside: Vec<String>,
    /// Those of them that are in it as of now.
    added: Vec<String>,
    /// The links that somebody has put in another zone, and that zone. They stay there.
    elsewhere: Vec<(String, String)>,
}

/// Where tasks' packets come from: bridges, and the links of routed tasks, as firewalld writes the beginning of a name.
/// Both, whatever the subnets' modes: those may have changed while tasks run.
fn links(config: &NetworkConfig) -> Vec<String> {
    let bridges = config.subnets.iter().map(Subnet::bridge);
    let routed = format!("{HOST_LINK_PREFIX}+");
    bridges.map(str::to_owned).chain([routed]).collect()
}

/// Whether firewalld's rules are in this network namespace.
fn is_here(socket: &mut NftSocket) -> Result<bool> {
    let table = socket.table(TABLE);
    let table = table.doing(|| "look for firewalld's table in nftables".into())?;
    Ok(table.is_some())
}

/// Puts into the zone those of the links that are in none.
fn join(links: &[String]) -> Result<Joined> {
    let join = || -> Result<Joined, BusError> {
        let mut joined = Joined::default();
        let mut zones = Zones::open()?;
        for link in links {
            match zones.of(link)? {
                zone if zone == ZONE => joined.inside.push(link.clone()),
                zone if zone.is_empty() => {
                    zones.add(link)?;
                    joined.inside.push(link.clone());
                    joined.added.push(link.clone());
                }
                zone => joined.elsewhere.push((link.clone(), zone)),
            }
        }
        Ok(joined)
    };
    join().map_err(|source| Error::Firewalld {
        advice: advice(links),
        source,
    })
}

/// What does by hand what could not be done.
fn advice(links: &[String]) -> String {
    let options = links.iter().map(|link| format!(" --add-interface={link}"));
    format!("firewall-cmd --zone={ZONE}{}", options.collect::<String>())
}

/// Takes our links out of the zone again, where firewalld runs.
pub(crate) fn leave(config: &NetworkConfig) -> Result<()> {
    let socket = NftSocket::open().doing(|| "open the socket of nftables".into());
    if !is_here(&mut socket?)? {
        return Ok(());
    }
    let failed = |link: &str, source| Error::FirewalldKeeps {
        link: link.to_owned(),
        source,
    };
    let links = links(config);
    let mut zones = Zones::open().map_err(|source| failed(&links.join(", "), source))?;
    let mut problems = Problems::default();
    for link in &links {
        let left = zones.of(link).and_then(|zone| match zone == ZONE {
            true => zones.remove(link),
            false => Ok(()),
        });
        problems.note(left.map_err(|source| failed(link, source)));
    }
    problems.finish(format!("leave firewalld's zone {ZONE}"))
}

/// One conversation about firewalld's zones.
#[derive(Debug)]
struct Zones(Bus);

impl Zones {
    fn open() -> Result<Self, BusError> {
        Bus::open(Instant::now() + PATIENCE).map(Self)
    }

    /// The zone that a link was put in; empty if it is in none.
    fn of(&mut self, link: &str) -> Result<String, BusError> {
        self.call("getZoneOfInterface", &[link])
    }

    fn add(&mut self, link: &str) -> Result<(), BusError> {
        self.call("addInterface", &[ZONE, link]).map(drop)
    }

    fn remove(&mut self, link: &str) -> Result<(), BusError> {
        self.call("removeInterface", &[ZONE, link]).map(drop)
    }

    fn call(&mut self, member: &str, arguments: &[&str]) -> Result<String, BusError> {
        self.0.call(&Call {
            destination: "org.fedoraproject.FirewallD1",
            path: "/org/fedoraproject/FirewallD1",
            interface: "org.fedoraproject.FirewallD1.zone",
            member,
            arguments,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_links_of_all_subnets_and_of_routed_tasks() {
        let links = links(&NetworkConfig::new("/state", "/run"));
        assert_eq!(
            advice(&links),
            "firewall-cmd --zone=trusted --add-interface=berth0 --add-interface=berth1 --add-interface=berth2 \
             --add-interface=eni-+"
        );
    }
}
