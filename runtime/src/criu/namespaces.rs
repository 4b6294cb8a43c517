//! Namespaces that a container joins: CRIU leaves them out of its images, and restores the processes
//! into the ones of the configuration.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type, Spec};

use super::Error;
use super::rpc::{InheritedDescriptor, JoinedNamespace};
use crate::plan::path_of;

/// How a namespace at a path is restored.
enum Way {
    /// As a descriptor that CRIU inherits, under this key: for these it asks at the checkpoint too.
    Inherited {
        file: &'static str,
        key: &'static str,
    },
    /// By its path. Its content is in the images, and stays there.
    Joined(&'static str),
    Impossible,
}

/// The keys are runc's.
fn way(kind: Type) -> Way {
    match kind {
        Type::Network => Way::Inherited {
            file: "net",
            key: "extRootNetNS",
        },
        Type::Pid => Way::Inherited {
            file: "pid",
            key: "extRootPidNS",
        },
        Type::Ipc => Way::Joined("ipc"),
        Type::Uts => Way::Joined("uts"),
        Type::User => Way::Joined("user"),
        Type::Time => Way::Joined("time"),
        Type::Mount | Type::Cgroup => Way::Impossible,
    }
}

fn by_path(spec: &Spec) -> impl Iterator<Item = (&LinuxNamespace, &Path)> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_deref());
    let listed = listed.unwrap_or_default().iter();
    listed.filter_map(|namespace| Some((namespace, path_of(namespace)?)))
}

/// Fails where a namespace couldn't be joined again.
pub(super) fn refuse_impossible(spec: &Spec) -> Result<(), Error> {
    let mut all = by_path(spec);
    match all.find(|(namespace, _)| matches!(way(namespace.typ()), Way::Impossible)) {
        None => Ok(()),
        Some((namespace, path)) => Err(Error::Config {
            field: format!(
                "linux.namespaces, {} at {}",
                namespace.typ(),
                path.display()
            ),
            reason: "criu can't restore processes into such a namespace",
        }),
    }
}

/// What CRIU is told when it checkpoints: the namespaces that aren't the container's own.
pub(super) fn external(spec: &Spec, pid: Pid) -> Result<Vec<String>, Error> {
    let mut external = Vec::new();
    for (namespace, _) in by_path(spec) {
        if let Way::Inherited { file, key } = way(namespace.typ()) {
            // The process's own: its path may be gone, or lead to another one by now.
            let path = format!("/proc/{pid}/ns/{file}");
            let metadata = fs::metadata(&path).map_err(Error::file("read", Path::new(&path)))?;
            external.push(format!("{file}[{}]:{key}", metadata.ino()));
        }
    }
    Ok(external)
}

/// What CRIU gets when it restores.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) inherited: Vec<InheritedDescriptor>,
    pub(super) joined: Vec<JoinedNamespace>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Opens the namespaces that the configuration names.
pub(super) fn places(spec: &Spec) -> Result<Places, Error> {
    let mut places = Places::default();
    for (namespace, path) in by_path(spec) {
        match way(namespace.typ()) {
            Way::Inherited { key, .. } => {
                let file = File::open(path).map_err(Error::file("open the namespace", path))?;
                places.inherited.push(InheritedDescriptor {
                    key: key.to_owned(),
                    fd: file.as_raw_fd(),
                });
                places.descriptors.push(file.into());
            }
            Way::Joined(kind) => places.joined.push(JoinedNamespace {
                kind: kind.to_owned(),
                file: path.to_string_lossy().into_owned(),
            }),
            Way::Impossible => {}
        }
    }
    Ok(places)
}
