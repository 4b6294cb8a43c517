//! Network namespaces: made or visited, and kept by a bind mount.
//!
//! No process is in a namespace yet when its network is built, so a mount holds it. Threads that
//! serve others never change their namespace: what is opened inside is brought out by a visitor.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::SockProtocol;

use crate::error::{Doing, Error, Result};
use crate::netlink::{LOOPBACK, RouteSocket, bring_up};
use crate::subordinate_ids::IdRange;
use crate::sys::{self, Destination, NewOwner, Visit};
use crate::sysctls::SysctlTree;

/// What a sysctl of a namespace is set to; its path begins at an instance of procfs.
type Setting = (&'static CStr, &'static str);

/// What is set in a new namespace before there is an interface in it.
const SETTINGS: &[Setting] = &[
    // As Docker has it: a port below 1024 and ping need no privilege in a namespace of one's own.
    (c"sys/net/ipv4/ip_unprivileged_port_start", "0"),
    (c"sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// Lets new links have IPv6, where the host has it off for them and namespaces inherit that.
const IPV6_FOR_NEW_LINKS: Setting = (c"sys/net/ipv6/conf/default/disable_ipv6", "0");

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
        let map = owner.map(IdRange::map);
        let destination = match (owner, &map) {
            (Some(range), Some(map)) => Destination::Owned(NewOwner::new(range.first, map)),
            _ => Destination::New,
        };
        Self::visit(destination, sysctls, allow_ipv6)
    }

    /// Takes one that somebody else has made, and prepares it in the same way.
    pub(crate) fn join(
        given: BorrowedFd<'_>,
        sysctls: &SysctlTree,
        allow_ipv6: bool,
    ) -> Result<Self> {
        Self::visit(Destination::Given(given), sysctls, allow_ipv6)
    }

    /// Makes a namespace ready for a task's interface: a new one, or the one that is given.
    fn visit(destination: Destination<'_>, sysctls: &SysctlTree, allow_ipv6: bool) -> Result<Self> {
        let ipv6 = allow_ipv6.then_some(&IPV6_FOR_NEW_LINKS);
        let settings: Vec<&Setting> = SETTINGS.iter().chain(ipv6).collect();
        let paths: Vec<&CStr> = settings.iter().map(|(path, _)| *path).collect();
        let visit = Visit {
            destination,
            socket: SockProtocol::NetlinkRoute,
            procfs: sysctls.procfs(),
            files: &paths,
        };
        let visited = visit
            .make()
            .map_err(|error| Error::io("send a visitor to a network namespace", error))?;
        // And with it what kept others from this process's memory.
        drop(visit);
        visited
            .entered
            .map_err(|refusal| Error::io(refusal.doing, refusal.errno))?;
        for (setting, file) in settings.into_iter().zip(visited.files) {
            set(setting, file)?;
        }
        let socket = visited.socket.map_err(Into::into);
        let mut inside = socket
            .and_then(RouteSocket::take)
            .doing(|| "open a netlink socket in the namespace".into())?;
        inside
            .send(&[bring_up(LOOPBACK)])
            .doing(|| "bring up the loopback link".into())?;
        let fd = sys::namespace_of(inside.as_fd())
            .map_err(|error| Error::io("ask for a socket's network namespace", error))?;
        Ok(Self { fd, inside })
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

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.fd
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set((path, value): &Setting, file: std::result::Result<OwnedFd, Errno>) -> Result<()> {
    let written = file
        .map_err(io::Error::from)
        .and_then(|file| File::from(file).write_all(value.as_bytes()));
    let path = path.to_string_lossy();
    let key = path.trim_start_matches("sys/");
    written.map_err(|error| Error::io(format!("set {key} to {value}"), error))
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
