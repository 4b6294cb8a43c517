//! The steps of a container's making, by which a failure in the child is named in the parent.

use nix::errno::Errno;

/// A step that can fail. The order is that in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Step {
    NewTimeNamespace,
    Isolate,
    WaitForIdMaps,
    InitialAffinity,
    BecomeNamespaceRoot,
    JoinNamespace,
    Clone,
    NewCgroupNamespace,
    NewSession,
    SessionKeyring,
    BringLoopbackUp,
    SetHostname,
    SetDomainname,
    MakeMountsPrivate,
    AttachRoot,
    Mount,
    Device,
    DeviceLink,
    Console,
    ParentsTurn,
    Sysctl,
    MaskPath,
    ReadonlyPath,
    ReadonlyRoot,
    PivotRoot,
    Propagation,
    Apparmor,
    Selinux,
    Stdio,
    ResourceLimit,
    Personality,
    MemoryPolicy,
    Scheduler,
    IoPriority,
    FinalAffinity,
    WorkingDirectory,
    NoNewPrivileges,
    ReceiveSeccomp,
    Seccomp,
    Capabilities,
    Groups,
    User,
    FindExecutable,
    Descriptors,
    ParentDeathSignal,
    WaitForStart,
    Exec,
}

impl Step {
    const ALL: [Self; 47] = [
        Self::NewTimeNamespace,
        Self::Isolate,
        Self::WaitForIdMaps,
        Self::InitialAffinity,
        Self::BecomeNamespaceRoot,
        Self::JoinNamespace,
        Self::Clone,
        Self::NewCgroupNamespace,
        Self::NewSession,
        Self::SessionKeyring,
        Self::BringLoopbackUp,
        Self::SetHostname,
        Self::SetDomainname,
        Self::MakeMountsPrivate,
        Self::AttachRoot,
        Self::Mount,
        Self::Device,
        Self::DeviceLink,
        Self::Console,
        Self::ParentsTurn,
        Self::Sysctl,
        Self::MaskPath,
        Self::ReadonlyPath,
        Self::ReadonlyRoot,
        Self::PivotRoot,
        Self::Propagation,
        Self::Apparmor,
        Self::Selinux,
        Self::Stdio,
        Self::ResourceLimit,
        Self::Personality,
        Self::MemoryPolicy,
        Self::Scheduler,
        Self::IoPriority,
        Self::FinalAffinity,
        Self::WorkingDirectory,
        Self::NoNewPrivileges,
        Self::ReceiveSeccomp,
        Self::Seccomp,
        Self::Capabilities,
        Self::Groups,
        Self::User,
        Self::FindExecutable,
        Self::Descriptors,
        Self::ParentDeathSignal,
        Self::WaitForStart,
        Self::Exec,
    ];

    /// The step that travelled as this number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u32 == number)
    }
}

/// What failed in the child: which step, which of its items, and the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) index: u32,
    pub(crate) errno: Errno,
}

impl Failure {
    /// For use with `map_err`: a failure of a step that has no items.
    pub(crate) fn of(step: Step) -> impl Fn(Errno) -> Self {
        Self::of_item(step, 0)
    }

    /// For use with `map_err`: a failure of one item of a step.
    pub(crate) fn of_item(step: Step, index: usize) -> impl Fn(Errno) -> Self {
        move |errno| Self {
            step,
            index: index as u32,
            errno,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_survives_its_travel_as_a_number() {
        for (number, step) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, number);
            assert_eq!(Step::from_number(number as u32), Some(step));
        }
        assert_eq!(Step::from_number(Step::ALL.len() as u32), None);
    }
}
