//! What can go wrong with a container, in words for the operator.

use std::ffi::CStr;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;
use thiserror::Error as ThisError;

use crate::init::step::{Failure, Step};
use crate::plan::Plan;
use crate::{cgroup, config, criu, plan, seccomp};

/// Why something about a container failed.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong, or asks for what this runtime can't do.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The cgroup couldn't be made, limited, read or removed.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The system call filter is wrong.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// Something of the host that the configuration names can't be used.
    #[error(transparent)]
    Prepare(#[from] plan::Error),
    /// The cgroup of the configuration has processes of somebody else.
    #[error(
        "cgroup {path:?} (linux.cgroupsPath) has processes already: each container needs its own"
    )]
    CgroupInUse {
        /// The path below the cgroup root.
        path: PathBuf,
    },
    /// Ids of the host that we may not map.
    #[error("{field}: this user may not map the host's ids {ids}: {reason}")]
    IdMap {
        /// The field of the configuration.
        field: &'static str,
        /// The ids.
        ids: String,
        /// Why.
        reason: String,
    },
    /// Something was asked of a container that only one with a cgroup can do.
    #[error("a container without a cgroup of its own can't {wanted}")]
    NoCgroup {
        /// What was asked.
        wanted: &'static str,
    },
    /// CRIU, or what is asked of it, is not as it must be.
    #[error(transparent)]
    Criu(#[from] criu::Error),
    /// A process was to enter a container that is paused. The words are runc's.
    #[error("cannot exec in a paused container: resume it first, or use --ignore-paused")]
    Paused,
    /// A step in the container failed.
    #[error(transparent)]
    Init(#[from] InitError),
    /// A hook failed.
    #[error("hooks.{stage}[{index}] ({}): {reason}", path.display())]
    Hook {
        /// The stage, as the configuration has it.
        stage: &'static str,
        /// Which of its hooks.
        index: usize,
        /// The program.
        path: PathBuf,
        /// What happened, and what it printed.
        reason: String,
    },
    /// Something failed, and so did cleaning up after it.
    #[error("{first}; and then {then}")]
    AndThen {
        /// What failed first.
        first: Box<Error>,
        /// What failed because of it.
        then: String,
    },
    /// A kernel call of the parent failed.
    #[error("{doing}: {call}: {errno}")]
    System {
        /// What was being done.
        doing: String,
        /// The kernel's call.
        call: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// The process was killed, or died, before it could say why.
    #[error("the container's process {pid} ended while it was being set up ({how})")]
    Died {
        /// The process.
        pid: Pid,
        /// How it ended.
        how: String,
    },
}

/// Why a container that had been created didn't start.
pub type StartError = Error;

impl Error {
    pub(crate) fn system(call: &'static str, errno: Errno, doing: impl Into<String>) -> Self {
        Self::System {
            doing: doing.into(),
            call,
            errno,
        }
    }

    /// Adds what failed while this was cleaned up after.
    pub(crate) fn and_then(self, then: Vec<Self>) -> Self {
        match then.is_empty() {
            true => self,
            false => Self::AndThen {
                first: Box::new(self),
                then: then
                    .iter()
                    .map(Self::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            },
        }
    }

    /// The kernel's answer, if that is what failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Cgroup(error) => error.errno(),
            Self::Prepare(error) => Some(error.errno),
            Self::Init(error) => Some(error.errno),
            Self::System { errno, .. } => Some(*errno),
            Self::AndThen { first, .. } => first.errno(),
            _ => None,
        }
    }

    /// Whether the command isn't there: an engine's exit code 127.
    pub fn is_command_not_found(&self) -> bool {
        self.exec_errno()
            .is_some_and(|errno| matches!(errno, Errno::ENOENT | Errno::ENOTDIR))
    }

    /// Whether the command may not be executed: an engine's exit code 126.
    pub fn is_permission_denied(&self) -> bool {
        self.exec_errno()
            .is_some_and(|errno| errno == Errno::EACCES)
    }

    fn exec_errno(&self) -> Option<Errno> {
        match self {
            Self::Init(InitError {
                step: Step::FindExecutable | Step::Exec,
                errno,
                ..
            }) => Some(*errno),
            _ => None,
        }
    }
}

/// A step of the container's making that failed.
#[derive(Debug, ThisError)]
#[error("{message}")]
pub struct InitError {
    /// The step.
    pub step: Step,
    /// The kernel's answer.
    pub errno: Errno,
    message: String,
}

impl InitError {
    /// Says which item of the plan failed.
    pub(crate) fn new(failure: Failure, plan: &Plan) -> Self {
        let Failure { step, index, errno } = failure;
        let message = match step {
            Step::FindExecutable | Step::Exec => exec_message(&plan.process.name, errno),
            _ => {
                let hint = hint(step, errno);
                format!(
                    "{}: {}{hint}",
                    describe(step, index as usize, plan),
                    words(errno)
                )
            }
        };
        Self {
            step,
            errno,
            message,
        }
    }

    /// For a failure of exec itself, when the plan is gone.
    pub(crate) fn of_exec(failure: Failure, name: &str) -> Self {
        let Failure { step, errno, .. } = failure;
        let message = match step {
            Step::Exec => exec_message(name, errno),
            _ => format!("{}: {}", name_of(step), words(errno)),
        };
        Self {
            step,
            errno,
            message,
        }
    }
}

fn words(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

/// runc's sentences: engines look for them to tell "not found" from the rest.
fn exec_message(name: &str, errno: Errno) -> String {
    match errno {
        Errno::ENOENT if !name.contains('/') => {
            format!("exec: {name:?}: executable file not found in $PATH")
        }
        Errno::ENOENT => format!("exec: {name:?}: stat {name}: no such file or directory"),
        Errno::EACCES => format!("exec: {name:?}: permission denied"),
        Errno::ENOEXEC => format!("exec: {name:?}: exec format error"),
        _ => format!("exec: {name:?}: {}", words(errno)),
    }
}

fn describe(step: Step, index: usize, plan: &Plan) -> String {
    let described = describe_filesystem(step, index, plan);
    described
        .or_else(|| describe_process(step, index, plan))
        .unwrap_or_else(|| name_of(step).to_owned())
}

fn describe_filesystem(step: Step, index: usize, plan: &Plan) -> Option<String> {
    let filesystem = plan.filesystem.as_ref()?;
    Some(match step {
        Step::Mount => {
            let mount = filesystem.mounts.get(index)?;
            let what = match &mount.source {
                plan::MountSource::Bind { .. } => "a bind mount".to_owned(),
                plan::MountSource::Link { .. } => "a link".to_owned(),
                plan::MountSource::New { fstype, .. } => text(fstype),
            };
            format!("mount {what} on /{}", text(&mount.target))
        }
        Step::Device => {
            let device = filesystem.devices.get(index)?;
            let (directory, name) = (text(&device.directory), text(&device.name));
            format!("make device /{directory}/{name}")
        }
        Step::DeviceLink => format!("make link /{}", text(&filesystem.links.get(index)?.0)),
        Step::Sysctl => {
            let path = text(&filesystem.sysctls.get(index)?.0);
            format!("write sysctl /proc/{path}")
        }
        Step::MaskPath => format!("mask /{}", text(filesystem.masked.get(index)?)),
        Step::ReadonlyPath => {
            let path = text(filesystem.readonly_paths.get(index)?);
            format!("make /{path} read-only")
        }
        _ => return None,
    })
}

fn describe_process(step: Step, index: usize, plan: &Plan) -> Option<String> {
    let process = &plan.process;
    Some(match step {
        Step::JoinNamespace => {
            let namespaces = &plan.namespaces;
            let mut joins = namespaces.helper_joins.iter().chain(&namespaces.joins);
            let path = joins.nth(index)?.path.display();
            format!("join the namespaces of {path}")
        }
        Step::ResourceLimit => {
            let (resource, soft, hard) = process.rlimits.get(index)?;
            format!("set resource limit {resource} to soft {soft}, hard {hard}")
        }
        Step::WorkingDirectory => format!("enter process.cwd {:?}", text(&process.cwd)),
        Step::Apparmor => {
            let profile = text(process.apparmor.as_ref()?);
            format!("set AppArmor profile {profile:?}")
        }
        Step::Selinux => {
            let label = text(process.selinux.as_ref()?);
            format!("set SELinux context {label:?}")
        }
        Step::User => format!("become user {}", process.user.as_ref()?.uid),
        Step::Groups => {
            let user = process.user.as_ref()?;
            format!("become group {} with {:?}", user.gid, user.groups)
        }
        _ => return None,
    })
}

fn text(string: &CStr) -> String {
    string.to_string_lossy().into_owned()
}

fn name_of(step: Step) -> &'static str {
    match step {
        Step::Isolate => "isolate the new process",
        Step::InitialAffinity => "set process.execCPUAffinity.initial",
        Step::NewTimeNamespace => "make a time namespace",
        Step::WaitForIdMaps => "wait for the id maps",
        Step::BecomeNamespaceRoot => "become root of the user namespace",
        Step::JoinNamespace => "join a namespace",
        Step::Clone => "clone the process",
        Step::NewCgroupNamespace => "make a cgroup namespace",
        Step::NewSession => "make a session",
        Step::SessionKeyring => "join a session keyring",
        Step::BringLoopbackUp => "bring up the loopback interface",
        Step::SetHostname => "set the hostname",
        Step::SetDomainname => "set the domainname",
        Step::MakeMountsPrivate => "make the mounts private",
        Step::AttachRoot => "attach the root filesystem",
        Step::Mount => "mount",
        Step::Device => "make a device",
        Step::DeviceLink => "make a link in /dev",
        Step::Console => "open a terminal (/dev/pts/ptmx of the container)",
        Step::ParentsTurn => "wait for hooks",
        Step::Sysctl => "write a sysctl",
        Step::MaskPath => "mask a path",
        Step::ReadonlyPath => "make a path read-only",
        Step::ReadonlyRoot => "make the root read-only",
        Step::PivotRoot => "change the root",
        Step::Propagation => "set the root's propagation",
        Step::Apparmor => "set the AppArmor profile",
        Step::Selinux => "set the SELinux context",
        Step::Stdio => "place the standard streams",
        Step::ResourceLimit => "set a resource limit",
        Step::Personality => "set linux.personality",
        Step::MemoryPolicy => "set linux.memoryPolicy",
        Step::Scheduler => "set process.scheduler",
        Step::IoPriority => "set process.ioPriority",
        Step::FinalAffinity => "set process.execCPUAffinity.final",
        Step::WorkingDirectory => "enter the working directory",
        Step::NoNewPrivileges => "set no_new_privs",
        Step::ReceiveSeccomp => "receive the seccomp filter",
        Step::Seccomp => "install the seccomp filter",
        Step::Capabilities => "set the capabilities",
        Step::Groups => "set the groups",
        Step::User => "set the user",
        Step::FindExecutable => "find the executable",
        Step::Descriptors => "close descriptors",
        Step::ParentDeathSignal => "set the parent death signal",
        Step::WaitForStart => "wait to be started",
        Step::Exec => "exec",
    }
}

/// What usually lies behind an errno that doesn't say it.
fn hint(step: Step, errno: Errno) -> &'static str {
    match (step, errno) {
        (Step::WorkingDirectory, Errno::EXDEV) => ": it is outside the container's root",
        (Step::WorkingDirectory, Errno::ELOOP) => ": it leads through a link of /proc",
        (Step::Mount, Errno::ELOOP) => ": /proc, /sys and /dev of the root must not be links",
        (Step::Device | Step::Console, Errno::ELOOP) => ": /dev of the root must not be a link",
        (Step::Mount, Errno::EPERM) => {
            ": nothing may cover part of /proc; and a user namespace can mount proc only with its own \
             pid namespace, sysfs only with its own network namespace"
        }
        (Step::Mount, Errno::ENODEV) => ": this kernel has no such filesystem",
        (Step::Device, Errno::EEXIST) => ": something else is there already",
        (Step::ResourceLimit, Errno::EPERM) => {
            ": raising a hard limit needs CAP_SYS_RESOURCE on the host"
        }
        (Step::SessionKeyring, Errno::EDQUOT) => {
            ": the user has as many keys as kernel.keys.maxkeys allows; --no-new-keyring makes none"
        }
        (Step::Scheduler | Step::IoPriority, Errno::EPERM) => {
            ": real-time classes need CAP_SYS_NICE on the host"
        }
        (Step::MemoryPolicy, Errno::EINVAL) => ": this host has no such NUMA nodes",
        (Step::MemoryPolicy, Errno::ENOSYS) => ": this kernel has no NUMA",
        (Step::InitialAffinity | Step::FinalAffinity, Errno::EINVAL) => {
            ": none of these processors is there, or the cgroup has none of them"
        }
        (Step::Mount, Errno::EINVAL) => {
            ": the file system doesn't know an option, or can't be id-mapped"
        }
        (Step::Selinux, Errno::EINVAL) => {
            ": SELinux is not enabled, or its policy has no such context"
        }
        (Step::User | Step::Groups, Errno::EINVAL) => ": the user namespace has no such id",
        (Step::Sysctl, Errno::ENOENT) => ": this kernel has no such parameter",
        (Step::Apparmor, Errno::ENOENT | Errno::EINVAL) => {
            ": AppArmor is not enabled, or has no such profile loaded"
        }
        (Step::Clone, Errno::EACCES) => crate::launch::NOT_DELEGATED,
        (Step::Clone, Errno::EBUSY) => ": the cgroup has cgroups with controllers below it",
        _ => "",
    }
}
