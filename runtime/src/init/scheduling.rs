//! Where and with which priority the process runs, set while it still has the right to.

use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

use super::step::{Failure, Step};
use crate::scheduling::Scheduling;
use crate::sys::scheduling as kernel;

/// The processors that a process starts on when it enters a container.
pub(super) fn start_on(plan: &Scheduling) -> Result<(), Failure> {
    match &plan.initial_affinity {
        Some(cpus) => {
            sched_setaffinity(Pid::from_raw(0), cpus).map_err(Failure::of(Step::InitialAffinity))
        }
        None => Ok(()),
    }
}

/// All the rest.
pub(super) fn set(plan: &Scheduling) -> Result<(), Failure> {
    if let Some(domain) = plan.personality {
        kernel::set_personality(domain).map_err(Failure::of(Step::Personality))?;
    }
    if let Some(policy) = &plan.memory_policy {
        kernel::set_memory_policy(policy).map_err(Failure::of(Step::MemoryPolicy))?;
    }
    if let Some(attributes) = &plan.scheduler {
        kernel::set_scheduler(attributes).map_err(Failure::of(Step::Scheduler))?;
    }
    if let Some(priority) = plan.io_priority {
        kernel::set_io_priority(priority).map_err(Failure::of(Step::IoPriority))?;
    }
    if let Some(cpus) = &plan.final_affinity {
        sched_setaffinity(Pid::from_raw(0), cpus).map_err(Failure::of(Step::FinalAffinity))?;
    }
    Ok(())
}
