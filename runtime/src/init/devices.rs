//! Making the nodes and links of /dev.
//!
//! Every directory on the way is opened without following links: an image whose /dev is a link would
//! otherwise have us make nodes on the host (CVE-2026-41579).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::paths::{self, Links};
use super::step::{Failure, Step};
use crate::plan::DeviceStep;
use crate::sys::mount;

pub(super) fn make_nodes(root: BorrowedFd, devices: &[DeviceStep]) -> Result<(), Failure> {
    // Most are in the same one.
    let mut last: Option<(&CStr, OwnedFd)> = None;
    for (index, device) in devices.iter().enumerate() {
        let path = device.directory.as_c_str();
        let directory = match last.take().filter(|(last, _)| *last == path) {
            Some((_, directory)) => Ok(directory),
            None => paths::make_directory(root, path, Links::Refused),
        };
        let directory = directory.map_err(Failure::of_item(Step::Device, index))?;
        make_node(directory.as_fd(), device).map_err(Failure::of_item(Step::Device, index))?;
        last = Some((path, directory));
    }
    Ok(())
}

fn make_node(directory: BorrowedFd, device: &DeviceStep) -> nix::Result<()> {
    if let Some(host) = &device.bind {
        let target =
            paths::open_or_make(directory, &device.name, paths::Kind::File, Links::Refused)?;
        return mount::attach(host.as_fd(), target.as_fd());
    }
    let kind = SFlag::from_bits_truncate(device.mode & libc::S_IFMT);
    let mode = Mode::from_bits_truncate(device.mode);
    let name: &CStr = &device.name;
    match mknodat(directory, name, kind, mode, device.number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return same_device(directory, device),
        Err(errno) => return Err(errno),
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(
        directory,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
}

/// What is there already, in an image's own /dev, must be the very device.
fn same_device(directory: BorrowedFd, device: &DeviceStep) -> nix::Result<()> {
    let stat = fstatat(
        directory,
        device.name.as_c_str(),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    let same_kind = stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT;
    match same_kind && stat.st_rdev == device.number {
        true => Ok(()),
        false => Err(Errno::EEXIST),
    }
}

/// Makes links such as /dev/stdin; what exists is left alone.
pub(super) fn make_links(root: BorrowedFd, links: &[(CString, CString)]) -> Result<(), Failure> {
    if links.is_empty() {
        return Ok(());
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let directory =
        paths::open(root, c"dev", flags, Links::Refused).map_err(Failure::of(Step::DeviceLink))?;
    let make = |name: &CStr, target: &CStr| {
        let name = name
            .to_bytes_with_nul()
            .strip_prefix(b"dev/")
            .ok_or(Errno::EINVAL)?;
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::EINVAL)?;
        match symlinkat(target, &directory, name) {
            Err(Errno::EEXIST) => Ok(()),
            other => other,
        }
    };
    for (index, (name, target)) in links.iter().enumerate() {
        make(name, target).map_err(Failure::of_item(Step::DeviceLink, index))?;
    }
    Ok(())
}
