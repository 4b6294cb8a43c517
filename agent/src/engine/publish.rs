//! Ports of the host's that lead to a task: what a user asks for, read.
//!
//! Under `bridge` they are the containers' port mappings. Under `awsvpc` ECS has no member for them (a port mapping
//! binds nothing on the host), so they are a tag.

use anyhow::bail;
use berth_netns::{HostPort, PortProtocol, PublishedPort};

use crate::supervisor::protocol::Publish;
use crate::task::{Eni, Task};
use crate::task_definition::Protocol;

/// The tag of a task that publishes ports: `8080:80,*:5353:53/udp`. The ECS API keeps tags and gives them back, so
/// this needs no member of its own.
pub const PUBLISH_TAG: &str = "berth:publish";

/// Reads the value of [`PUBLISH_TAG`]: on the host and in the task, with `*:` before it at each of the host's
/// addresses rather than on its loopback, with `/udp` behind it of UDP.
pub fn publish(text: &str) -> anyhow::Result<Vec<Publish>> {
    text.split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .map(read)
        .collect()
}

fn read(one: &str) -> anyhow::Result<Publish> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let (ports, protocol) = match one.rsplit_once('/') {
        None | Some((_, "tcp")) => (one.trim_end_matches("/tcp"), PortProtocol::Tcp),
        Some((ports, "udp")) => (ports, PortProtocol::Udp),
        Some((_, other)) => bail!("'{one}': '{other}' is no protocol to publish; tcp and udp are"),
    };
    let everywhere = ports.strip_prefix("*:").or(ports.strip_prefix("0.0.0.0:"));
    let pair = everywhere.unwrap_or(ports);
    let (host, container) = pair.split_once(':').unwrap_or((pair, pair));
    let (Some(host_port), Some(container_port)) = (port(host), port(container)) else {
        bail!(
            "'{one}' is no port to publish; one looks like 8080:80 (on the host, in the task), or *:8080:80"
        );
    };
    Ok(Publish {
        host_port,
        container_port,
        protocol,
        everywhere: everywhere.is_some(),
    })
}

/// The ports that lead to an interface.
pub fn publish_to(task: &Task, eni: &Eni) -> anyhow::Result<Vec<Publish>> {
    let Some(name) = &eni.container else {
        return publish(task.tag(PUBLISH_TAG).unwrap_or_default());
    };
    let containers = task.containers.iter().filter(|c| c.name == *name);
    let bindings = containers.flat_map(|container| &container.bindings);
    let publish = bindings.flat_map(|binding| {
        let protocol = binding.protocol.into();
        let pairs = binding.pairs();
        pairs.map(move |(container_port, port)| {
            everywhere(HostPort { protocol, port }, container_port)
        })
    });
    Ok(publish.collect())
}

/// A port at each of the host's addresses.
pub fn everywhere(host: HostPort, container_port: u16) -> Publish {
    Publish {
        host_port: host.port,
        container_port,
        protocol: host.protocol,
        everywhere: true,
    }
}

impl From<Protocol> for PortProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

/// What of it the network does: loopback is the supervisor's.
pub fn published(publish: &[Publish]) -> Vec<PublishedPort> {
    let everywhere = publish.iter().filter(|publish| publish.everywhere);
    everywhere
        .map(|publish| PublishedPort {
            host: HostPort {
                protocol: publish.protocol,
                port: publish.host_port,
            },
            container_port: publish.container_port,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host_port: u16, container_port: u16, everywhere: bool) -> Publish {
        Publish {
            host_port,
            container_port,
            protocol: PortProtocol::Tcp,
            everywhere,
        }
    }

    #[test]
    fn ports_to_publish_are_read_or_refused_by_name() {
        let read =
            publish("8080:80, 443,*:81:82/tcp,0.0.0.0:83:83, *:53:5353/udp, 54:54/udp").unwrap();
        let udp = |host, container, everywhere| Publish {
            protocol: PortProtocol::Udp,
            ..tcp(host, container, everywhere)
        };
        let expected = [
            tcp(8080, 80, false),
            tcp(443, 443, false),
            tcp(81, 82, true),
            tcp(83, 83, true),
            udp(53, 5353, true),
            udp(54, 54, false),
        ];
        assert_eq!(read, expected);
        assert_eq!(published(&read).len(), 3);
        for bad in [
            "x",
            "80:",
            "0:80",
            "70000:80",
            "1:2:3",
            "80/sctp",
            "*:",
            "1.2.3.4:80:80",
        ] {
            assert!(publish(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
