//! Performing the mounts of the plan, in its order.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};

use super::copy_up;
use super::paths::{self, Kind};
use super::step::{Failure, Step};
use crate::plan::{MountSource, MountStep, set_id_map};
use crate::sys::mount::{self, FsContext, MountAttr, attr, filesystem_type};

const PROC_MAGIC: i64 = 0x9fa0;

pub(super) fn mount_all(root: BorrowedFd, steps: &[MountStep]) -> Result<(), Failure> {
    for (index, step) in steps.iter().enumerate() {
        mount_one(root, step).map_err(Failure::of_item(Step::Mount, index))?;
    }
    Ok(())
}

/// Makes what the steps are mounted on, and mounts no more than what comes from the host.
pub(super) fn make_points(root: BorrowedFd, steps: &[MountStep]) -> Result<(), Failure> {
    let make = |step: &MountStep| match &step.source {
        MountSource::New { .. } => open_target(root, step).map(drop),
        _ => mount_one(root, step),
    };
    for (index, step) in steps.iter().enumerate() {
        make(step).map_err(Failure::of_item(Step::Mount, index))?;
    }
    Ok(())
}

fn mount_one(root: BorrowedFd, step: &MountStep) -> nix::Result<()> {
    if let MountSource::Link { target } = &step.source {
        return paths::make_link(root, &step.target, target);
    }
    let target = open_target(root, step)?;
    let new;
    let tree = match &step.source {
        MountSource::Bind { tree, .. } => tree.as_fd(),
        MountSource::New {
            fstype,
            options,
            attributes,
            inherit_mode,
            copy_up,
        } => {
            let inherited = inherit_mode.then_some(target.as_fd());
            // While it is filled, it must be writable.
            let at_first = if *copy_up {
                attributes & !attr::RDONLY
            } else {
                *attributes
            };
            new = make(fstype, options, at_first, inherited)?;
            if *copy_up {
                fill(new.as_fd(), target.as_fd(), *attributes)?;
            }
            new.as_fd()
        }
        MountSource::Link { .. } => return Err(Errno::EINVAL),
    };
    if let Some(map) = &step.id_map {
        set_id_map(tree, map)?;
    }
    mount::attach(tree, target.as_fd())?;
    set_after_attaching(tree, step)
}

/// Copies into a new tmpfs what it will cover.
fn fill(tmpfs: BorrowedFd, covered: BorrowedFd, attributes: u64) -> nix::Result<()> {
    copy_up::copy(covered, tmpfs)?;
    let readonly = MountAttr {
        set: attributes & attr::RDONLY,
        ..Default::default()
    };
    match readonly.is_empty() {
        true => Ok(()),
        false => mount::set_attributes(tmpfs, &readonly, false),
    }
}

/// The target is a descriptor from here on: what is swapped in at its path changes nothing.
fn open_target(root: BorrowedFd, step: &MountStep) -> nix::Result<OwnedFd> {
    let kind = match step.source {
        MountSource::Bind { kind, .. } => kind,
        _ => Kind::Directory,
    };
    let target = paths::open_or_make(root, &step.target, kind, step.links)?;
    // Processes base decisions on what /proc tells them, so an image or volume must not fake it. The
    // path was checked with the configuration; a link into /proc shows only here.
    if !step.on_proc && filesystem_type(&target)? == PROC_MAGIC {
        return Err(Errno::EPERM);
    }
    Ok(target)
}

fn make(
    fstype: &CStr,
    options: &[(std::ffi::CString, Option<std::ffi::CString>)],
    attributes: u64,
    inherit_mode_of: Option<BorrowedFd>,
) -> nix::Result<OwnedFd> {
    let context = FsContext::open(fstype)?;
    for (key, value) in options {
        context.set(key, value.as_deref())?;
    }
    if let Some(covered) = inherit_mode_of {
        let mode = fstatat(covered, c"", AtFlags::AT_EMPTY_PATH)?.st_mode & 0o7777;
        let mut digits = [0; 6];
        context.set(c"mode", Some(octal(mode, &mut digits)))?;
    }
    context.mount(attributes)
}

/// Formats a mode without allocating.
fn octal(mode: u32, digits: &mut [u8; 6]) -> &CStr {
    for (place, digit) in digits.iter_mut().take(5).rev().enumerate() {
        *digit = b'0' + ((mode >> (3 * place)) & 7) as u8;
    }
    CStr::from_bytes_until_nul(digits).unwrap_or(c"0755")
}

fn set_after_attaching(tree: BorrowedFd, step: &MountStep) -> nix::Result<()> {
    if step.propagation != 0 {
        let attributes = MountAttr {
            propagation: step.propagation,
            ..Default::default()
        };
        mount::set_attributes(tree, &attributes, false)?;
    }
    if !step.recursive.is_empty() {
        mount::set_attributes(tree, &step.recursive, true)?;
    }
    Ok(())
}

/// Tells directories from the rest, for what is mounted over something that exists.
pub(super) fn is_directory(fd: BorrowedFd) -> nix::Result<bool> {
    Ok(paths::kind_of(fd)? == SFlag::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_in_octal() {
        for (mode, text) in [(0o755, c"00755"), (0o1777, c"01777"), (0, c"00000")] {
            assert_eq!(octal(mode, &mut [0; 6]), text);
        }
    }
}
