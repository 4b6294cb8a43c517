//! Failures on demand, so that tests can see what a crash leaves after every single step.
//!
//! `BERTH_NETNS_FAILPOINT=<step>` aborts the process when it has done that step;
//! `BERTH_NETNS_FAILPOINT=<step>:error` lets the step fail instead. The variable is read once.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The variable that names a step.
const VARIABLE: &str = "BERTH_NETNS_FAILPOINT";

/// The steps that can be named, in the order in which they happen.
pub const FAILPOINTS: &[&str] = &[
    OPEN_FIREWALL,
    OPEN_BRIDGE,
    OPEN_ROUTING_POLICY,
    OPEN_SYSCTLS,
    ATTACH_ADDRESS,
    ATTACH_NAMESPACE,
    ATTACH_VETH,
    ATTACH_PORT,
    ATTACH_MOUNT,
    ATTACH_FIREWALL,
    ATTACH_NEIGHBOUR,
    ATTACH_INTERFACE,
    DETACH_FIREWALL,
    DETACH_NEIGHBOUR,
    DETACH_NAMESPACE,
    DETACH_ADDRESS,
    ISOLATE_RECORD,
    ISOLATE_NAMESPACE,
    ISOLATE_MOUNT,
    RELEASE_NAMESPACE,
    RELEASE_RECORD,
];

pub(crate) const OPEN_FIREWALL: &str = "open:firewall";
pub(crate) const OPEN_ROUTING_POLICY: &str = "open:routing-policy";
pub(crate) const OPEN_BRIDGE: &str = "open:bridge";
pub(crate) const OPEN_SYSCTLS: &str = "open:sysctls";
pub(crate) const ATTACH_ADDRESS: &str = "attach:address";
pub(crate) const ATTACH_NAMESPACE: &str = "attach:namespace";
pub(crate) const ATTACH_VETH: &str = "attach:veth";
pub(crate) const ATTACH_PORT: &str = "attach:port";
pub(crate) const ATTACH_MOUNT: &str = "attach:mount";
pub(crate) const ATTACH_FIREWALL: &str = "attach:firewall";
pub(crate) const ATTACH_NEIGHBOUR: &str = "attach:neighbour";
pub(crate) const ATTACH_INTERFACE: &str = "attach:interface";
pub(crate) const DETACH_FIREWALL: &str = "detach:firewall";
pub(crate) const DETACH_NEIGHBOUR: &str = "detach:neighbour";
pub(crate) const DETACH_NAMESPACE: &str = "detach:namespace";
pub(crate) const DETACH_ADDRESS: &str = "detach:address";
pub(crate) const ISOLATE_RECORD: &str = "isolate:record";
pub(crate) const ISOLATE_NAMESPACE: &str = "isolate:namespace";
pub(crate) const ISOLATE_MOUNT: &str = "isolate:mount";
pub(crate) const RELEASE_NAMESPACE: &str = "release:namespace";
pub(crate) const RELEASE_RECORD: &str = "release:record";

/// Says that a step is done; fails or aborts if a test asked for that.
pub(crate) fn reached(step: &'static str) -> Result<()> {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var(VARIABLE).ok());
    match wanted
        .as_deref()
        .and_then(|wanted| wanted.strip_prefix(step))
    {
        Some("") => std::process::abort(),
        Some(":error") => Err(Error::Injected(step)),
        _ => Ok(()),
    }
}
