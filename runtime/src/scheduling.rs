//! Where and with which priority a process runs: processors, scheduler, I/O, memory nodes; and the
//! execution domain. From the configuration's words to the kernel's numbers.

use nix::sched::CpuSet;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process,
    Scheduler,
};

use crate::sys::scheduling::{MemoryPolicy, SchedulerAttributes};

/// The most processors, or memory nodes, that a list may name: the kernel's own limit is 8192
/// processors in the largest configuration, and 1024 nodes.
const MAX_LISTED: usize = 1024;

/// From include/uapi/linux/personality.h.
const PER_LINUX32: u64 = 8;

/// All of it, ready for the calls; absent is left as it is.
#[derive(Debug, Default)]
pub(crate) struct Scheduling {
    /// The processors that a process entering a container starts on.
    pub(crate) initial_affinity: Option<CpuSet>,
    /// Those that it goes on with.
    pub(crate) final_affinity: Option<CpuSet>,
    pub(crate) scheduler: Option<SchedulerAttributes>,
    /// Class and level as ioprio_set(2) has them.
    pub(crate) io_priority: Option<i32>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    pub(crate) personality: Option<u64>,
}

impl Scheduling {
    /// What the process itself says; affinity is for processes that enter a container alone
    /// (`process.execCPUAffinity`).
    pub(crate) fn of(process: &Process) -> Self {
        Self {
            scheduler: process.scheduler().as_ref().map(attributes),
            io_priority: process.io_priority().as_ref().map(io_priority),
            ..Self::default()
        }
    }

    /// Adds the affinity of a process that enters a container.
    pub(crate) fn with_affinity(mut self, process: &Process) -> Self {
        if let Some(affinity) = process.exec_cpu_affinity() {
            let set = |list: &Option<String>| list.as_deref().and_then(parse_list).and_then(cpus);
            self.initial_affinity = set(affinity.initial());
            self.final_affinity = set(affinity.cpu_affinity_final());
        }
        self
    }

    /// Adds what the container as a whole has.
    pub(crate) fn in_container(
        mut self,
        memory: Option<&LinuxMemoryPolicy>,
        domain: Option<&LinuxPersonality>,
    ) -> Self {
        self.memory_policy = memory.map(memory_policy);
        self.personality = domain.map(|domain| match domain.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        });
        self
    }
}

/// Parses a list such as `0-3,7`, the kernel's form for processors and nodes.
pub(crate) fn parse_list(list: &str) -> Option<Vec<usize>> {
    // All numbers one by one have less; what is longer repeats itself, and would fill memory.
    if list.len() > MAX_LISTED * 5 {
        return None;
    }
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse().ok().filter(|n| *n < MAX_LISTED);
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

fn cpus(numbers: Vec<usize>) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for number in numbers {
        set.set(number).ok()?;
    }
    Some(set)
}

fn attributes(scheduler: &Scheduler) -> SchedulerAttributes {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        // Reserved by the kernel, and refused by validation.
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
    };
    let flags = scheduler.flags().iter().flatten();
    SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy: policy as u32,
        flags: flags.map(scheduler_flag).fold(0, |all, flag| all | flag),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0) as u32,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }
}

/// `SCHED_FLAG_*` of include/uapi/linux/sched.h.
fn scheduler_flag(flag: &LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

fn io_priority(priority: &LinuxIOPriority) -> i32 {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    // Validation has bounded the level to three bits.
    (class << 13) | (priority.priority() as i32 & 7)
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> MemoryPolicy {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().map(|flag| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    });
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let mut mask = [0u64; MAX_LISTED / 64];
    for node in nodes.and_then(parse_list).unwrap_or_default() {
        if let Some(word) = mask.get_mut(node / 64) {
            *word |= 1 << (node % 64);
        }
    }
    MemoryPolicy {
        mode: flags.fold(mode, |all, flag| all | flag),
        nodes: mask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse_list("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(parse_list("3"), Some(vec![3]));
        for bad in ["", "a", "3-1", "1-", "-1", "1024", "0,,1", "0-1-2"] {
            assert_eq!(parse_list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_policy_names_its_nodes_by_bits() {
        let policy = serde_json::from_str(
            r#"{"mode": "MPOL_BIND", "nodes": "0,65", "flags": ["MPOL_F_STATIC_NODES"]}"#,
        );
        let policy = memory_policy(&policy.unwrap());
        assert_eq!(policy.mode, 2 | 1 << 15);
        assert_eq!(policy.nodes.get(..2), Some(&[1, 2][..]));
    }
}
