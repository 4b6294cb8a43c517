//! System call filters: OCI's description of one, compiled to the kernel's BPF.
//!
//! The compiler is our own, because the binary is static (so no libseccomp) and because it is on the
//! way of every start: it turns the default profile of some 400 calls into a binary tree, which
//! costs a system call about nine comparisons where a list would cost hundreds.

mod compile;
mod default_profile;
mod install_flags;
mod notify;
mod syscalls;

#[cfg(any(test, fuzzing))]
pub(crate) use compile::interpreter;
pub(crate) use compile::{Filter, compile};
pub use default_profile::default_profile;

pub(crate) use install_flags::{InstallFlags, install_flags};
pub(crate) use notify::notify;

#[cfg(any(test, fuzzing))]
pub(crate) use syscalls::SYSCALLS;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use thiserror::Error;

/// The flags of a filter that are honoured.
pub(crate) const KNOWN_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Tells what is wrong with a filter, if anything.
pub(crate) fn check(profile: &LinuxSeccomp) -> Result<(), Error> {
    install_flags(profile)?;
    compile(profile).map(drop)
}

/// Why a filter can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Notifications that could reach nobody.
    #[error("linux.seccomp: SCMP_ACT_NOTIFY: {reason}")]
    Notify {
        /// What is missing.
        reason: &'static str,
    },
    /// A rule that would deny a call that we don't know: leaving it out would allow the call.
    #[error(
        "linux.seccomp.syscalls: unknown system call {name:?} under an allowing defaultAction: \
         its rule would have no effect"
    )]
    UnknownSyscall {
        /// The name in the configuration.
        name: String,
    },
    /// An architecture that this kernel can't run.
    #[error("linux.seccomp.architectures: {missing}: must include SCMP_ARCH_X86_64 or be absent")]
    Architecture {
        /// What was there instead.
        missing: String,
    },
    /// A flag that has no meaning without another part of the filter.
    #[error("linux.seccomp.flags: {flag} is not possible")]
    Flag {
        /// The flag, and what it lacks.
        flag: &'static str,
    },
    /// A condition on an argument that doesn't exist.
    #[error("linux.seccomp.syscalls: {name}: argument index {index} must be at most 5")]
    ArgumentIndex {
        /// The call.
        name: String,
        /// The index in the configuration.
        index: usize,
    },
    /// An errno that doesn't fit.
    #[error("linux.seccomp: errnoRet {value} must be at most 4095")]
    Errno {
        /// The value in the configuration.
        value: u32,
    },
    /// An errno that would be passed over.
    #[error(
        "linux.seccomp: errnoRet {value} is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE, not for {action}"
    )]
    ErrnoOfAction {
        /// The value in the configuration.
        value: u32,
        /// The action that it stands beside.
        action: LinuxSeccompAction,
    },
    /// The kernel takes no program of this length.
    #[error(
        "linux.seccomp.syscalls: with their names and args the filter has {length} instructions or \
         more, and the kernel takes 4096"
    )]
    TooLong {
        /// The length.
        length: usize,
    },
}
