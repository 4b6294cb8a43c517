//! Whether this host can give each task a user namespace of its own, found out by making one.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, bail};
use berth_netns::{IdRange, SubordinateIds, make_user_namespace, owner};
use berth_runtime::id_mapped;

use crate::config::{Config, UserNamespaces};
use crate::kernel;

/// The files that name ids which are somebody's, with the field of their lines that has the first, and that with how
/// many (passwd(5), group(5), subuid(5), subgid(5)).
const FILES: [(&str, usize, Option<usize>); 4] = [
    ("/etc/passwd", 2, None),
    ("/etc/group", 2, None),
    ("/etc/subuid", 1, Some(2)),
    ("/etc/subgid", 1, Some(2)),
];

/// The first kernel whose overlayfs takes id-mapped mounts as layers.
const IDS_OF_LAYERS: (u32, u32) = (5, 19);

/// The ids for tasks; nothing where they are to be in the host's user namespace.
///
/// # Errors
///
/// What keeps this host from it, where it is asked for; and ids that are somebody else's.
pub fn subordinate_ids(config: &Config) -> anyhow::Result<Option<SubordinateIds>> {
    if config.user_namespaces == UserNamespaces::Never {
        return Ok(None);
    }
    check_ids(config)?;
    let outcome = probe(config, &config.root).context("this host has no user namespaces for tasks");
    match (outcome, config.user_namespaces) {
        (Ok(()), _) => Ok(Some(config.subordinate_ids)),
        (Err(error), UserNamespaces::Always) => Err(error),
        (Err(error), _) => {
            tracing::warn!(
                "{error:#}: root of a container is root of the host, with fewer rights; --user-namespaces never says \
                 that this is meant"
            );
            Ok(None)
        }
    }
}

/// Refuses ids for tasks that this host gives to somebody else.
pub fn check_ids(config: &Config) -> anyhow::Result<()> {
    refuse_others(config.subordinate_ids, Path::new("/"))
}

/// Tries what a task's start needs, with layers that are in the file system of that folder.
pub fn probe(config: &Config, layers: &Path) -> anyhow::Result<()> {
    let release = kernel::release();
    if kernel::version(&release) < IDS_OF_LAYERS {
        bail!("overlayfs stacks layers with other ids since Linux 5.19, and this is {release}");
    }
    let first = config.subordinate_ids.first();
    let netns = make_user_namespace(IdRange { first })?;
    let user_namespace = owner(netns.as_fd())?;
    id_mapped::check(layers, user_namespace.as_fd())?;
    Ok(())
}

/// Refuses ids that a file of the host gives to somebody.
fn refuse_others(ids: SubordinateIds, root: &Path) -> anyhow::Result<()> {
    for (file, first, count) in FILES {
        let path = root.join(file.trim_start_matches('/'));
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let taken = |line: &&str| {
            let field = |index: usize| line.split(':').nth(index)?.trim().parse::<u64>().ok();
            let count = count.map_or(Some(1), field);
            let taken = field(first).zip(count);
            taken.is_some_and(|(first, count)| {
                let end = u64::from(ids.first()) + u64::from(ids.count());
                first < end && u64::from(ids.first()) < first + count
            })
        };
        if let Some(line) = text.lines().find(taken) {
            bail!(
                "subordinate-ids is {ids}, of which {} gives some away: {line}; choose others",
                path.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_somebodys_are_refused() {
        let folder = std::env::temp_dir().join(format!("berth-ids-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("etc")).unwrap();
        let refused = |file: &str, line: &str| {
            std::fs::write(folder.join("etc").join(file), format!("#\n\n{line}\n")).unwrap();
            let outcome = refuse_others("200000:131072".parse().unwrap(), &folder);
            std::fs::remove_file(folder.join("etc").join(file)).unwrap();
            outcome.map_err(|error| error.to_string())
        };
        let error = refused("subuid", "anna:165536:65536").unwrap_err();
        assert!(error.contains("anna:165536:65536"), "{error}");
        assert!(error.contains("200000:131072"), "{error}");
        assert!(refused("subgid", "anna:331071:65536").is_err());
        assert!(refused("passwd", "big:x:200000:5::/:/bin/sh").is_err());
        assert!(refused("group", "big:x:331071:").is_err());
        for (file, line) in [
            ("subuid", "anna:100000:65536"),
            ("subuid", "anna:331072:65536"),
            ("passwd", "root:x:0:200000::/:/bin/sh"),
            ("group", "wrong"),
        ] {
            assert_eq!(refused(file, line), Ok(()), "{line}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
