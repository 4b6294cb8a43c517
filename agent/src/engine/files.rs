//! The folders of a task: what it has while it runs, and the logs that outlive it.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::check_path;
use crate::config::Config;
use crate::removal;
use crate::supervisor::protocol::{Files, Plan};
use crate::task::AttachedEni;

/// Makes the agent's own folders, closed to everyone else.
pub fn make_folders(config: &Config) -> anyhow::Result<()> {
    check_path("root", &config.root)?;
    check_path("run", &config.run)?;
    for path in [
        &config.root,
        &config.run,
        &config.root.join("tasks"),
        &config.run.join("tasks"),
    ] {
        make_folder(path)?;
    }
    Ok(())
}

/// Makes a folder that only root can enter.
pub fn make_folder(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("making {}", path.display()))
}

/// Removes a folder with all that is in it; none is fine too.
pub fn remove_folder(path: &Path) -> anyhow::Result<()> {
    removal::remove(path).with_context(|| format!("removing {}", path.display()))
}

/// Removes the run folders of tasks that nobody knows.
pub fn remove_orphans(config: &Config, known: impl Fn(&str) -> bool) {
    let Ok(listing) = std::fs::read_dir(config.run.join("tasks")) else {
        return;
    };
    for entry in listing.flatten() {
        if !known(&entry.file_name().to_string_lossy())
            && let Err(error) = remove_folder(&entry.path())
        {
            tracing::warn!("{error:#}");
        }
    }
}

/// The task whose plan lists that layer.
pub fn layer_user(config: &Config, layer: &Path) -> Option<String> {
    let tasks = std::fs::read_dir(config.run.join("tasks")).ok()?;
    tasks.flatten().find_map(|entry| {
        let plan: Plan =
            serde_json::from_slice(&std::fs::read(Files::new(&entry.path()).plan()).ok()?).ok()?;
        let uses = plan
            .containers
            .iter()
            .any(|container| container.layers.iter().any(|used| used == layer));
        uses.then_some(plan.task)
    })
}

/// The paths of one task.
pub struct TaskFiles {
    /// The supervisor's.
    pub run: Files,
    /// `hosts`, `hostname` and `resolv.conf`.
    pub etc: PathBuf,
    /// The containers' logs.
    pub logs: PathBuf,
    /// What the containers write to their root filesystems.
    pub writable: PathBuf,
}

impl TaskFiles {
    /// The paths of the task with that id.
    pub fn new(config: &Config, id: &str) -> Self {
        let (run, root) = (config.task_run(id), config.task_root(id));
        Self {
            etc: run.join("etc"),
            run: Files::new(&run),
            logs: root.join("logs"),
            writable: root.join("writable"),
        }
    }

    /// Makes the folders, and the files that every container of the task sees in `/etc`.
    pub fn make(&self, eni: &AttachedEni) -> anyhow::Result<()> {
        for folder in [self.run.folder(), &self.etc, &self.logs, &self.writable] {
            make_folder(folder)?;
        }
        for (name, content) in etc(eni) {
            let path = self.etc.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes all but the logs.
    pub fn remove(&self) -> anyhow::Result<()> {
        remove_folder(&self.writable)?;
        remove_folder(self.run.folder())
    }
}

/// The files of `/etc` as the ECS agent writes them for a task with an interface of its own
/// (`netlib` in amazon-ecs-agent): names, resolvers and domains are the interface's, for all
/// containers, whose definitions have no say under `awsvpc`.
fn etc(eni: &AttachedEni) -> [(&'static str, String); 3] {
    let hostname = &eni.private_dns_name;
    let mut resolv_conf: String = eni
        .domain_name_servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if !eni.domain_name_search_list.is_empty() {
        resolv_conf += &format!("search {}\n", eni.domain_name_search_list.join(" "));
    }
    [
        (
            "hosts",
            format!("127.0.0.1 localhost\n{} {hostname}\n", eni.address),
        ),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv_conf),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_etc_tell_the_interfaces_names_and_resolvers() {
        let mut eni = AttachedEni {
            mac: "02:00:00:00:00:01".into(),
            address: "10.231.0.4".parse().unwrap(),
            subnet_cidr: "10.231.0.0/24".into(),
            gateway: "10.231.0.1".parse().unwrap(),
            private_dns_name: "ip-10-231-0-4.ec2.internal".into(),
            domain_name_servers: vec!["10.231.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            domain_name_search_list: vec!["ec2.internal".into(), "b.example".into()],
            ipv6: None,
        };
        let [hosts, hostname, resolv_conf] = etc(&eni).map(|(_, content)| content);
        assert_eq!(
            hosts,
            "127.0.0.1 localhost\n10.231.0.4 ip-10-231-0-4.ec2.internal\n"
        );
        assert_eq!(hostname, "ip-10-231-0-4.ec2.internal\n");
        assert_eq!(
            resolv_conf,
            "nameserver 10.231.0.2\nnameserver fd00::2\nsearch ec2.internal b.example\n"
        );
        eni.domain_name_search_list.clear();
        assert!(!etc(&eni)[2].1.contains("search"));
    }
}
