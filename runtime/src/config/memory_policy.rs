//! The memory policy, by the rules of set_mempolicy(2): the kernel would answer any breach with a bare
//! EINVAL, when the program is about to be executed.

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType};

use super::{Error, bounds, value};
use crate::scheduling;

pub(super) fn validate(policy: &LinuxMemoryPolicy) -> Result<(), Error> {
    validate_nodes(policy)?;
    validate_flags(policy)
}

fn validate_nodes(policy: &LinuxMemoryPolicy) -> Result<(), Error> {
    use MemoryPolicyModeType::{MpolDefault, MpolLocal, MpolPreferred};
    let (mode, nodes) = (policy.mode(), policy.nodes().as_deref().unwrap_or_default());
    let expected = match (nodes.is_empty(), mode) {
        (true, MpolDefault | MpolLocal | MpolPreferred) => return Ok(()),
        (true, _) => format!("must name nodes for mode {mode}"),
        (false, MpolDefault | MpolLocal) => format!("must be empty for mode {mode}"),
        (false, _) if scheduling::parse_list(nodes).is_some() => return Ok(()),
        (false, _) => "must be a list of NUMA nodes such as \"0-1,3\"".to_owned(),
    };
    let nodes = bounds::shortened(nodes);
    Err(value("linux.memoryPolicy.nodes", nodes, expected))
}

fn validate_flags(policy: &LinuxMemoryPolicy) -> Result<(), Error> {
    use MemoryPolicyFlagType::{MpolFNumaBalancing, MpolFRelativeNodes, MpolFStaticNodes};
    use MemoryPolicyModeType::{MpolBind, MpolPreferredMany};
    let flags = policy.flags().as_deref().unwrap_or_default();
    let has = |flag| flags.contains(&flag);
    let can_balance = matches!(policy.mode(), MpolBind | MpolPreferredMany);
    let contradict = has(MpolFStaticNodes) && has(MpolFRelativeNodes);
    match contradict || has(MpolFNumaBalancing) && !can_balance {
        true => Err(value(
            "linux.memoryPolicy.flags",
            flags,
            format!("contradict each other, or mode {}", policy.mode()),
        )),
        false => Ok(()),
    }
}
