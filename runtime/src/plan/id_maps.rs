//! Id-mapped mounts: the kernel takes a map in the form of a user namespace, so one is made for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount};

use super::{Error, IdMap, namespaces::path_of};
use crate::child_files::write_id_maps;
use crate::user_namespace;

/// The maps that a container's mounts have asked for: most have the same, so each is made once.
pub(super) struct MountMaps<'a> {
    linux: Option<&'a Linux>,
    made: Vec<(Key<'a>, Arc<OwnedFd>)>,
}

/// The maps of users and of groups.
type Key<'a> = (
    Vec<LinuxIdMapping>,
    Vec<LinuxIdMapping>,
    Option<&'a std::path::Path>,
);

impl<'a> MountMaps<'a> {
    pub(super) fn new(linux: Option<&'a Linux>) -> Self {
        Self {
            linux,
            made: Vec::new(),
        }
    }

    /// The map of a mount: its own, or by the option alone the container's. Maps without the option
    /// mean the same as with it.
    pub(super) fn of(
        &mut self,
        mount: &Mount,
        option: Option<bool>,
    ) -> Result<Option<IdMap>, Error> {
        let own = |map: &Option<Vec<LinuxIdMapping>>| map.clone().unwrap_or_default();
        let (uids, gids) = (own(mount.uid_mappings()), own(mount.gid_mappings()));
        let key = match (uids.is_empty(), option) {
            (true, None) => return Ok(None),
            (true, Some(_)) => self.containers(),
            (false, _) => (uids, gids, None),
        };
        let doing = || {
            format!(
                "make the id map of the mount on {}",
                mount.destination().display()
            )
        };
        let user_namespace = self
            .get(key)
            .map_err(|(call, errno)| Error::new(call, errno, doing()))?;
        Ok(Some(IdMap {
            user_namespace,
            recursive: option == Some(true),
        }))
    }

    fn containers(&self) -> Key<'a> {
        let Some(linux) = self.linux else {
            return Key::default();
        };
        let joined = linux.namespaces().iter().flatten().find_map(|namespace| {
            let is_user = namespace.typ() == LinuxNamespaceType::User;
            path_of(namespace).filter(|_| is_user)
        });
        let own = |map: &Option<Vec<LinuxIdMapping>>| map.clone().unwrap_or_default();
        match joined {
            Some(path) => (Vec::new(), Vec::new(), Some(path)),
            None => (own(linux.uid_mappings()), own(linux.gid_mappings()), None),
        }
    }

    fn get(&mut self, key: Key<'a>) -> Result<Arc<OwnedFd>, (&'static str, Errno)> {
        if let Some((_, made)) = self.made.iter().find(|(known, _)| *known == key) {
            return Ok(made.clone());
        }
        let made = Arc::new(match key.2 {
            Some(path) => open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| ("open", errno))?,
            None => {
                user_namespace::make(|pid| write_id_maps(pid, &key.0, &key.1)).map_err(|error| {
                    (
                        "make a user namespace",
                        error.errno().unwrap_or(Errno::EINVAL),
                    )
                })?
            }
        });
        self.made.push((key, made.clone()));
        Ok(made)
    }
}
