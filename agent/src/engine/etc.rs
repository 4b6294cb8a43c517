//! The files in a container's `/etc` that tell names and resolvers, as ECS has them in each network mode.

use std::fmt::Display;
use std::path::Path;

use anyhow::Context;
use berth_netns::IdRange;

use crate::task::{AttachedEni, Task};
use crate::task_definition::{ContainerDefinition, Link, Naming, NetworkMode};

const LOCALHOST: &str = "127.0.0.1 localhost\n";

/// Their contents.
#[derive(Debug, PartialEq, Eq)]
pub struct Etc {
    /// The container's hostname, which is all that `/etc/hostname` says.
    pub hostname: String,
    hosts: String,
    resolv_conf: String,
}

impl Etc {
    /// Those of a container whose interface, if it has any, is attached, as are those of the containers that it is
    /// linked to.
    pub fn of(task: &Task, container: &ContainerDefinition) -> anyhow::Result<Self> {
        let naming = &container.naming;
        if task.definition.network_mode_of(container) == NetworkMode::Host {
            return Self::of_host(naming);
        }
        let interface = task
            .interface_of(&container.name)
            .and_then(|eni| eni.attached.as_ref());
        Ok(match interface {
            Some(eni) => Self::of_interface(eni, naming, &linked(task, naming)),
            None => Self::without_network(&task.id, naming),
        })
    }

    /// As the ECS agent writes them for a task with an interface of its own (`netlib` in amazon-ecs-agent), where
    /// definitions have no say; and otherwise as Docker, in the order of its lines: what a name is given first is what
    /// counts.
    fn of_interface(eni: &AttachedEni, naming: &Naming, linked: &str) -> Self {
        let own = eni.private_dns_name.clone();
        let hostname = naming.hostname.clone().unwrap_or(own);
        let own = names_of(&hostname, naming);
        let extra = extra_hosts(naming);
        let servers = or(&naming.dns_servers, &eni.domain_name_servers);
        let domains = or(&naming.dns_search_domains, &eni.domain_name_search_list);
        Self {
            hosts: format!("{LOCALHOST}{extra}{linked}{} {own}\n", eni.address),
            hostname,
            resolv_conf: name_servers(servers) + &search(domains),
        }
    }

    /// Copies of the host's, as Docker makes them: what a container writes there stays its own.
    fn of_host(naming: &Naming) -> anyhow::Result<Self> {
        let read = |path: &str| match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            outcome => outcome.with_context(|| format!("reading the host's {path}")),
        };
        let hostname = match &naming.hostname {
            Some(hostname) => hostname.clone(),
            None => nix::unistd::gethostname()
                .context("asking for the host's name")?
                .to_string_lossy()
                .into_owned(),
        };
        Ok(Self {
            hostname,
            hosts: extra_hosts(naming) + &read("/etc/hosts")?,
            resolv_conf: instead_of(&read("/etc/resolv.conf")?, naming),
        })
    }

    /// Nobody is asked from there; the files have what they are to have.
    fn without_network(task: &str, naming: &Naming) -> Self {
        let own = naming.hostname.as_ref();
        let own = own.map(|hostname| format!("127.0.0.1 {}\n", names_of(hostname, naming)));
        let (own, extra) = (own.unwrap_or_default(), extra_hosts(naming));
        let hostname = naming.hostname.clone();
        Self {
            hostname: hostname.unwrap_or_else(|| task.chars().take(12).collect()),
            hosts: format!("{LOCALHOST}{extra}{own}"),
            resolv_conf: instead_of("", naming),
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

/// What stands for a container in its own `/etc/hosts`: of a name that it was given, also the first part.
fn names_of(hostname: &str, naming: &Naming) -> String {
    match hostname.split_once('.') {
        Some((short, _)) if naming.hostname.is_some() => format!("{hostname} {short}"),
        _ => hostname.to_owned(),
    }
}

fn extra_hosts(naming: &Naming) -> String {
    let entries = naming.extra_hosts.iter();
    let lines = entries.map(|entry| format!("{} {}\n", entry.ip_address, entry.hostname));
    lines.collect()
}

/// The lines of the containers that one is linked to: alias, and beside it the name in the task and the hostname, unless
/// another link has that for its alias. Their IPv4 addresses only, as on ECS: a client that takes the first of two would
/// find nobody where the other doesn't listen on both.
fn linked(task: &Task, naming: &Naming) -> String {
    let is_alias = |name: &String| naming.links.iter().any(|link| link.alias() == name);
    let line = |link: &Link| {
        let eni = task.interface_of(&link.container)?.attached.as_ref()?;
        let other = task.definition.container(&link.container)?;
        let hostname = other.naming.hostname.as_ref();
        let hostname = hostname.unwrap_or(&eni.private_dns_name);
        let mut names = vec![link.alias()];
        for name in [&link.container, hostname] {
            if !names.contains(&name.as_str()) && !is_alias(name) {
                names.push(name);
            }
        }
        Some(format!("{} {}\n", eni.address, names.join(" ")))
    };
    naming.links.iter().filter_map(line).collect()
}

/// What was asked for, or what there is otherwise.
fn or<'a, T>(asked: &'a [T], otherwise: &'a [T]) -> &'a [T] {
    if asked.is_empty() { otherwise } else { asked }
}

fn name_servers<T: Display>(servers: &[T]) -> String {
    let lines = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"));
    lines.collect()
}

fn search(domains: &[String]) -> String {
    match domains {
        [] => String::new(),
        domains => format!("search {}\n", domains.join(" ")),
    }
}

/// A resolver's configuration (resolv.conf(5)) with the servers and domains that were asked for in place of its own.
fn instead_of(text: &str, naming: &Naming) -> String {
    let mut replaced = Vec::new();
    if !naming.dns_servers.is_empty() {
        replaced.push("nameserver");
    }
    if !naming.dns_search_domains.is_empty() {
        replaced.extend(["search", "domain"]);
    }
    let stays = |line: &&str| {
        let word = line.split_whitespace().next();
        word.is_none_or(|word| !replaced.contains(&word))
    };
    let mut kept: String = text.split_inclusive('\n').filter(stays).collect();
    let added = name_servers(&naming.dns_servers) + &search(&naming.dns_search_domains);
    if !added.is_empty() && !kept.is_empty() && !kept.ends_with('\n') {
        kept.push('\n');
    }
    kept + &added
}

#[cfg(test)]
#[path = "etc_tests.rs"]
mod tests;
