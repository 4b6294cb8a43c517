//! The sets and maps, in which everything is that comes and goes.
#![forbid(unsafe_code)]

use super::{
    BRIDGE_TABLE, BRIDGES, HAIRPINS, HOST_ADDRESSES, INET_TABLE, IpFamily, PORT_SOURCES, PUBLIC,
    PUBLIC_POOL, PUBLIC_SOURCES, PUBLISHED, RESOLVERS, SOURCES, SUBNETS,
};
use crate::nftables::Field::{EtherAddress, LinkName, Port, Protocol};
use crate::nftables::{Set, Table};

pub(super) fn sets() -> Vec<(Table, Set)> {
    let resolver = [IpFamily::Ipv4.field()];
    let mut sets = vec![
        (INET_TABLE, Set::of_keys(BRIDGES, &[LinkName])),
        (INET_TABLE, Set::of_keys(RESOLVERS, &resolver)),
    ];
    let pool = Set::of_ranges(PUBLIC_POOL, IpFamily::Ipv4.field());
    sets.push((INET_TABLE, pool));
    for map in [PUBLIC, PUBLIC_SOURCES] {
        let address = [IpFamily::Ipv4.field()];
        sets.push((INET_TABLE, Set::of_values(map, &address, &address)));
    }
    for family in IpFamily::BOTH {
        let address = family.field();
        let inet = |set| (INET_TABLE, set);
        let source = [LinkName, EtherAddress, address];
        sets.extend([
            inet(Set::of_ranges(family.set(SUBNETS), address)),
            inet(Set::of_keys(family.set(HOST_ADDRESSES), &[address])),
            inet(Set::of_keys(family.set(PORT_SOURCES), &source)),
            inet(Set::of_values(
                family.set(PUBLISHED),
                &[Protocol, Port],
                &[address, Port],
            )),
            inet(Set::of_keys(family.set(HAIRPINS), &[address, address])),
            (BRIDGE_TABLE, Set::of_keys(family.set(SOURCES), &source)),
        ]);
    }
    sets
}
