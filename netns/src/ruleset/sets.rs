//! The sets and maps, in which everything is that comes and goes.
#![forbid(unsafe_code)]

use super::{
    BRIDGE_TABLE, BRIDGES, EGRESS, HOST_ADDRESSES, INET_TABLE, INGRESS, RESOLVERS, SOURCES,
};
use crate::nftables::{Field, Set, Table};

pub(super) fn sets() -> [(Table, Set); 6] {
    use Field::{EtherAddress, Ipv4Address, LinkName};
    let source = [LinkName, EtherAddress, Ipv4Address];
    [
        (INET_TABLE, Set::of_keys(BRIDGES, &[LinkName])),
        (INET_TABLE, Set::of_keys(HOST_ADDRESSES, &[Ipv4Address])),
        (INET_TABLE, Set::of_keys(RESOLVERS, &[Ipv4Address])),
        (INET_TABLE, Set::of_verdicts(INGRESS, &[Ipv4Address])),
        (INET_TABLE, Set::of_verdicts(EGRESS, &[Ipv4Address])),
        (BRIDGE_TABLE, Set::of_keys(SOURCES, &source)),
    ]
}
