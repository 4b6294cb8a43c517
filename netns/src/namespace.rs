//! Network namespaces: made or joined by a thread of their own, and kept by a bind mount.
//!
//! No process is in a namespace yet when its network is built, so a mount holds it. Threads that
//! serve others never change their namespace: a new thread does, and ends.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Doing, Error, Result};
use crate::netlink::{LOOPBACK, RouteSocket, bring_up};
use crate::subordinate_ids::IdRange;
use crate::sysctls::SysctlTree;
use crate::user_namespace;

/// What is set in a new namespace before there is an interface in it.
const SYSCTLS: &[(&str, &str)] = &[
    // As Docker has it: a port below 1024 and ping need no privilege in a namespace of one's own.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// Lets new links have IPv6, where the host has it off for them and namespaces inherit that.
const IPV6_FOR_NEW_LINKS: (&str, &str) = ("net/ipv6/conf/default/disable_ipv6", "0");

/// A network namespace with nothing but a loopback link, which is up.
#[derive(Debug)]
pub(crate) struct Namespace {
    fd: OwnedFd,
    /// A socket that was opened inside: what is sent on it happens there.
    pub(crate) inside: RouteSocket,
}

impl Namespace {
    /// Makes a namespace, owned by a new user namespace of these ids or by the host's. With `allow_ipv6`, links in it
    /// have IPv6 also where the host has it off for new ones.
    pub(crate) fn create(
        owner: Option<IdRange>,
        sysctls: &SysctlTree,
        allow_ipv6: bool,
    ) -> Result<Self> {
        if let Some(range) = owner {
            let made = user_namespace::make(range)?;
            return Self::join(made.as_fd(), sysctls, allow_ipv6);
        }
        on_own_thread("make a network namespace", || {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::io("unshare a network namespace", errno))?;
            prepare(sysctls, allow_ipv6)
        })
    }

    /// Takes one that somebody else has made, and prepares it in the same way.
    pub(crate) fn join(
        given: BorrowedFd<'_>,
        sysctls: &SysctlTree,
        allow_ipv6: bool,
    ) -> Result<Self> {
        on_own_thread("join a network namespace", || {
            setns(given, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::io("enter the network namespace that was given", errno))?;
            prepare(sysctls, allow_ipv6)
        })
    }

    /// Mounts it at `path`, which must not exist. [`remove`] is the undo.
    pub(crate) fn mount(&self, path: &Path) -> Result<()> {
        File::create_new(path).map_err(|error| Error::file("create", path, error))?;
        let own = format!("/proc/thread-self/fd/{}", self.fd.as_raw_fd());
        let none = None::<&str>;
        mount(Some(own.as_str()), path, none, MsFlags::MS_BIND, none)
            .map_err(|errno| Error::file("mount the network namespace at", path, errno))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs on a thread that ends with it: the namespace that it enters is not left again.
fn on_own_thread(
    doing: &'static str,
    work: impl FnOnce() -> Result<Namespace> + Send,
) -> Result<Namespace> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into());
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|error| Error::io(doing, error))?;
        let panicked = |_| Err(Error::io(doing, io::Error::other("its thread panicked")));
        thread.join().unwrap_or_else(panicked)
    })
}

/// The calling thread's namespace, made ready for a task's interface.
fn prepare(sysctls: &SysctlTree, allow_ipv6: bool) -> Result<Namespace> {
    const OWN: &str = "/proc/thread-self/ns/net";
    let fd = File::open(OWN).map_err(|error| Error::io(format!("open {OWN}"), error))?;
    let ipv6 = allow_ipv6.then_some(&IPV6_FOR_NEW_LINKS);
    for (key, value) in SYSCTLS.iter().chain(ipv6) {
        sysctls.write(key, value)?;
    }
    let mut inside =
        RouteSocket::open().doing(|| "open a netlink socket in the namespace".into())?;
    inside
        .send(&[bring_up(LOOPBACK)])
        .doing(|| "bring up the loopback link".into())?;
    Ok(Namespace {
        fd: fd.into(),
        inside,
    })
}

/// Lets go of a namespace. It ends when no process is in it and no descriptor refers to it, and its
/// links end with it: a little later, and for nothing, where deleting a link takes 16 ms.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not a mount: it was not made to the end, or the host has been booted since.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(errno) => return Err(Error::file("unmount the network namespace", path, errno)),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path, error))
        }
        _ => Ok(()),
    }
}
