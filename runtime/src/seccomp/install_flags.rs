//! The flags that a filter is installed with (seccomp(2)).

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use super::Error;

const LOG: u32 = 1 << 1;
const SPEC_ALLOW: u32 = 1 << 2;
const NEW_LISTENER: u32 = 1 << 3;
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The call by which the listener is handed over.
const HAND_OVER: &str = "sendmsg";

/// `SECCOMP_FILTER_FLAG_*`, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstallFlags(u32);

impl InstallFlags {
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Whether installing the filter gives a descriptor on which its notifications arrive.
    pub(crate) fn has_listener(self) -> bool {
        self.0 & NEW_LISTENER != 0
    }
}

/// The flags of a configuration's filter, and the one that its actions make necessary.
pub(crate) fn install_flags(profile: &LinuxSeccomp) -> Result<InstallFlags, Error> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
            // The filter is installed in a process of one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
        };
    }
    if notifies(profile)? {
        flags |= NEW_LISTENER;
    } else if flags & WAIT_KILLABLE_RECV != 0 {
        return Err(Error::Flag {
            flag: "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV without SCMP_ACT_NOTIFY",
        });
    }
    Ok(InstallFlags(flags))
}

fn notifies(profile: &LinuxSeccomp) -> Result<bool, Error> {
    let is_notify = |action| action == LinuxSeccompAction::ScmpActNotify;
    if is_notify(profile.default_action()) {
        return Err(Error::Notify {
            reason: "it can't be the defaultAction: nothing could hand over the listener",
        });
    }
    let rules = profile.syscalls().iter().flatten();
    let mut notified = rules.filter(|rule| is_notify(rule.action())).peekable();
    if notified.peek().is_none() {
        return Ok(false);
    }
    if notified.any(|rule| rule.names().iter().any(|name| name == HAND_OVER)) {
        return Err(Error::Notify {
            reason: "it can't be the action of sendmsg, by which the listener is handed over",
        });
    }
    match profile.listener_path() {
        // What the address of a unix socket has room for.
        Some(path) if path.as_os_str().len() > 107 || path.to_string_lossy().contains('\0') => {
            Err(Error::Notify {
                reason: "listenerPath must be at most 107 bytes, none of them null",
            })
        }
        Some(path) if path.is_absolute() => Ok(true),
        _ => Err(Error::Notify {
            reason: "it needs an absolute listenerPath, a socket of whoever decides",
        }),
    }
}
