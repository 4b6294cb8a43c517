//! A container's part of the processors' caches and memory bandwidth: classes of service in resctrl
//! (Documentation/filesystems/resctrl.rst; config-linux.md, "IntelRdt").
//!
//! A class that the configuration names is the administrator's, and is left as it is. One without a name
//! is the container's own, named after it, and goes with it, as does its monitoring group.

mod change;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat, write};
use oci_spec::runtime::{LinuxIntelRdt, Spec};

use crate::ContainerId;
use crate::error::Error;
use crate::sys::mount::filesystem_type;

pub use change::change_class;

/// `RDTGROUP_SUPER_MAGIC` of include/uapi/linux/magic.h.
const RESCTRL_MAGIC: i64 = 0x765_5821;

/// The mounted resctrl, with what a container wants of it.
#[derive(Debug)]
pub(crate) struct Resctrl {
    root: OwnedFd,
    wanted: LinuxIntelRdt,
    id: String,
}

/// A process's place in a class; given up when dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct Place {
    resctrl: Resctrl,
    /// The directories that weren't there, in the order in which they were made.
    made: Vec<String>,
    keep: bool,
}

impl Resctrl {
    /// Finds resctrl, if the configuration wants something of it.
    pub(crate) fn wanted_by(spec: &Spec, id: &ContainerId) -> Result<Option<Self>, Error> {
        let linux = spec.linux().as_ref();
        let wanted = linux.and_then(|linux| linux.intel_rdt().as_ref());
        wanted
            .map(|wanted| Self::open(wanted, id.as_str()))
            .transpose()
    }

    fn open(wanted: &LinuxIntelRdt, id: &str) -> Result<Self, Error> {
        let doing = "find resctrl for linux.intelRdt: this processor or kernel has none, or it has to be \
                     mounted (mount -t resctrl resctrl /sys/fs/resctrl)";
        let failed = |errno| Error::system("open /sys/fs/resctrl", errno, doing);
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(c"/sys/fs/resctrl", flags, Mode::empty()).map_err(failed)?;
        match filesystem_type(&root).map_err(failed)? {
            RESCTRL_MAGIC => Ok(Self {
                root,
                wanted: wanted.clone(),
                id: id.to_owned(),
            }),
            _ => Err(failed(Errno::ENODEV)),
        }
    }

    /// Puts a process into the class, which is made if it isn't there and may be.
    pub(crate) fn assign(self, pid: Pid) -> Result<Place, Error> {
        let mut place = Place {
            resctrl: self,
            made: Vec::new(),
            keep: false,
        };
        // From here on, what was made is undone.
        let class = place.enter_class()?;
        let failed = place.resctrl.failed("write tasks");
        put(class.as_fd(), pid).map_err(failed)?;
        if place.resctrl.wanted.enable_monitoring().unwrap_or(false) {
            place.monitor(pid)?;
        }
        Ok(place)
    }

    /// A class that was there already must be what is wanted of it.
    fn compare(&self, class: BorrowedFd, schemata: &[&str]) -> Result<(), Error> {
        let file = openat(class, c"schemata", OFlag::O_CLOEXEC, Mode::empty());
        let mut has = String::new();
        file.map(std::fs::File::from)
            .and_then(|mut file| {
                std::io::Read::read_to_string(&mut file, &mut has).map_err(|_| Errno::EIO)
            })
            .map_err(self.failed("read schemata"))?;
        let is_there = |line: &&str| has.lines().any(|own| own.trim() == line.trim());
        match schemata.iter().all(is_there) {
            true => Ok(()),
            false => Err(self.failed("compare schemata")(Errno::EEXIST)),
        }
    }

    fn schemata(&self) -> Vec<&str> {
        schemata(&self.wanted)
    }

    /// The class's name; none if the default one will do.
    fn name<'a>(&'a self, schemata: &[&str]) -> Option<&'a str> {
        let given = self.wanted.clos_id().as_deref();
        let given = given.filter(|name| !name.is_empty());
        given.or((!schemata.is_empty()).then_some(&self.id))
    }

    fn failed(&self, call: &'static str) -> impl Fn(Errno) -> Error {
        let name = self.wanted.clos_id().as_deref().unwrap_or(&self.id);
        let doing = format!("put the container into the class of service {name} (linux.intelRdt)");
        move |errno| Error::system(call, errno, doing.clone())
    }

    fn monitoring_group(&self) -> String {
        let schemata = self.schemata();
        let class = self.name(&schemata).unwrap_or(".");
        format!("{class}/mon_groups/{}", self.id)
    }

    /// Removes what is the container's own; what isn't there needs no removing.
    fn remove(&self) -> nix::Result<()> {
        remove(self.root.as_fd(), &self.monitoring_group())?;
        let is_own = self.wanted.clos_id().as_deref().is_none_or(str::is_empty);
        match is_own && !self.schemata().is_empty() {
            true => remove(self.root.as_fd(), &self.id),
            false => Ok(()),
        }
    }
}

impl Place {
    fn enter_class(&mut self) -> Result<OwnedFd, Error> {
        let resctrl = &self.resctrl;
        let root = resctrl.root.as_fd();
        let schemata = resctrl.schemata();
        let Some(name) = resctrl.name(&schemata) else {
            return directory(root, ".").map_err(resctrl.failed("open"));
        };
        // One that is named without saying what it is to be must be there.
        let is_new = match schemata.is_empty() {
            true => false,
            false => make(root, name).map_err(resctrl.failed("mkdir"))?,
        };
        if is_new {
            self.made.push(name.to_owned());
        }
        let class = directory(root, name).map_err(resctrl.failed("open"))?;
        match is_new {
            true => {
                put_lines(class.as_fd(), &schemata).map_err(resctrl.failed("write schemata"))?;
            }
            false => resctrl.compare(class.as_fd(), &schemata)?,
        }
        Ok(class)
    }

    fn monitor(&mut self, pid: Pid) -> Result<(), Error> {
        let resctrl = &self.resctrl;
        let (root, path) = (resctrl.root.as_fd(), resctrl.monitoring_group());
        let failed = resctrl.failed("make a monitoring group");
        if make(root, &path).map_err(&failed)? {
            self.made.push(path.clone());
        }
        let group = directory(root, &path).map_err(&failed)?;
        put(group.as_fd(), pid).map_err(&failed)
    }

    /// Gives it up.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let resctrl = &self.resctrl;
        resctrl.remove().map_err(resctrl.failed("rmdir"))
    }

    /// It stays when this is dropped.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for path in self.made.iter().rev() {
            // The error that brought us here is the one to be reported.
            let _removed = remove(self.resctrl.root.as_fd(), path).is_ok();
        }
    }
}

/// Removes what a container that has ended had for itself in resctrl, if its configuration wanted
/// something there (`linux.intelRdt`). A container's own [`delete`](crate::Container::delete) doesn't
/// know of it, when it was taken up by its process.
pub fn remove_class(spec: &Spec, id: &ContainerId) -> Result<(), Error> {
    match Resctrl::wanted_by(spec, id) {
        Ok(Some(resctrl)) => resctrl.remove().map_err(resctrl.failed("rmdir")),
        // Nothing is left of what isn't mounted any more.
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The lines that the schemata of a class are to have.
fn schemata(wanted: &LinuxIntelRdt) -> Vec<&str> {
    let lines = wanted.schemata().as_deref().unwrap_or_default();
    if !lines.is_empty() {
        return lines.iter().map(String::as_str).collect();
    }
    let old = [wanted.l3_cache_schema(), wanted.mem_bw_schema()];
    old.into_iter().flatten().map(String::as_str).collect()
}

fn c_string(text: &str) -> nix::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

fn directory(at: BorrowedFd, name: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, c_string(name)?.as_c_str(), flags, Mode::empty())
}

/// Makes a directory; tells whether it wasn't there.
fn make(at: BorrowedFd, path: &str) -> nix::Result<bool> {
    match mkdirat(
        at,
        c_string(path)?.as_c_str(),
        Mode::from_bits_truncate(0o755),
    ) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn remove(at: BorrowedFd, path: &str) -> nix::Result<()> {
    match unlinkat(at, c_string(path)?.as_c_str(), UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

fn put(group: BorrowedFd, pid: Pid) -> nix::Result<()> {
    put_text(group, "tasks", &pid.to_string())
}

fn put_lines(class: BorrowedFd, schemata: &[&str]) -> nix::Result<()> {
    let lines: String = schemata.iter().flat_map(|line| [line, "\n"]).collect();
    put_text(class, "schemata", &lines)
}

fn put_text(group: BorrowedFd, name: &str, text: &str) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(group, c_string(name)?.as_c_str(), flags, Mode::empty())?;
    write(file, text.as_bytes()).map(drop)
}
