//! Moving interfaces of the host into a container's network namespace (config-linux.md, "Network
//! Devices").
//!
//! The kernel moves an interface but forgets its addresses, so those are noted before and set after.
//! When the container ends, the kernel gives hardware back to the host and destroys what is virtual. One
//! that doesn't get as far as being started gives all back as it was.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxNetDevice;

use crate::error::Error;
use crate::sys::netlink::{Netlink, Request, attributes};
use crate::sys::process;

/// `struct ifinfomsg` and `struct ifaddrmsg` of rtnetlink(7), in bytes.
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// Flags of an address that are its owner's wish, rather than its state (linux/if_addr.h).
const WISHES: u32 = libc::IFA_F_NODAD
    | libc::IFA_F_HOMEADDRESS
    | libc::IFA_F_MANAGETEMPADDR
    | libc::IFA_F_NOPREFIXROUTE
    | libc::IFA_F_MCAUTOJOIN;

/// Interfaces in a container. They come back when this is dropped, unless they are kept.
#[derive(Debug)]
pub(crate) struct Moved {
    interfaces: Vec<Interface>,
    container: OwnedFd,
    host: OwnedFd,
}

impl Moved {
    /// Leaves them to the container, and to the kernel when that ends.
    pub(crate) fn keep(&mut self) {
        self.interfaces.clear();
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for interface in self.interfaces.iter().rev() {
            // The error that brought us here is the one to be reported.
            let _back = interface
                .come_back(&interface.target, self.container.as_fd(), self.host.as_fd())
                .is_ok();
        }
    }
}

/// Moves all into a container's namespace, or none.
pub(crate) fn move_all(
    devices: &HashMap<String, LinuxNetDevice>,
    container: OwnedFd,
) -> Result<Moved, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let host = open(c"/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(|errno| Error::system("open", errno, "open the host's network namespace"))?;
    let mut names: Vec<_> = devices.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    // All are looked up before the first is moved.
    let interfaces = names
        .into_iter()
        .map(|(name, device)| Interface::find(name, device.name().as_deref()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut moved = Moved {
        interfaces: Vec::new(),
        container,
        host,
    };
    for interface in interfaces {
        interface.go(moved.container.as_fd(), moved.host.as_fd())?;
        moved.interfaces.push(interface);
    }
    Ok(moved)
}

/// Brings up the loopback interface of a network namespace, as a container that is created does itself.
pub(crate) fn bring_loopback_up(namespace: BorrowedFd) -> Result<(), Error> {
    within(namespace, process::bring_loopback_up)
        .map_err(|errno| Error::system("ioctl", errno, "bring up the loopback interface"))
}

/// Writes parameters of a network namespace, by their paths below /proc/sys.
pub(crate) fn write_sysctls(
    parameters: &[(String, &str)],
    namespace: BorrowedFd,
) -> Result<(), Error> {
    for (path, value) in parameters {
        let file = format!("/proc/sys/{path}");
        let write = || {
            let written = std::fs::write(&file, value);
            written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        };
        within(namespace, write)
            .map_err(|errno| Error::system("write", errno, format!("write sysctl {file}")))?;
    }
    Ok(())
}

/// An interface of the host, as it was.
#[derive(Debug)]
struct Interface {
    name: String,
    target: String,
    index: i32,
    was_up: bool,
    addresses: Vec<Address>,
}

/// An address that outlives the move: its family, prefix and scope, and its attributes.
#[derive(Debug, Clone)]
struct Address {
    head: [u8; 4],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Interface {
    fn find(name: &str, target: Option<&str>) -> Result<Self, Error> {
        let looked_up = || {
            let netlink = Netlink::open()?;
            let (index, was_up) = look_up(&netlink, name)?;
            Ok((index, was_up, addresses_of(&netlink, index)?))
        };
        let (index, was_up, addresses) =
            looked_up().map_err(|errno| failed(name, "find", errno))?;
        Ok(Self {
            name: name.to_owned(),
            target: target
                .filter(|name| !name.is_empty())
                .unwrap_or(name)
                .to_owned(),
            index,
            was_up,
            addresses,
        })
    }

    /// Into the namespace, with its addresses, and up. On failure it is where it was.
    fn go(&self, namespace: BorrowedFd, host: BorrowedFd) -> Result<(), Error> {
        let failed = |errno| {
            let act = format!("move to the container, as {},", self.target);
            failed(&self.name, &act, errno)
        };
        let netlink = Netlink::open().map_err(failed)?;
        if let Err(errno) = move_link(&netlink, self.index, namespace, &self.target) {
            // The kernel moves it first and renames it then, as to a name that is taken there.
            if look_up(&netlink, &self.name).is_err() {
                self.come_back(&self.name, namespace, host)?;
            }
            return Err(failed(errno));
        }
        let set = within(namespace, || {
            self.set_up(&Netlink::open()?, &self.target, true)
        });
        match set {
            Ok(()) => Ok(()),
            Err(errno) => {
                self.come_back(&self.target, namespace, host)?;
                Err(failed(errno))
            }
        }
    }

    /// Back to the host, as it was there, from the namespace where it has this name.
    fn come_back(&self, name: &str, namespace: BorrowedFd, host: BorrowedFd) -> Result<(), Error> {
        let failed = |errno| failed(&self.name, "bring back", errno);
        within(namespace, || {
            let netlink = Netlink::open()?;
            let (index, _) = look_up(&netlink, name)?;
            move_link(&netlink, index, host, &self.name)
        })
        .map_err(failed)?;
        let netlink = Netlink::open().map_err(failed)?;
        self.set_up(&netlink, &self.name, self.was_up)
            .map_err(failed)
    }

    fn set_up(&self, netlink: &Netlink, name: &str, up: bool) -> nix::Result<()> {
        let (index, _) = look_up(netlink, name)?;
        for address in &self.addresses {
            let mut structure = address.head.to_vec();
            structure.extend(index.to_ne_bytes());
            let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
            let mut request = Request::new(libc::RTM_NEWADDR, flags, &structure);
            for (kind, value) in &address.attributes {
                request = match *kind {
                    libc::IFA_LABEL => request.attribute(*kind, &relabel(value, &self.name, name)),
                    _ => request.attribute(*kind, value),
                };
            }
            netlink.perform(request)?;
        }
        match up {
            true => netlink.perform(link_request(index, libc::IFF_UP as u32)),
            false => Ok(()),
        }
    }
}

fn failed(name: &str, act: &str, errno: Errno) -> Error {
    let doing = format!("{act} the interface {name} (linux.netDevices)");
    Error::system("netlink", errno, doing)
}

/// A label begins with the interface's name, which may be another one now.
fn relabel(label: &[u8], from: &str, to: &str) -> Vec<u8> {
    match label.strip_prefix(from.as_bytes()) {
        Some(rest) if to.len() + rest.len() <= libc::IFNAMSIZ => [to.as_bytes(), rest].concat(),
        _ => [to.as_bytes(), b"\0"].concat(),
    }
}

fn link_request(index: i32, up: u32) -> Request {
    let mut structure = vec![0; 4];
    structure.extend(index.to_ne_bytes());
    structure.extend(up.to_ne_bytes());
    structure.extend(up.to_ne_bytes());
    Request::new(libc::RTM_NEWLINK, 0, &structure)
}

fn move_link(netlink: &Netlink, index: i32, to: BorrowedFd, name: &str) -> nix::Result<()> {
    let request = link_request(index, 0)
        .attribute(libc::IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes())
        .attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    netlink.perform(request)
}

/// An interface's index, and whether it is up.
fn look_up(netlink: &Netlink, name: &str) -> nix::Result<(i32, bool)> {
    let request = Request::new(libc::RTM_GETLINK, 0, &[0; LINK])
        .attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    let mut found = Err(Errno::ENODEV);
    netlink.ask(&request, |content| {
        let word = |at: usize| {
            let bytes = content.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        if let (Some(index), Some(flags)) = (word(4), word(8)) {
            found = Ok((index as i32, flags & libc::IFF_UP as u32 != 0));
        }
    })?;
    found
}

/// The addresses of an interface that were given to it for good, and reach beyond its link.
fn addresses_of(netlink: &Netlink, index: i32) -> nix::Result<Vec<Address>> {
    let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS]);
    let mut addresses = Vec::new();
    netlink.ask(&request, |content| {
        if content.get(4..8) == Some(&index.to_ne_bytes()[..]) {
            addresses.extend(lasting(content));
        }
    })?;
    Ok(addresses)
}

fn lasting(content: &[u8]) -> Option<Address> {
    let [family, prefix, flags, scope] = content.first_chunk().copied()?;
    let all: Vec<_> = attributes(content, ADDRESS).collect();
    // The structure has the lowest eight of the flags, the attribute has all.
    let attribute = all.iter().find(|(kind, _)| *kind == libc::IFA_FLAGS);
    let flags = attribute
        .and_then(|(_, value)| value.first_chunk().copied())
        .map_or(u32::from(flags), u32::from_ne_bytes);
    if flags & libc::IFA_F_PERMANENT == 0 || scope != libc::RT_SCOPE_UNIVERSE {
        return None;
    }
    let is_state = [libc::IFA_CACHEINFO, libc::IFA_FLAGS];
    let kept = all.iter().filter(|(kind, _)| !is_state.contains(kind));
    let mut attributes: Vec<_> = kept.map(|(kind, value)| (*kind, value.to_vec())).collect();
    attributes.push((libc::IFA_FLAGS, (flags & WISHES).to_ne_bytes().to_vec()));
    Some(Address {
        head: [family, prefix, 0, scope],
        attributes,
    })
}

/// Does something in a network namespace, on a thread that ends with it.
fn within<T: Send>(
    namespace: BorrowedFd,
    act: impl FnOnce() -> nix::Result<T> + Send,
) -> nix::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            act()
        });
        thread.join().unwrap_or(Err(Errno::EIO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_name() {
        for (label, to, relabelled) in [
            (&b"eth0\0"[..], "net7", &b"net7\0"[..]),
            (b"eth0:1\0", "net7", b"net7:1\0"),
            (b"other\0", "net7", b"net7\0"),
            (b"eth0:a-long-one\0", "net7", b"net7:a-long-one\0"),
            (b"eth0:a-long-one\0", "net77", b"net77\0"),
        ] {
            assert_eq!(relabel(label, "eth0", to), relabelled);
        }
    }
}
