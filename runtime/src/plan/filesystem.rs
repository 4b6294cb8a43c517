//! The root filesystem as a plan: its mounts, devices, links, and the paths hidden or protected.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespaceType, Root, Spec};

use super::id_maps::MountMaps;
use super::process::selinux_is_enabled;
use super::{
    Context, Error, Filesystem, c_string, devices, inside, inside_c, mount_options, mounts,
};
use crate::sys::mount::{MountAttr, clone_mount, set_attributes};

/// Opens the directory that becomes the root, as a detached mount of its own.
pub(crate) fn root_mount(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |call| {
        move |errno| {
            Error::new(
                call,
                errno,
                format!("open the root filesystem {}", path.display()),
            )
        }
    };
    let directory = open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("open"))?;
    clone_mount(directory.as_fd(), c"", true).map_err(failed("open_tree"))
}

pub(super) fn filesystem(
    spec: &Spec,
    root: OwnedFd,
    binds_devices: bool,
    context: &Context,
) -> Result<Filesystem, Error> {
    make_private(root.as_fd())?;
    let linux = spec.linux().as_ref();
    let attach_at = context.attach_at.unwrap_or(Path::new("/"));
    let propagation = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    let listed = spec.mounts().iter().flatten();
    let (devices, links) = match listed.clone().any(is_bound_dev) {
        true => (Vec::new(), Vec::new()),
        false => (devices::devices(spec, binds_devices)?, devices::links()?),
    };
    let mut around = surroundings(spec, context)?;
    Ok(Filesystem {
        root,
        attach_at: c_string(attach_at.as_os_str().as_encoded_bytes())?,
        parents_turn: context.parents_turn,
        no_pivot: context.no_pivot,
        readonly: spec
            .root()
            .as_ref()
            .and_then(Root::readonly)
            .unwrap_or(false),
        propagation: mount_options::propagation_named(propagation),
        mounts: listed
            .map(|mount| mounts::mount(mount, &mut around))
            .collect::<Result<_, _>>()?,
        devices,
        links,
        sysctls: sysctls(spec)?,
        masked: paths(linux.and_then(|linux| linux.masked_paths().as_deref()))?,
        readonly_paths: paths(linux.and_then(|linux| linux.readonly_paths().as_deref()))?,
    })
}

/// Else the container's root would stay a peer of the host's mount that it was taken from.
fn make_private(root: BorrowedFd) -> Result<(), Error> {
    let private = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    set_attributes(root, &private, true)
        .map_err(|errno| Error::new("mount_setattr", errno, "make the root filesystem private"))
}

fn surroundings<'a>(
    spec: &'a Spec,
    context: &'a Context,
) -> Result<mounts::Surroundings<'a>, Error> {
    let linux = spec.linux().as_ref();
    let mut namespaces = linux
        .into_iter()
        .flat_map(|linux| linux.namespaces().iter().flatten());
    let label = linux.and_then(|linux| linux.mount_label().as_deref());
    Ok(mounts::Surroundings {
        has_cgroup_namespace: namespaces.any(|ns| ns.typ() == LinuxNamespaceType::Cgroup),
        label: checked_label(label)?,
        id_maps: MountMaps::new(linux),
        context,
    })
}

/// Where SELinux isn't enabled, a label would be an option that no file system knows.
fn checked_label(label: Option<&str>) -> Result<Option<&str>, Error> {
    let label = label.filter(|label| !label.is_empty());
    match label.is_some() && !selinux_is_enabled() {
        true => Err(Error::new(
            "statfs /sys/fs/selinux",
            Errno::ENOTSUP,
            "selinux label is specified in config, but selinux is disabled or not supported: \
             linux.mountLabel",
        )),
        false => Ok(label),
    }
}

/// A /dev that is bound from the host is left as it is.
fn is_bound_dev(mount: &oci_spec::runtime::Mount) -> bool {
    inside(mount.destination()) == Path::new("dev") && mount_options::is_bind(mount)
}

pub(super) fn sysctls(spec: &Spec) -> Result<Vec<(std::ffi::CString, std::ffi::CString)>, Error> {
    let sysctls = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref());
    sysctls
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let path = format!("sys/{}", sysctl_path(name));
            Ok((c_string(path)?, c_string(value.as_str())?))
        })
        .collect()
}

/// `net.ipv4.conf.eth0/1.x` is `net/ipv4/conf/eth0.1/x`: a slash in the dotted form stands for a dot.
pub(crate) fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

pub(super) fn paths(paths: Option<&[String]>) -> Result<Vec<std::ffi::CString>, Error> {
    paths
        .unwrap_or_default()
        .iter()
        .map(|path| inside_c(Path::new(path)))
        .collect()
}
