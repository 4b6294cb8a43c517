//! The nodes and links of /dev.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat, makedev};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::{DeviceStep, Error, c_string, inside, inside_c};
use crate::sys::mount::clone_mount;

/// The nodes that every container has: (name, major, minor).
const DEFAULTS: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/ptmx", "pts/ptmx"),
];

pub(super) fn links() -> Result<Vec<(CString, CString)>, Error> {
    LINKS
        .iter()
        .map(|(name, target)| Ok((c_string(*name)?, c_string(*target)?)))
        .collect()
}

/// The default nodes and those of the configuration, which replace a default of the same path.
/// `bind` has the host's shown, where none can be made.
pub(super) fn devices(spec: &Spec, bind: bool) -> Result<Vec<DeviceStep>, Error> {
    let linux = spec.linux().as_ref();
    let listed = linux
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default();
    let mut nodes: Vec<Node> = listed.iter().map(Node::from).collect();
    for (name, major, minor) in DEFAULTS {
        let path = Path::new("dev").join(name);
        if !nodes.iter().any(|node| node.path == path) {
            let number = makedev(major, minor);
            nodes.push(Node {
                path,
                mode: libc::S_IFCHR | 0o666,
                number,
                uid: 0,
                gid: 0,
            });
        }
    }
    nodes.into_iter().map(|node| node.plan(bind)).collect()
}

/// Where the nodes of a container are, below the host's root too.
pub(crate) fn device_paths(spec: &Spec) -> Vec<PathBuf> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.devices().as_deref());
    let listed = listed.unwrap_or_default().iter().map(LinuxDevice::path);
    let mut paths: Vec<_> = listed
        .map(|path| Path::new("/").join(inside(path)))
        .collect();
    let defaults = DEFAULTS.map(|(name, ..)| Path::new("/dev").join(name));
    paths.extend(defaults);
    paths.sort();
    paths.dedup();
    paths
}

struct Node {
    path: PathBuf,
    mode: u32,
    number: u64,
    uid: u32,
    gid: u32,
}

impl From<&LinuxDevice> for Node {
    fn from(device: &LinuxDevice) -> Self {
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        Self {
            path: inside(device.path()),
            mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
            number: makedev(device.major() as u64, device.minor() as u64),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        }
    }
}

impl Node {
    fn plan(self, bind: bool) -> Result<DeviceStep, Error> {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let name = self.path.file_name().unwrap_or_default();
        Ok(DeviceStep {
            directory: inside_c(directory)?,
            name: c_string(name.as_encoded_bytes())?,
            bind: bind.then(|| self.host_node()).transpose()?,
            mode: self.mode,
            number: self.number,
            uid: self.uid,
            gid: self.gid,
        })
    }

    fn host_node(&self) -> Result<OwnedFd, Error> {
        let path = Path::new("/").join(&self.path);
        let failed = |call| {
            let doing = format!("open the host's device {} to bind it", path.display());
            move |errno| Error::new(call, errno, doing)
        };
        let node = open(
            &path,
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("open"))?;
        let stat = fstatat(&node, c"", AtFlags::AT_EMPTY_PATH).map_err(failed("fstatat"))?;
        let same =
            stat.st_mode & libc::S_IFMT == self.mode & libc::S_IFMT && stat.st_rdev == self.number;
        if !same {
            return Err(failed("fstatat (another device)")(
                nix::errno::Errno::ENODEV,
            ));
        }
        clone_mount(node.as_fd(), c"", false).map_err(failed("open_tree"))
    }
}
