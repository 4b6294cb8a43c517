//! Id-mapped mounts: the kernel takes a map in the form of a user namespace, so one is made for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount};

use super::{Error, IdMap, namespaces::path_of};
use crate::child_files::write_id_maps;
use crate::sys::clone::{CloneArgs, clone3};
use crate::sys::{process, socket};

/// The maps that a container's mounts have asked for: most have the same, so each is made once.
pub(super) struct IdMaps<'a> {
    linux: Option<&'a Linux>,
    made: Vec<(Key<'a>, Arc<OwnedFd>)>,
}

/// The maps of users and of groups.
type Key<'a> = (
    Vec<LinuxIdMapping>,
    Vec<LinuxIdMapping>,
    Option<&'a std::path::Path>,
);

impl<'a> IdMaps<'a> {
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
            None => user_namespace(&key.0, &key.1)?,
        });
        self.made.push((key, made.clone()));
        Ok(made)
    }
}

/// Makes a user namespace for the sake of its map: by a process that is there until the namespace is
/// held by its descriptor.
fn user_namespace(
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<OwnedFd, (&'static str, Errno)> {
    let (ours, holders) = socket::packet_pair().map_err(|errno| ("socketpair", errno))?;
    let args = CloneArgs {
        flags: CloneFlags::CLONE_NEWUSER,
        cgroup: None,
    };
    let number = std::os::fd::AsRawFd::as_raw_fd(&ours);
    let holder = clone3(&args, || {
        use std::os::fd::AsFd;
        process::close_inherited(number);
        // Our end of the channel closes when we are done, or die.
        socket::receive(holders.as_fd(), &mut [0; 1]).map_or(1, |_| 0)
    })
    .map_err(|errno| ("clone3", errno))?;
    let open_namespace = || {
        write_id_maps(holder.pid, uids, gids)
            .map_err(|error| ("write the map", error.errno().unwrap_or(Errno::EINVAL)))?;
        let path = format!("/proc/{}/ns/user", holder.pid);
        open(
            path.as_str(),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| ("open", errno))
    };
    let namespace = open_namespace();
    drop(ours);
    process::wait_child(std::os::fd::AsFd::as_fd(&holder.pidfd), true)
        .map_err(|errno| ("waitid", errno))?;
    namespace
}
