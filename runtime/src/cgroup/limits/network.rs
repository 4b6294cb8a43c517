//! Marks and priorities of packets, which v2 leaves to eBPF programs and firewalls.

use oci_spec::runtime::LinuxNetwork;

pub(super) fn passed_over(network: &LinuxNetwork) -> Vec<(&'static str, bool)> {
    let priorities = network.priorities().as_ref();
    vec![
        (
            "network.classID",
            network.class_id().is_some_and(|class| class != 0),
        ),
        (
            "network.priorities",
            priorities.is_some_and(|priorities| !priorities.is_empty()),
        ),
    ]
}
