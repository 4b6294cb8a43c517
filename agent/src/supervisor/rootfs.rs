//! A container's root filesystem: the image's layers, read-only, below a folder of its own.
//!
//! In a user namespace, the layers' files belong to its ids, though on disk to the image's: they are stacked from an
//! id-mapped mount, which is needed no longer than that takes. What the container writes is its ids' on disk too.

use std::os::fd::AsFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use berth_runtime::id_mapped;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::protocol::PlannedContainer;
use super::user_namespace::UserNamespace;

/// A mounted overlay, unmounted when it is dropped.
pub struct Rootfs {
    path: PathBuf,
}

impl Rootfs {
    /// Stacks the container's layers at `path`, with the ids of the user namespace that it is to be in.
    pub fn mount(
        container: &PlannedContainer,
        path: &Path,
        user_namespace: Option<&UserNamespace>,
    ) -> anyhow::Result<Self> {
        let upper = container.writable.join("upper");
        for folder in [path, &upper, &container.writable.join("work")] {
            make(folder)?;
        }
        // The layers' folders stand side by side under short names. Named from there they fit the
        // one page that mount(2) takes of options, up to more layers than overlayfs stacks.
        let layers = shared_parent(&container.layers)?;
        let lower = relative_list(&container.layers, layers)?;
        let Some(user_namespace) = user_namespace else {
            return Self::stack(container, path, layers, &lower);
        };
        // It becomes the container's root folder.
        let root = Some(user_namespace.range().first);
        chown(&upper, root, root).with_context(|| format!("giving {} away", upper.display()))?;
        let mapped = IdMapped::mount(layers, path.with_extension("layers"), user_namespace)?;
        Self::stack(container, path, &mapped.0, &lower)
    }

    fn stack(
        container: &PlannedContainer,
        path: &Path,
        layers: &Path,
        lower: &str,
    ) -> anyhow::Result<Self> {
        let options = format!(
            "lowerdir={lower},upperdir={},workdir={}",
            container.writable.join("upper").display(),
            container.writable.join("work").display()
        );
        if options.len() >= 4096 {
            bail!(
                "the image has {} layers, too many to stack",
                container.layers.len()
            );
        }
        std::env::set_current_dir(layers)
            .with_context(|| format!("entering {}", layers.display()))?;
        let mounted = mount(
            Some("overlay"),
            path,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        );
        std::env::set_current_dir("/").context("leaving the layers' folder")?;
        mounted.with_context(|| format!("mounting overlay on {} ({options})", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!(
                "unmounting {}: {error}; it vanishes with this process",
                self.path.display()
            );
        }
    }
}

/// A folder mounted with other ids, unmounted when it is dropped: overlayfs keeps what it has stacked.
struct IdMapped(PathBuf);

impl IdMapped {
    fn mount(source: &Path, at: PathBuf, user_namespace: &UserNamespace) -> anyhow::Result<Self> {
        make(&at)?;
        id_mapped::bind(source, &at, user_namespace.as_fd())
            .context("this host has no user namespaces for tasks: --user-namespaces never")?;
        Ok(Self(at))
    }
}

impl Drop for IdMapped {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!(
                "unmounting {}: {error}; it vanishes with this process",
                self.0.display()
            );
        }
    }
}

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

fn shared_parent(layers: &[PathBuf]) -> anyhow::Result<&Path> {
    // <images>/layers/<hex>/fs
    let parent = layers.first().and_then(|first| first.parent()?.parent());
    parent.context("the image has no layer, and so nothing to run")
}

/// The names for overlayfs, the highest layer first.
fn relative_list(layers: &[PathBuf], parent: &Path) -> anyhow::Result<String> {
    let mut names = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev() {
        let name = layer.strip_prefix(parent).ok().and_then(Path::to_str);
        names.push(name.with_context(|| {
            format!(
                "layer {} is not below {}",
                layer.display(),
                parent.display()
            )
        })?);
    }
    // The same layer twice adds nothing, and overlayfs refuses it.
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    Ok(names.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_layer_comes_first_and_none_twice() {
        let layers: Vec<PathBuf> = ["/i/layers/a/fs", "/i/layers/b/fs", "/i/layers/a/fs"]
            .map(PathBuf::from)
            .into();
        let parent = shared_parent(&layers).unwrap();
        assert_eq!(parent, Path::new("/i/layers"));
        assert_eq!(relative_list(&layers, parent).unwrap(), "a/fs:b/fs");
        assert!(shared_parent(&[]).is_err());
    }
}
