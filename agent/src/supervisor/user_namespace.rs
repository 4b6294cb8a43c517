//! The user namespace that a container is in: the one that owns its network namespace.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, bail};
use berth_netns::IdRange;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown};

use super::protocol::{ContainerNetwork, NetworkNamespace};
use super::user::User;

/// A task's user namespace.
pub struct UserNamespace {
    fd: OwnedFd,
    range: IdRange,
}

impl UserNamespace {
    /// That of a container; nothing where it is in the host's.
    pub fn of(network: &ContainerNetwork) -> anyhow::Result<Option<Self>> {
        let (Some(range), NetworkNamespace::At(path)) = (network.id_range, &network.namespace)
        else {
            return Ok(None);
        };
        let netns = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let fd = berth_netns::owner(netns.as_fd())
            .with_context(|| format!("looking for the owner of {}", path.display()))?;
        Ok(Some(Self { fd, range }))
    }

    /// Where this process finds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Its ids on the host.
    pub fn range(&self) -> IdRange {
        self.range
    }

    /// Gives its root these pipes: a program that opens `/dev/stdout` opens a file that has an owner. What else they
    /// are stays the caller's.
    pub fn give<'a>(&self, pipes: impl IntoIterator<Item = &'a OwnedFd>) -> anyhow::Result<()> {
        let (user, group) = (
            Uid::from_raw(self.range.first),
            Gid::from_raw(self.range.first),
        );
        for pipe in pipes {
            let kind = fstat(pipe).context("looking at a pipe")?.st_mode & SFlag::S_IFMT.bits();
            if kind == SFlag::S_IFIFO.bits() {
                fchown(pipe, Some(user), Some(group)).context("giving a pipe to the container")?;
            }
        }
        Ok(())
    }

    /// Refuses a user whom it doesn't have.
    pub fn check(&self, user: &User) -> anyhow::Result<()> {
        let ids = [user.uid, user.gid]
            .into_iter()
            .chain(user.groups.iter().copied());
        if let Some(id) = ids.into_iter().find(|id| *id >= IdRange::SIZE) {
            bail!(
                "the container's user has the id {id}; in a user namespace there are those below {}: choose another, or \
                 --user-namespaces never",
                IdRange::SIZE
            );
        }
        Ok(())
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
