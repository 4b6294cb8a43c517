//! The process as a plan: program, identity, rights, limits.

use std::ffi::CString;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Hook, PosixRlimitType, Process};

use super::{Error, ProcessPlan, SeccompPlan, Stdio, User, c_string};
use crate::capabilities;
use crate::scheduling::Scheduling;
use crate::seccomp::InstallFlags;
use crate::spec::DEFAULT_PATH;
use crate::sys::mount::filesystem_type;
use crate::sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

/// What planning a process needs beside the configuration's words.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) stdio: Stdio,
    pub(crate) preserve_fds: u32,
    pub(crate) parent_death_signal: Option<Signal>,
    /// A filter is announced by its flags; the filter itself follows over the channel.
    pub(crate) seccomp: Option<InstallFlags>,
    /// The name of a session keyring to join; one that doesn't exist is made.
    pub(crate) keyring: Option<String>,
}

impl Settings {
    pub(crate) fn new(stdio: Stdio) -> Self {
        Self {
            stdio,
            preserve_fds: 0,
            parent_death_signal: None,
            seccomp: None,
            keyring: None,
        }
    }
}

/// Plans a process: a container's first, or one that enters it.
pub(crate) fn process_plan(process: &Process, settings: Settings) -> Result<ProcessPlan, Error> {
    let args = process.args().as_deref().unwrap_or_default();
    let env = process.env().as_deref().unwrap_or_default();
    let name = args.first().cloned().unwrap_or_default();
    let user = process.user();
    let size = process
        .console_size()
        .map(|size| (clamp(size.height()), clamp(size.width())));
    let terminal = process.terminal().unwrap_or(false);
    Ok(ProcessPlan {
        candidates: candidates(&name, env)?,
        name,
        args: c_strings(args)?.into(),
        env: c_strings(env)?.into(),
        cwd: c_string(process.cwd().as_os_str().as_encoded_bytes())?,
        user: Some(User {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            capabilities: capabilities::masks(process.capabilities().as_ref()),
        }),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process),
        scheduling: Scheduling::of(process),
        apparmor: label(process.apparmor_profile(), "exec ")?,
        selinux: selinux_label(process)?,
        keyring: settings.keyring.map(c_string).transpose()?,
        terminal: terminal.then(|| size.unwrap_or_default()),
        stdio: settings.stdio,
        preserve_fds: settings.preserve_fds,
        parent_death_signal: settings
            .parent_death_signal
            .map_or(0, |signal| signal as i32),
        seccomp: settings.seccomp.map(|flags| SeccompPlan {
            buffer: vec![Instruction::default(); MAX_INSTRUCTIONS],
            flags,
        }),
    })
}

/// Plans a hook: a program of the host's with the rights that we have.
pub(crate) fn hook_plan(hook: &Hook, stdio: Stdio) -> Result<ProcessPlan, Error> {
    let mut plan = ProcessPlan {
        candidates: Vec::new(),
        name: String::new(),
        args: Vec::new().into(),
        env: Vec::new().into(),
        cwd: c".".to_owned(),
        user: None,
        no_new_privileges: false,
        rlimits: Vec::new(),
        scheduling: Scheduling::default(),
        apparmor: None,
        selinux: None,
        keyring: None,
        terminal: None,
        stdio,
        preserve_fds: 0,
        // A hook's work belongs to a container that is being made, or ended, by us.
        parent_death_signal: Signal::SIGKILL as i32,
        seccomp: None,
    };
    plan.run_hook(hook)?;
    Ok(plan)
}

impl ProcessPlan {
    /// Runs a hook's program, with its arguments and environment, instead of the process's own.
    pub(crate) fn run_hook(&mut self, hook: &Hook) -> Result<(), Error> {
        let path = hook.path().to_string_lossy().into_owned();
        let args = hook.args().clone().filter(|args| !args.is_empty());
        self.candidates = vec![c_string(path.as_str())?];
        self.args = c_strings(&args.unwrap_or_else(|| vec![path.clone()]))?.into();
        self.env = c_strings(hook.env().as_deref().unwrap_or_default())?.into();
        self.name = path;
        Ok(())
    }
}

/// The label that exec gives to the process, in the words that the kernel's file takes.
fn label(label: &Option<String>, command: &str) -> Result<Option<CString>, Error> {
    let label = label.as_ref().filter(|label| !label.is_empty());
    label
        .map(|label| c_string(format!("{command}{label}")))
        .transpose()
}

/// Where SELinux isn't enabled, nothing would confine the process as its label says.
fn selinux_label(process: &Process) -> Result<Option<CString>, Error> {
    let planned = label(process.selinux_label(), "")?;
    match planned.is_some() && !selinux_is_enabled() {
        true => Err(Error::new(
            "statfs /sys/fs/selinux",
            Errno::ENOTSUP,
            "selinux label is specified in config, but selinux is disabled or not supported: \
             process.selinuxLabel",
        )),
        false => Ok(planned),
    }
}

/// Whether the kernel's SELinux has a policy, for which its file system stands.
pub(super) fn selinux_is_enabled() -> bool {
    const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
    nix::fcntl::open(
        "/sys/fs/selinux",
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .is_ok_and(|fd| filesystem_type(&fd) == Ok(SELINUX_MAGIC))
}

fn clamp(characters: u64) -> u16 {
    u16::try_from(characters).unwrap_or(u16::MAX)
}

fn c_strings(strings: &[String]) -> Result<Vec<CString>, Error> {
    strings
        .iter()
        .map(|string| c_string(string.as_str()))
        .collect()
}

/// Where the program may be: itself if it has a slash, else in each directory of the container's PATH.
fn candidates(name: &str, env: &[String]) -> Result<Vec<CString>, Error> {
    if name.contains('/') {
        return Ok(vec![c_string(name)?]);
    }
    // The last of equal variables is the one that a program would see first set.
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|directory| match directory {
            // An empty entry means the working directory.
            "" => c_string(format!("./{name}")),
            directory => c_string(format!("{directory}/{name}")),
        })
        .collect()
}

fn rlimits(process: &Process) -> Vec<(u32, u64, u64)> {
    let rlimits = process.rlimits().iter().flatten();
    rlimits
        .map(|limit| (resource(limit.typ()), limit.soft(), limit.hard()))
        .collect()
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, env: &[&str]) -> Vec<String> {
        let env: Vec<_> = env.iter().map(|v| (*v).to_owned()).collect();
        let found = candidates(name, &env).unwrap();
        found
            .into_iter()
            .map(|path| path.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_program_is_searched_in_the_containers_path() {
        assert_eq!(
            names("sh", &["PATH=/a::/b", "X=1"]),
            ["/a/sh", "./sh", "/b/sh"]
        );
        assert_eq!(names("/bin/sh", &["PATH=/a"]), ["/bin/sh"]);
        assert_eq!(names("./sh", &[]), ["./sh"]);
        assert_eq!(names("sh", &[]).len(), 6);
    }
}
