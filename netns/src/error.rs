//! What can go wrong, in words for the person who runs the host.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use crate::eni::{EniId, NetnsName};
use crate::firewalld::BusError;
use crate::netlink::NetlinkError;
use crate::published::HostPort;
use crate::security_group::SecurityGroupId;
use crate::subnet::SubnetId;
use crate::subordinate_ids::SubordinateIds;

/// The result of an operation on the network.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A text that is not a valid id or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: expected {expected}")]
pub struct InvalidName {
    /// What the text should have been.
    pub what: &'static str,
    /// The text.
    pub text: String,
    /// The form that was expected.
    pub expected: String,
}

/// An operation on the network that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The subnet has no address left.
    #[error(
        "{subnet} ({cidr}) has no free address left: all {capacity} are taken; stop a task, or place this one in another subnet"
    )]
    AddressesExhausted {
        /// The subnet.
        subnet: SubnetId,
        /// Its range.
        cidr: Ipv4Net,
        /// How many tasks it can hold.
        capacity: usize,
    },

    /// A bridge takes no more ports.
    #[error(
        "the bridge of {subnet} takes no more than 1023 interfaces; place the task in another subnet, \
         or make its AttachmentMode \"routed\""
    )]
    BridgeFull {
        /// The subnet.
        subnet: SubnetId,
    },

    /// Every public address is some task's.
    #[error(
        "all {0} public addresses are taken; stop a task that has one, or give PublicIpv4Pool more of them"
    )]
    PublicAddressesExhausted(usize),

    /// A public address is one by which the host itself is reached.
    #[error(
        "PublicIpv4Pool has {address}, which is the host's own on {link}: all that is sent there would go to a task; \
         leave it out, or give the link another one, as a /32, for tasks"
    )]
    PublicAddressOfHost {
        /// The address.
        address: std::net::Ipv4Addr,
        /// The link that has it.
        link: String,
    },

    /// Every range of ids is some task's.
    #[error(
        "all ranges of the subordinate ids {0} are user namespaces' of tasks; stop a task, or leave more ids to them"
    )]
    IdsExhausted(SubordinateIds),

    /// The kernel remembers as many connections as it may.
    #[error(
        "the host tracks {count} connections, and no more than {limit}: it drops new ones, a task's too; raise the \
         sysctl net.netfilter.nf_conntrack_max, or see with 'conntrack -L' whose they are"
    )]
    ConnectionsExhausted {
        /// How many it remembers.
        count: u32,
        /// How many it may (`net.netfilter.nf_conntrack_max`).
        limit: u32,
    },

    /// The subnet is not one of this host's.
    #[error("there is no subnet {0} on this host")]
    UnknownSubnet(SubnetId),

    /// A subnet that is no longer configured still has interfaces.
    #[error(
        "{subnet} is no longer configured, and still has {count} interfaces of tasks; put it back, or stop them first"
    )]
    SubnetInUse {
        /// The subnet.
        subnet: SubnetId,
        /// How many there are.
        count: usize,
    },

    /// The security group is not one of this host's.
    #[error("there is no security group {0} on this host")]
    UnknownSecurityGroup(SecurityGroupId),

    /// The interface, or its namespace, is attached already.
    #[error("{0} can't be attached: the interface, or its network namespace, is in use already")]
    AlreadyAttached(EniId),

    /// A network namespace has this name already.
    #[error(
        "the network namespace {0} can't be made: there is one of that name; release it first, or choose another name"
    )]
    NamespaceInUse(NetnsName),

    /// A port of the host leads to another interface, or is wanted twice.
    #[error(
        "the port {port} of the host leads to {by} already; publish another, or stop that task"
    )]
    PortPublished {
        /// The port.
        port: HostPort,
        /// The interface that it leads to.
        by: EniId,
    },

    /// A subnet's range is, in part, the host's own.
    #[error(
        "the range {cidr} of {subnet} overlaps {other}, which the host has on {link}; choose another range for the subnet"
    )]
    Overlap {
        /// The subnet.
        subnet: SubnetId,
        /// Its range.
        cidr: IpNet,
        /// The address or route of the host.
        other: IpNet,
        /// The link that has it.
        link: String,
    },

    /// Two of the configured subnets overlap, or share an id or a bridge.
    #[error("subnets {0} and {1} overlap, or have the same id or bridge")]
    SubnetsCollide(SubnetId, SubnetId),

    /// A link with the name of a subnet's bridge is not ours.
    #[error(
        "the link {name} exists and is not the bridge of {subnet}; remove it, or give the subnet's bridge another name"
    )]
    ForeignLink {
        /// The link's name.
        name: String,
        /// The subnet that it would be for.
        subnet: SubnetId,
    },

    /// Another process holds the network.
    #[error("{} is locked: another berth process runs this host's network", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },

    /// The firewall's tables belong to another process.
    #[error(
        "the nftables tables inet berth and bridge berth are owned by another process, through its netlink socket {0}; end it"
    )]
    TablesOwned(u32),

    /// The network can't be removed while tasks use it.
    #[error("{0} network namespaces of tasks are here; stop the tasks first")]
    InUse(usize),

    /// The kernel refused a netlink request.
    #[error("{doing}: {source}")]
    Netlink {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: NetlinkError,
    },

    /// firewalld can't be asked to let tasks' traffic pass, or refuses.
    #[error(
        "firewalld rejects tasks' traffic, and can't be told to let it pass: {source}; restart firewalld, or do it by \
         hand: {advice}"
    )]
    Firewalld {
        /// The command that does it.
        advice: String,
        /// What it says.
        source: BusError,
    },

    /// firewalld can't be told to forget a link, or refuses.
    #[error(
        "firewalld can't be told that {link} is no longer in its zone trusted: {source}; firewall-cmd --reload does it"
    )]
    FirewalldKeeps {
        /// The link's name, or several of them.
        link: String,
        /// What it says.
        source: BusError,
    },

    /// A file or a system call failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// The operating system's error.
        source: io::Error,
    },

    /// Parts of something could not be removed; the rest was.
    #[error("{doing}: {}", join(problems))]
    Incomplete {
        /// What was being removed.
        doing: String,
        /// What could not be, and why.
        problems: Vec<Error>,
    },

    /// Something was asked that needs the interface to be detached.
    #[error("{0} is still attached; detach it first")]
    StillAttached(EniId),

    /// A failure that a test asked for.
    #[error("failure injected at {0}")]
    Injected(&'static str),
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub(crate) fn file(verb: &str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::io(format!("{verb} {}", path.display()), source)
    }
}

/// Collects what goes wrong while things are removed, so that one failure does not keep the rest.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Error>);

impl Problems {
    pub(crate) fn note<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome.map_err(|problem| self.0.push(problem)).ok()
    }

    pub(crate) fn finish(self, doing: impl Into<String>) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Error::Incomplete {
            doing: doing.into(),
            problems: self.0,
        })
    }
}

fn join(problems: &[Error]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Says what was being done when a netlink request failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, NetlinkError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Netlink {
            doing: what(),
            source,
        })
    }
}
