//! The files in a container's `/etc` that tell names and resolvers, as ECS has them in each network mode.

use std::path::Path;

use anyhow::Context;
use berth_netns::IdRange;

use crate::task::{AttachedEni, Task};
use crate::task_definition::NetworkMode;

/// Their contents.
#[derive(Debug, PartialEq, Eq)]
pub struct Etc {
    /// The container's hostname, which is all that `/etc/hostname` says.
    pub hostname: String,
    hosts: String,
    resolv_conf: String,
}

impl Etc {
    /// Those of a container whose interface, if it has any, is attached.
    pub fn of(task: &Task, container: &str) -> anyhow::Result<Self> {
        if task.definition.network_mode == NetworkMode::Host {
            return Self::of_host();
        }
        let interface = task
            .interface_of(container)
            .and_then(|eni| eni.attached.as_ref());
        Ok(match interface {
            Some(eni) => Self::of_interface(eni),
            None => Self::without_network(&task.id),
        })
    }

    /// As the ECS agent writes them for a task with an interface of its own (`netlib` in amazon-ecs-agent): names,
    /// resolvers and domains are the interface's; definitions have no say under `awsvpc`.
    fn of_interface(eni: &AttachedEni) -> Self {
        let hostname = eni.private_dns_name.clone();
        let mut resolv_conf: String = eni
            .domain_name_servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        if !eni.domain_name_search_list.is_empty() {
            resolv_conf += &format!("search {}\n", eni.domain_name_search_list.join(" "));
        }
        Self {
            hosts: format!("127.0.0.1 localhost\n{} {hostname}\n", eni.address),
            hostname,
            resolv_conf,
        }
    }

    /// Copies of the host's, as Docker makes them: what a container writes there stays its own.
    fn of_host() -> anyhow::Result<Self> {
        let hostname = nix::unistd::gethostname().context("asking for the host's name")?;
        let read = |path: &str| match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            outcome => outcome.with_context(|| format!("reading the host's {path}")),
        };
        Ok(Self {
            hostname: hostname.to_string_lossy().into_owned(),
            hosts: read("/etc/hosts")?,
            resolv_conf: read("/etc/resolv.conf")?,
        })
    }

    fn without_network(task: &str) -> Self {
        Self {
            hostname: task.chars().take(12).collect(),
            hosts: "127.0.0.1 localhost\n".to_owned(),
            resolv_conf: String::new(),
        }
    }

    /// Writes them into a folder that is there, as root's of a user namespace with these ids, or of the host.
    pub fn write(&self, folder: &Path, owner: Option<IdRange>) -> anyhow::Result<()> {
        for (name, content) in [
            ("hosts", &self.hosts),
            ("hostname", &format!("{}\n", self.hostname)),
            ("resolv.conf", &self.resolv_conf),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("writing {}", path.display()))?;
            if let Some(IdRange { first }) = owner {
                std::os::unix::fs::chown(&path, Some(first), Some(first))
                    .with_context(|| format!("giving {} to the container", path.display()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_etc_tell_the_interfaces_names_and_resolvers() {
        let mut eni = AttachedEni {
            id_range: None,
            mac: "02:00:00:00:00:01".into(),
            address: "10.231.0.4".parse().unwrap(),
            subnet_cidr: "10.231.0.0/24".into(),
            gateway: "10.231.0.1".parse().unwrap(),
            private_dns_name: "ip-10-231-0-4.ec2.internal".into(),
            domain_name_servers: vec!["10.231.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            domain_name_search_list: vec!["ec2.internal".into(), "b.example".into()],
            ipv6: None,
        };
        let expected = Etc {
            hostname: "ip-10-231-0-4.ec2.internal".into(),
            hosts: "127.0.0.1 localhost\n10.231.0.4 ip-10-231-0-4.ec2.internal\n".into(),
            resolv_conf:
                "nameserver 10.231.0.2\nnameserver fd00::2\nsearch ec2.internal b.example\n".into(),
        };
        assert_eq!(Etc::of_interface(&eni), expected);
        eni.domain_name_search_list.clear();
        assert!(!Etc::of_interface(&eni).resolv_conf.contains("search"));
    }
}
