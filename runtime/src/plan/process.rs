//! The process as a plan: program, identity, rights, limits.

use std::ffi::CString;

use nix::sys::signal::Signal;
use oci_spec::runtime::{PosixRlimitType, Process};

use super::{Error, ProcessPlan, SeccompPlan, Stdio, c_string};
use crate::capabilities;
use crate::spec::DEFAULT_PATH;
use crate::sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

/// Plans a process: a container's first, or one that enters it. A filter is announced by its flags.
pub(crate) fn process_plan(
    process: &Process,
    seccomp_flags: Option<u32>,
    stdio: Stdio,
    preserve_fds: u32,
    parent_death_signal: Option<Signal>,
) -> Result<ProcessPlan, Error> {
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
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
        capabilities: capabilities::masks(process.capabilities().as_ref()),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process),
        apparmor: process
            .apparmor_profile()
            .as_ref()
            .filter(|profile| !profile.is_empty())
            .map(|profile| c_string(format!("exec {profile}")))
            .transpose()?,
        terminal: terminal.then(|| size.unwrap_or_default()),
        stdio,
        preserve_fds,
        parent_death_signal: parent_death_signal.map_or(0, |signal| signal as i32),
        seccomp: seccomp_flags.map(|flags| SeccompPlan {
            buffer: vec![Instruction::default(); MAX_INSTRUCTIONS],
            flags,
        }),
    })
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
