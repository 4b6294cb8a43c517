//! The firewall of the tasks: our two nftables tables, and the elements that each task has in them.
//!
//! The rules are in [`crate::ruleset`] and never change while the host runs. What a task may do is
//! in sets: bridges, the addresses of the host on them, which port may send from which MAC and IPv4
//! address, and which addresses are members of a security group.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use crate::eni::Eni;
use crate::error::{Doing, Result};
use crate::nftables::{Batch, Element, NftSocket, Table};
use crate::ruleset::{self, BRIDGE_TABLE, INET_TABLE};
use crate::subnet::{METADATA_ADDRESS, Subnet};

/// How many elements one batch changes at most: the kernel limits a message's size.
const BATCH_SIZE: usize = 500;

/// The two tables, and the socket to them.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: NftSocket,
}

impl Firewall {
    pub(crate) fn open() -> Result<Self> {
        let socket = NftSocket::open().doing(|| "open the socket of nftables".into())?;
        Ok(Self { socket })
    }

    /// Puts the rules there unless they are there, with the elements of the subnets and of the
    /// interfaces that exist: in one batch, so that no packet of theirs passes between two sets of
    /// rules, and none sees rules without its elements.
    pub(crate) fn ensure(
        &mut self,
        subnets: &[Subnet],
        enis: &[Eni],
        metadata_port: u16,
    ) -> Result<()> {
        let mut batch = Batch::default();
        let version = ruleset::version(metadata_port);
        let mut present = true;
        for table in [INET_TABLE, BRIDGE_TABLE] {
            let comment = self.comment(table)?;
            present &= comment.as_ref() == Some(&version);
            if comment.is_some() {
                batch.delete_table(table);
            }
        }
        if present {
            batch = Batch::default();
        } else {
            ruleset::write(&mut batch, metadata_port);
        }
        let elements = subnets.iter().flat_map(subnet_elements);
        elements.for_each(|element| batch.add_element(&element));
        if !present {
            enis.iter()
                .flat_map(eni_elements)
                .for_each(|element| batch.add_element(&element));
        }
        self.socket
            .commit(batch)
            .doing(|| "load the firewall's rules into nftables".into())
    }

    /// Lets an interface send and be reached.
    pub(crate) fn admit(&mut self, eni: &Eni) -> Result<()> {
        let mut batch = Batch::default();
        eni_elements(eni)
            .iter()
            .for_each(|element| batch.add_element(element));
        self.socket
            .commit(batch)
            .doing(|| format!("add {} to the firewall's sets", eni.id))
    }

    /// The undo of [`Firewall::admit`]: nothing from or to the interface passes any more.
    pub(crate) fn expel(&mut self, eni: &Eni) -> Result<()> {
        let mut batch = Batch::default();
        eni_elements(eni)
            .iter()
            .for_each(|element| batch.delete_element(element));
        self.socket
            .commit(batch)
            .doing(|| format!("remove {} from the firewall's sets", eni.id))
    }

    /// Makes the interfaces' elements exactly those of `enis`; how many were removed.
    pub(crate) fn reconcile(&mut self, enis: &[Eni]) -> Result<usize> {
        let wanted: Vec<Element> = enis.iter().flat_map(eni_elements).collect();
        let mut removed = 0;
        for (table, set) in ruleset::SETS_OF_INTERFACES {
            let keys = self
                .socket
                .keys(table, set)
                .doing(|| format!("list the set {set}"))?;
            let stale: Vec<&Vec<u8>> = keys
                .iter()
                .filter(|key| {
                    !wanted
                        .iter()
                        .any(|element| element.set == set && element.key == **key)
                })
                .collect();
            removed += stale.len();
            for some in stale.chunks(BATCH_SIZE) {
                let mut batch = Batch::default();
                for key in some {
                    batch.delete_element(&Element {
                        table,
                        set,
                        key: (*key).clone(),
                    });
                }
                self.socket
                    .commit(batch)
                    .doing(|| format!("remove what is stale from the set {set}"))?;
            }
        }
        for some in wanted.chunks(BATCH_SIZE) {
            let mut batch = Batch::default();
            some.iter().for_each(|element| batch.add_element(element));
            self.socket
                .commit(batch)
                .doing(|| "add what is missing to the firewall's sets".into())?;
        }
        Ok(removed)
    }

    /// Removes both tables.
    pub(crate) fn remove(&mut self) -> Result<()> {
        let mut batch = Batch::default();
        for table in [INET_TABLE, BRIDGE_TABLE] {
            if self.comment(table)?.is_some() {
                batch.delete_table(table);
            }
        }
        self.socket
            .commit(batch)
            .doing(|| "remove the tables from nftables".into())
    }

    fn comment(&mut self, table: Table) -> Result<Option<String>> {
        self.socket
            .table_comment(table)
            .doing(|| format!("look for the table {table:?}"))
    }
}

fn subnet_elements(subnet: &Subnet) -> Vec<Element> {
    let bridge = interface_name(subnet.bridge());
    let address = |set, address: Ipv4Addr| inet(set, address.octets().to_vec());
    vec![
        inet(ruleset::BRIDGES, bridge),
        address(ruleset::HOST_ADDRESSES, subnet.router()),
        address(ruleset::HOST_ADDRESSES, subnet.resolver()),
        address(ruleset::HOST_ADDRESSES, METADATA_ADDRESS),
        address(ruleset::RESOLVERS, subnet.resolver()),
    ]
}

fn eni_elements(eni: &Eni) -> Vec<Element> {
    let address = eni.address.octets();
    // Fields of a key are padded to four bytes.
    let mut source = interface_name(&eni.id.host_link());
    source.extend_from_slice(&eni.mac().0);
    source.extend_from_slice(&[0, 0]);
    source.extend_from_slice(&address);
    vec![
        Element {
            table: BRIDGE_TABLE,
            set: ruleset::SOURCES,
            key: source,
        },
        inet(ruleset::MEMBERS, address.to_vec()),
    ]
}

fn inet(set: &'static str, key: Vec<u8>) -> Element {
    Element {
        table: INET_TABLE,
        set,
        key,
    }
}

/// A link's name as a key: sixteen bytes, the rest of them zero.
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_check_has_the_port_the_mac_and_the_address() {
        let eni = Eni {
            id: "eni-00000000000000abc".parse().expect("valid"),
            address: Ipv4Addr::new(10, 231, 0, 4),
            subnet: Subnet::default_subnet().id().clone(),
            security_groups: Vec::new(),
            netns: "task".parse().expect("valid"),
        };
        let elements = eni_elements(&eni);
        let golden = [
            &b"eni-00000000abc\0"[..],
            &[2, 0, 0, 0, 0x0a, 0xbc, 0, 0],
            &[10, 231, 0, 4],
        ];
        assert_eq!(elements[0].key, golden.concat());
        assert_eq!(elements[1].key, [10, 231, 0, 4]);
    }
}
