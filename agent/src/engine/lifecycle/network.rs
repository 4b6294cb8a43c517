//! The network of a task: what its network mode asks for, attached and given back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use berth_netns::{AttachRequest, Eni, EniId, HostPort, InvalidName, NetnsName, Subnet};

use super::{Driver, Failure, Start};
use crate::engine::host_ports::{self, host_port};
use crate::engine::publish::{everywhere, publish_to, published};
use crate::engine::{Engine, Handle};
use crate::failpoint;
use crate::id::Place;
use crate::supervisor::forward::check_free;
use crate::task::{self, AttachedEni, AttachedIpv6, NetworkBinding, Task};
use crate::task_definition::{NetworkMode, TaskDefinition};

/// How long to wait for the kernel to drop an earlier attempt's link, before it is deleted.
const LINK_PATIENCE: Duration = Duration::from_millis(200);

impl Driver {
    /// Chooses the task's ports, attaches its interfaces, and isolates the containers that have none; the record has
    /// them then.
    pub(super) async fn attach_network(&self) -> Result<(), Failure> {
        let attaching = Attaching {
            engine: self.engine.clone(),
            handle: Arc::clone(&self.handle),
        };
        let start = self.start;
        let attach = move || {
            if start == Start::Found {
                attaching.detach_earlier()?;
            }
            attaching.bind_ports()?;
            attaching.attach_all()?;
            attaching.isolate_all()
        };
        let attached = tokio::task::spawn_blocking(attach)
            .await
            .map_err(|e| Failure::Start(e.to_string()))?;
        attached.map_err(|error| Failure::Start(reason(&self.task(), &error)))
    }
}

/// Why a task has no network, as ECS begins it. It attaches the interface of awsvpc itself; what it leaves to Docker
/// fails with the container.
fn reason(task: &Task, error: &anyhow::Error) -> String {
    if task.definition.network_mode != NetworkMode::Awsvpc {
        return format!("CannotStartContainerError: {error:#}");
    }
    let full = match error.downcast_ref::<berth_netns::Error>() {
        Some(
            berth_netns::Error::AddressesExhausted { subnet, .. }
            | berth_netns::Error::BridgeFull { subnet },
        ) => subnet,
        _ => return format!("ResourceInitializationError: attaching the ENI: {error:#}"),
    };
    let is_public = task.interfaces.iter().any(|eni| eni.assign_public_ip);
    let public = if is_public { "enabled" } else { "disabled" };
    format!(
        "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment {public} in \
         subnet '{full}': InsufficientFreeAddressesInSubnet: {error}"
    )
}

/// Takes a task off the network; nothing to take is fine too.
pub(super) fn detach_all(engine: &Engine, task: &Task) -> anyhow::Result<()> {
    let detach = |eni: &task::Eni| -> anyhow::Result<()> {
        engine.inner.names.remove(&eni.id);
        Ok(engine.network().detach(&eni.id.parse()?)?)
    };
    let release = |container: &task::Container| -> anyhow::Result<()> {
        Ok(engine.network().release(&isolated_name(container)?)?)
    };
    let detached = task.interfaces.iter().map(detach);
    // One that can't be given back keeps no other from it.
    let outcomes: Vec<_> = detached.chain(task.isolated().map(release)).collect();
    outcomes.into_iter().collect()
}

struct Attaching {
    engine: Engine,
    handle: Arc<Handle>,
}

impl Attaching {
    /// An earlier attempt may have been cut off: this one starts afresh. The kernel takes its time to drop the link
    /// of a namespace that is gone.
    fn detach_earlier(&self) -> anyhow::Result<()> {
        let task = self.handle.task();
        detach_all(&self.engine, &task)?;
        for eni in &task.interfaces {
            let network = self.engine.network();
            network.wait_until_gone(&eni.id.parse()?, LINK_PATIENCE)?;
        }
        Ok(())
    }

    /// Notes on the record which ports of the host's lead to the task. Nobody else chooses meanwhile.
    fn bind_ports(&self) -> anyhow::Result<()> {
        let task = self.handle.task();
        // There a port mapping binds nothing on the host.
        if task.definition.network_mode == NetworkMode::Awsvpc {
            return Ok(());
        }
        let mut ports = self.engine.inner.host_ports();
        let mut taken = self.engine.ports_of_others(&task.id);
        taken.extend(host_ports::named(&task));
        let is_free = |port: HostPort| {
            !taken.contains(&port) && check_free(&everywhere(port, port.port)).is_ok()
        };
        let bindings = bindings(&task.definition, &mut ports, is_free)?;
        Engine::update_in_memory(&self.handle, |task| {
            for (container, bindings) in task.containers.iter_mut().zip(bindings) {
                container.bindings = bindings;
            }
        });
        Ok(())
    }

    fn attach_all(&self) -> anyhow::Result<()> {
        let task = self.handle.task();
        for eni in &task.interfaces {
            let attached = self.attach(&task, eni);
            match &eni.container {
                Some(name) => attached.with_context(|| format!("container '{name}'"))?,
                None => attached?,
            }
            failpoint::pass("interface-attached");
            // Where there is nobody to prepare another, nobody listens.
            self.engine.inner.attached.send(eni.subnet.clone()).ok();
        }
        Ok(())
    }

    /// Gives the containers without an interface network namespaces of their own.
    fn isolate_all(&self) -> anyhow::Result<()> {
        for container in self.handle.task().isolated() {
            let isolated = self.engine.network().isolate(&isolated_name(container)?);
            let isolated = isolated.with_context(|| format!("container '{}'", container.name))?;
            Engine::update_in_memory(&self.handle, |task| {
                if let Some(container) = task.container_mut(&container.name) {
                    container.id_range = isolated.id_range;
                }
            });
        }
        Ok(())
    }

    fn attach(&self, task: &Task, eni: &task::Eni) -> anyhow::Result<()> {
        let network = self.engine.network();
        let publish = publish_to(task, eni)?;
        publish.iter().try_for_each(check_free)?;
        let id: EniId = eni.id.parse()?;
        let security_groups = eni.security_groups.iter().map(|g| g.parse());
        let request = AttachRequest {
            eni: id,
            subnet: eni.subnet.parse()?,
            security_groups: security_groups.collect::<Result<_, _>>()?,
            netns: namespace_name(task, eni)?,
            published: published(&publish),
            assign_public_ip: eni.assign_public_ip,
        };
        let attachment = network.attach(&request)?;
        let subnet = network
            .subnet(&request.subnet)
            .context("the subnet is gone")?;
        self.engine.inner.enter_names(&attachment.eni)?;
        let attached = attached(&attachment.eni, subnet, &self.engine.config().place);
        Engine::update_in_memory(&self.handle, |task| {
            if let Some(eni) = task.interface_mut(&eni.id) {
                eni.attached = Some(attached);
            }
        });
        Ok(())
    }
}

/// The name of the network namespace that holds an interface.
pub fn namespace_name(task: &Task, eni: &task::Eni) -> Result<NetnsName, InvalidName> {
    let is_its = |container: &&task::Container| Some(&container.name) == eni.container.as_ref();
    let container = task.containers.iter().find(is_its);
    container.map_or_else(|| task.id.parse(), isolated_name)
}

/// The name of a network namespace that one container is alone in.
pub fn isolated_name(container: &task::Container) -> Result<NetnsName, InvalidName> {
    container.runtime_id.parse()
}

/// The bindings of each container.
fn bindings(
    definition: &TaskDefinition,
    ports: &mut host_ports::HostPorts,
    is_free: impl Fn(HostPort) -> bool,
) -> anyhow::Result<Vec<Vec<NetworkBinding>>> {
    let mut all = Vec::new();
    let mut chosen = BTreeSet::new();
    for container in &definition.container_definitions {
        let mut bindings = Vec::new();
        for mapping in &container.port_mappings {
            let is_free = |port| {
                let port = host_port(mapping.protocol, port);
                !chosen.contains(&port) && is_free(port)
            };
            let binding = host_ports::bind(mapping, |like| ports.choose(like, is_free));
            let binding = binding.with_context(|| {
                let (name, count) = (&container.name, mapping.ports.container().count());
                format!("container '{name}': no {count} ports of the host's are free for it")
            })?;
            let host = binding.host.ports();
            chosen.extend(host.map(|port| host_port(mapping.protocol, port)));
            bindings.push(binding);
        }
        all.push(bindings);
    }
    Ok(all)
}

/// What is told of an attached interface.
fn attached(eni: &Eni, subnet: &Subnet, place: &Place) -> AttachedEni {
    let ipv6 = eni.ipv6_address.zip(subnet.ipv6_cidr());
    let ipv6 = ipv6.zip(subnet.ipv6_router());
    AttachedEni {
        mac: eni.mac().to_string(),
        address: eni.address,
        subnet_cidr: subnet.cidr().to_string(),
        gateway: subnet.router(),
        private_dns_name: place.private_dns_name(eni.address),
        domain_name_servers: vec![subnet.resolver().into()],
        domain_name_search_list: vec![place.private_domain()],
        id_range: eni.id_range,
        ipv6: ipv6.map(|((address, cidr), gateway)| AttachedIpv6 {
            address,
            subnet_cidr: cidr.to_string(),
            gateway,
        }),
    }
}
