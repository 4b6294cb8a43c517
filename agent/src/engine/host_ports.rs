//! Ports of the host's: which of them tasks have, and the choice of one that is free.
//!
//! A task has the ports that its definition names from the moment it is taken, and those that are chosen for it from
//! when it starts, until it has stopped.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use berth_netns::HostPort;

use super::publish::{PUBLISH_TAG, publish};
use crate::task::{NetworkBinding, Task};
use crate::task_definition::{NetworkMode, PortMapping, PortRange, Ports, Protocol};

/// ECS's range of ports to choose from.
const EPHEMERAL: RangeInclusive<u16> = 49_153..=65_535;

/// The choice of ports.
#[derive(Debug)]
pub struct HostPorts {
    /// The kernel takes ports up to this one for what the host itself opens, each for as long as that lasts. Those
    /// behind it come first: a port that is free now is free a moment later, too.
    last_of_kernel: u16,
    /// Where the search goes on: one that was given back rests as long as possible, so that who still knows it
    /// doesn't reach another task.
    next: u16,
}

impl HostPorts {
    /// With the kernel's range as it is now.
    pub fn new() -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let last = range
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        Self::behind(last.unwrap_or(u16::MAX))
    }

    fn behind(last: u16) -> Self {
        // Behind a range that ends before ECS's begins, that is all there is to choose from.
        let last_of_kernel = last.max(EPHEMERAL.start() - 1);
        Self {
            last_of_kernel,
            next: last_of_kernel.saturating_add(1),
        }
    }

    /// As many ports as in `like`, one after the other, all of them free; nothing if there are none.
    pub fn choose(&mut self, like: PortRange, is_free: impl Fn(u16) -> bool) -> Option<PortRange> {
        let first_behind = u32::from(self.last_of_kernel) + 1;
        let behind = first_behind..=u32::from(u16::MAX);
        let (before, after): (Vec<u32>, Vec<u32>) =
            behind.partition(|port| *port < u32::from(self.next));
        let kernels = u32::from(*EPHEMERAL.start())..first_behind;
        let firsts = after.into_iter().chain(before).chain(kernels);
        let ranges =
            firsts.filter_map(|first| PortRange::as_many_as(like, u16::try_from(first).ok()?));
        let found = ranges
            .into_iter()
            .find(|range| range.ports().all(&is_free))?;
        if found.last() > self.last_of_kernel {
            self.next = found.last().wrapping_add(1);
        }
        Some(found)
    }
}

/// The ports that are known before the task starts: those that its definition names, or, under awsvpc, where a port
/// mapping binds nothing on the host, its tag.
pub fn named(task: &Task) -> BTreeSet<HostPort> {
    let definition = &task.definition;
    if definition.network_mode == NetworkMode::Awsvpc {
        let tag = publish(task.tag(PUBLISH_TAG).unwrap_or_default());
        let ports = tag.into_iter().flatten().map(|publish| HostPort {
            protocol: publish.protocol,
            port: publish.host_port,
        });
        return ports.collect();
    }
    let mappings = definition.container_definitions.iter();
    let mappings = mappings.flat_map(|container| &container.port_mappings);
    mappings
        .filter_map(|mapping| Some(host_port(mapping.protocol, mapping.ports.fixed()?)))
        .collect()
}

/// All that a task has.
pub fn all(task: &Task) -> BTreeSet<HostPort> {
    let mut ports = named(task);
    let bindings = task.containers.iter().flat_map(|c| &c.bindings);
    ports.extend(bindings.flat_map(|binding| {
        let host = binding.host.ports();
        host.map(|port| host_port(binding.protocol, port))
    }));
    ports
}

/// A port of the host's.
pub fn host_port(protocol: Protocol, port: u16) -> HostPort {
    HostPort {
        protocol: protocol.into(),
        port,
    }
}

/// What leads to a container by this mapping of its, with ports chosen where the definition names none. `choose`
/// returns nothing where none is free.
pub fn bind(
    mapping: &PortMapping,
    choose: impl FnOnce(PortRange) -> Option<PortRange>,
) -> Option<NetworkBinding> {
    let container = mapping.ports.container();
    let host = match mapping.ports {
        Ports::One { host, .. } if host != 0 => PortRange::one(host),
        _ => choose(container)?,
    };
    Some(NetworkBinding {
        container,
        host,
        protocol: mapping.protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> PortRange {
        PortRange::try_from(text.to_owned()).unwrap()
    }

    fn one(ports: &mut HostPorts, taken: &[u16]) -> Option<u16> {
        let found = ports.choose(PortRange::one(80), |port| !taken.contains(&port));
        found.map(PortRange::first)
    }

    #[test]
    fn ports_behind_the_kernels_come_first_and_one_after_the_other() {
        let mut ports = HostPorts::behind(60_999);
        let chosen = [61_000, 61_001, 61_002].map(Some);
        assert_eq!([(); 3].map(|()| one(&mut ports, &[])), chosen);
        // 61,000 is free again, and rests.
        assert_eq!(one(&mut ports, &[61_003, 61_004]), Some(61_005));
        ports.next = u16::MAX;
        assert_eq!(one(&mut ports, &[]), Some(u16::MAX));
        assert_eq!(one(&mut ports, &[]), Some(61_000));
    }

    #[test]
    fn where_none_is_left_behind_the_kernels_own_serve() {
        let mut ports = HostPorts::behind(60_999);
        let low = ports.choose(PortRange::one(80), |port| port < 61_000);
        assert_eq!(low, Some(PortRange::one(49_153)));
        assert_eq!(ports.choose(PortRange::one(80), |_| false), None);
        for last in [u16::MAX, 49_152, 32_000] {
            let chosen = one(&mut HostPorts::behind(last), &[]);
            assert_eq!(chosen, Some(49_153), "{last}");
        }
    }

    #[test]
    fn a_range_is_in_one_piece() {
        let mut ports = HostPorts::behind(60_999);
        let is_free = |port| port != 61_005 && port != 61_020;
        let chosen = ports.choose(range("8080-8090"), is_free);
        assert_eq!(chosen, Some(range("61006-61016")));
        let chosen = ports.choose(range("8080-8090"), is_free);
        assert_eq!(chosen, Some(range("61021-61031")));
        ports.next = 65_530;
        let chosen = ports.choose(range("8080-8090"), |_| true);
        assert_eq!(chosen, Some(range("61000-61010")));
    }
}
