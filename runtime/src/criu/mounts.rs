//! Mounts that come from the host: CRIU leaves them out of its images under a name, and gets what is to
//! be mounted in their places when it restores.
//!
//! | mount | its name | restored from |
//! |---|---|---|
//! | a bind mount of the configuration | its destination | its source |
//! | a masked file | `/dev/null` | `/dev/null` |
//! | the cgroup, without a cgroup namespace | its destination | the new container's cgroup |
//! | a device, in a user namespace | its path | the host's device |

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::Error;
use super::rpc::ExternalMount;
use crate::cgroup;
use crate::init::paths::{self, Links};
use crate::plan::{self, id_map_option, inside, is_bind};

const NULL: &str = "/dev/null";

/// A line of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    id: u64,
    /// As the process sees it.
    point: PathBuf,
}

/// The mounts of a process's mount namespace.
#[derive(Debug)]
pub(super) struct Table(Vec<Entry>);

impl Table {
    pub(super) fn of(pid: Pid) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        Ok(Self(
            text.split(|byte| *byte == b'\n')
                .filter_map(entry)
                .collect(),
        ))
    }

    pub(super) fn entry(&self, id: u64) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.id == id)
    }
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescape(fields.nth(3)?);
    Some(Entry {
        id,
        point: PathBuf::from(std::ffi::OsString::from_vec(point)),
    })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                plain.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// The mount that an open file is on, by its fdinfo.
pub(super) fn id_of(fdinfo: &str) -> Result<u64, Error> {
    let text = fs::read_to_string(fdinfo).map_err(Error::file("read", Path::new(fdinfo)))?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = line.and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| Error::file("find mnt_id in", Path::new(fdinfo))(Errno::EIO.into()))
}

/// Fails where CRIU would restore another mount than there was.
pub(super) fn refuse_impossible(spec: &Spec) -> Result<(), Error> {
    let is_mapped = |mount: &Mount| {
        let maps = [mount.uid_mappings(), mount.gid_mappings()];
        id_map_option(mount).is_some() || maps.iter().any(|map| map.is_some())
    };
    let mut mounts = spec.mounts().iter().flatten().enumerate();
    match mounts.find(|(_, mount)| is_mapped(mount)) {
        None => Ok(()),
        Some((index, mount)) => Err(Error::Config {
            field: format!("mounts[{index}] on {}", mount.destination().display()),
            reason: "criu can't restore an id-mapped mount",
        }),
    }
}

/// What CRIU is told when it checkpoints: where the mounts from outside are, and their names.
pub(super) fn external(spec: &Spec, pid: Pid, table: &Table) -> Result<Vec<ExternalMount>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(&path, flags, Mode::empty())
        .map_err(|errno| Error::file("open", &path)(errno.into()))?;
    let mut external = Vec::new();
    let mut add = |point: Option<&Path>, name: &str| {
        let key = point
            .unwrap_or(Path::new("/"))
            .to_string_lossy()
            .into_owned();
        // The root itself is no mount from outside: what was mounted there is gone.
        if key != "/" {
            external.push(ExternalMount {
                key,
                value: name.to_owned(),
            });
        }
    };
    for destination in from_host(spec) {
        let file = found(root.as_fd(), &destination)?;
        let point = file.as_ref().map(|file| point(file, table)).transpose()?;
        add(point.flatten(), &name_of(&destination));
    }
    for masked in masked(spec) {
        let Some(file) = found(root.as_fd(), Path::new(masked))? else {
            continue;
        };
        // A directory is covered by a file system that CRIU restores.
        if paths::kind_of(file.as_fd()) == Ok(SFlag::S_IFCHR) {
            add(point(&file, table)?, NULL);
        }
    }
    Ok(external)
}

/// What CRIU is told when it restores: what the names of mounts stand for.
pub(super) fn sources(spec: &Spec, bundle: &Path, own_cgroup: &Path) -> Vec<ExternalMount> {
    let mut sources = Vec::new();
    let mut add = |name: String, source: PathBuf| {
        sources.push(ExternalMount {
            key: name,
            value: source.to_string_lossy().into_owned(),
        });
    };
    for mount in spec.mounts().iter().flatten() {
        let name = name_of(mount.destination());
        if is_bind(mount) {
            add(
                name,
                bundle.join(mount.source().clone().unwrap_or_default()),
            );
        } else if is_own_cgroup(mount, spec) {
            add(name, Path::new(cgroup::ROOT).join(own_cgroup));
        }
    }
    if !masked(spec).is_empty() {
        add(NULL.to_owned(), NULL.into());
    }
    for device in devices(spec) {
        add(name_of(&device), device);
    }
    sources
}

/// The destinations of mounts that come from the host.
fn from_host(spec: &Spec) -> Vec<PathBuf> {
    let is_external = |mount: &&Mount| is_bind(mount) && !is_copied_link(mount);
    let mounts = spec.mounts().iter().flatten();
    let mounts = mounts.filter(|mount| is_external(mount) || is_own_cgroup(mount, spec));
    let destinations = mounts.map(|mount| mount.destination().clone());
    destinations.chain(devices(spec)).collect()
}

/// One that was made as a link, rather than mounted.
fn is_copied_link(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    let source = mount.source().as_deref();
    options.any(|option| option == "copy-symlink") && source.is_some_and(Path::is_symlink)
}

/// Without a cgroup namespace the container's cgroup is bound from the host's hierarchy.
fn is_own_cgroup(mount: &Mount, spec: &Spec) -> bool {
    let is_cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
    is_cgroup && !is_bind(mount) && !has_namespace(spec, LinuxNamespaceType::Cgroup)
}

fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_deref());
    let listed = listed.unwrap_or_default();
    listed.iter().any(|namespace| namespace.typ() == kind)
}

/// Devices that are bound, since no node can be made in a user namespace.
fn devices(spec: &Spec) -> Vec<PathBuf> {
    match has_namespace(spec, LinuxNamespaceType::User) {
        true => plan::device_paths(spec),
        false => Vec::new(),
    }
}

fn masked(spec: &Spec) -> &[String] {
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref());
    masked.unwrap_or_default()
}

fn name_of(destination: &Path) -> String {
    let path = Path::new("/").join(inside(destination));
    path.to_string_lossy().into_owned()
}

/// Opens a path of the container as the container itself would.
fn found(root: BorrowedFd, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let failed = |errno: Errno| Error::file("open in the container", path)(errno.into());
    let inside = inside(path);
    let name = CString::new(inside.as_os_str().as_bytes()).map_err(|_| failed(Errno::EINVAL))?;
    match paths::open(root, &name, OFlag::O_PATH, Links::Inside) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

/// The place of the mount that a file is on.
fn point<'a>(file: &OwnedFd, table: &'a Table) -> Result<Option<&'a Path>, Error> {
    let id = id_of(&format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    Ok(table.entry(id).map(|entry| entry.point.as_path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_from_the_kernels_lines() {
        for (line, id, point) in [
            (
                "36 35 98:0 / /mnt/a\\040b rw shared:1 - ext4 /dev/x rw",
                36,
                "/mnt/a b",
            ),
            (
                "105 106 254:0 /b / rw,relatime - ext4 /dev/vda rw",
                105,
                "/",
            ),
            ("7 1 0:1 / /\\134x\\ rw - tmpfs t rw", 7, "/\\x\\"),
        ] {
            let point = PathBuf::from(point);
            assert_eq!(entry(line.as_bytes()), Some(Entry { id, point }));
        }
        for line in ["", "x", "1 2 3", "x 35 98:0 / /mnt"] {
            assert_eq!(entry(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn only_what_comes_from_the_host_has_a_source() {
        let mut spec = crate::spec::default();
        let mut mount = Mount::default();
        mount
            .set_destination("/a/../data".into())
            .set_source(Some("data".into()))
            .set_options(Some(vec!["rbind".into()]));
        spec.mounts_mut().as_mut().unwrap().push(mount);
        let sources = sources(&spec, Path::new("/bundle"), Path::new("own"));
        let found: Vec<_> = sources
            .iter()
            .map(|s| (s.key.as_str(), s.value.as_str()))
            .collect();
        let mut wanted = vec![("/data", "/bundle/data"), (NULL, NULL)];
        if !has_namespace(&spec, LinuxNamespaceType::Cgroup) {
            wanted.insert(0, ("/sys/fs/cgroup", "/sys/fs/cgroup/own"));
        }
        assert_eq!(found, wanted);
    }
}
