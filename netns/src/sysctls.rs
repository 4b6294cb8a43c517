//! The host's sysctls that we change, and what they were before.
//!
//! The previous value goes to a file before the new one is set, so that it can be put back whatever
//! happens in between. Sysctls of our own bridges are not recorded: they go with them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Problems, Result};

/// Packets between tasks and the world pass through the host.
const FORWARDING: (&str, &str) = ("net/ipv4/ip_forward", "1");

/// The same for IPv6.
const IPV6_FORWARDING: (&str, &str) = ("net/ipv6/conf/all/forwarding", "1");

/// Where each link has the sysctls of its IPv6.
const IPV6_LINKS: &str = "/proc/sys/net/ipv6/conf";

/// Ways to the sysctls of namespaces that do not grow longer with their number.
///
/// The kernel keeps the names of all network namespaces' sysctls in one place for each instance of procfs, and
/// looks through them one by one: with a thousand namespaces the first look costs as much as all the rest of an
/// attachment. An instance of our own is used for a few and then replaced.
#[derive(Debug)]
pub(crate) struct SysctlTrees {
    current: Arc<SysctlTree>,
    /// For how many namespaces more.
    left: u32,
}

impl SysctlTrees {
    /// Making one costs about as much as looking through so many.
    const NAMESPACES: u32 = 32;

    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            current: Arc::new(SysctlTree::open()?),
            left: Self::NAMESPACES,
        })
    }

    /// The one for one more namespace.
    pub(crate) fn next(&mut self) -> Result<Arc<SysctlTree>> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => *self = Self::new()?,
        }
        Ok(Arc::clone(&self.current))
    }
}

/// An instance of procfs.
#[derive(Debug)]
pub(crate) struct SysctlTree {
    procfs: OwnedFd,
}

impl SysctlTree {
    /// A new one. Where none can be made, that of everyone.
    pub(crate) fn open() -> Result<Self> {
        let everyones = || File::open("/proc").map(OwnedFd::from);
        let procfs = crate::sys::new_procfs().or_else(|_| everyones());
        let procfs = procfs.map_err(|error| Error::io("open /proc", error))?;
        Ok(Self { procfs })
    }

    /// Where paths like `sys/net/ipv4/ip_forward` begin.
    pub(crate) fn procfs(&self) -> BorrowedFd<'_> {
        self.procfs.as_fd()
    }
}

/// The changes, kept in a file.
#[derive(Debug)]
pub(crate) struct Sysctls {
    record: PathBuf,
}

impl Sysctls {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            record: state_dir.join("sysctls.json"),
        }
    }

    /// Sets what the host needs. What has the value already is left alone and not recorded.
    ///
    /// A host that forwards IPv6 takes no router's advertisements, unless told to take them all the same: that
    /// comes first, or it would lose its own default route.
    pub(crate) fn ensure(&self, with_ipv6: bool) -> Result<()> {
        let (key, value) = FORWARDING;
        self.set(key, value)?;
        let (key, value) = IPV6_FORWARDING;
        if with_ipv6 && read(key)? != value {
            for link in links_that_take_advertisements()? {
                self.set(&link, "2")?;
            }
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        let before = read(key)?;
        if before == value {
            return Ok(());
        }
        self.remember(key, before)?;
        write(key, value)
    }

    /// Puts back what was there before, and forgets it.
    pub(crate) fn restore(&self) -> Result<()> {
        let mut problems = Problems::default();
        // A link may be gone since.
        let recorded = self.recorded()?.into_iter();
        for (key, value) in recorded.filter(|(key, _)| exists(key)) {
            problems.note(write(&key, &value));
        }
        problems.finish("restore sysctls")?;
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &self.record, error))
            }
            _ => Ok(()),
        }
    }

    /// The first value is the one that counts: a later one may be ours, set and lost by a reboot.
    fn remember(&self, key: &str, value: String) -> Result<()> {
        let mut recorded = self.recorded()?;
        recorded.entry(key.to_owned()).or_insert(value);
        let text = serde_json::to_string_pretty(&recorded)
            .map_err(|error| Error::file("encode", &self.record, error))?;
        let temporary = self.record.with_extension("tmp");
        fs::write(&temporary, text).map_err(|error| Error::file("write", &temporary, error))?;
        fs::rename(&temporary, &self.record)
            .map_err(|error| Error::file("write", &self.record, error))
    }

    fn recorded(&self) -> Result<BTreeMap<String, String>> {
        match fs::read_to_string(&self.record) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Error::file("read", &self.record, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(Error::file("read", &self.record, error)),
        }
    }
}

/// The sysctls that say that a link takes routers' advertisements as long as the host forwards nothing.
fn links_that_take_advertisements() -> Result<Vec<String>> {
    const AS_LONG_AS_NOTHING_IS_FORWARDED: &str = "1";
    let directory = Path::new(IPV6_LINKS);
    let list = || -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
        let names = names
            .filter_map(|name: io::Result<_>| name.map(|name| name.into_string().ok()).transpose());
        names.collect()
    };
    let names = list().map_err(|error| Error::file("read", directory, error))?;
    // These two are not links, but what all of them and new ones have.
    let links = names
        .into_iter()
        .filter(|name| !["all", "default"].contains(&name.as_str()));
    let keys = links.map(|name| format!("net/ipv6/conf/{name}/accept_ra"));
    Ok(keys
        .filter(|key| read(key).is_ok_and(|value| value == AS_LONG_AS_NOTHING_IS_FORWARDED))
        .collect())
}

/// Whether the kernel has a sysctl, in the calling thread's network namespace.
fn exists(key: &str) -> bool {
    path(key).exists()
}

/// Sets a sysctl in the calling thread's network namespace.
pub(crate) fn write(key: &str, value: &str) -> Result<()> {
    fs::write(path(key), value).map_err(|error| Error::io(format!("set {key} to {value}"), error))
}

/// What a sysctl is, in the calling thread's network namespace.
pub(crate) fn read(key: &str) -> Result<String> {
    value(key).map_err(|error| Error::file("read", &path(key), error))
}

/// The same of one that not every kernel has.
pub(crate) fn find(key: &str) -> Result<Option<String>> {
    match value(key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", &path(key), error)),
        Ok(value) => Ok(Some(value)),
    }
}

/// Those that are read here are short, and the kernel gives them as a whole: one call is enough.
fn value(key: &str) -> io::Result<String> {
    let mut buffer = [0; 64];
    let length = File::open(path(key))?.read(&mut buffer)?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    Ok(text.trim().to_owned())
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}
