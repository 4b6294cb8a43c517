//! A task as an instance of a service: when it is one, and the records that it has then.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, bail};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record};

use super::{Port, Service};
use crate::task::{LastStatus, Task};
use crate::task_definition::NetworkMode;

/// Whether a task is answered, on this boot of the host. ECS registers it when it is RUNNING, and takes it out before
/// its containers are told to stop; where containers have health checks, it answers only those that are HEALTHY. There
/// are none here yet: RUNNING is healthy.
pub fn is_healthy(task: &Task, boot_id: &str) -> bool {
    task.last_status == LastStatus::Running && !task.desired_stopped && task.boot_id == boot_id
}

/// The records of a task in a service, those of Cloud Map's RegisterInstance. `host` is the host's address, where that is
/// known. Fails where the task can't be registered as the service wants it, with the reason.
pub fn records(
    service: &Service,
    task: &Task,
    host: Option<Ipv4Addr>,
) -> anyhow::Result<Vec<Record>> {
    let mode = task.definition.network_mode;
    let (addresses, port) = match mode {
        NetworkMode::Awsvpc => (of_interface(task)?, container_port(service, task)?),
        NetworkMode::Bridge | NetworkMode::Host => {
            let port = host_port(service, task)?;
            let host = host.context(
                "the host has no address to the outside yet; when it has, the task is registered",
            )?;
            (vec![host.into()], Some(port))
        }
        NetworkMode::None => bail!("it has network mode none, under which nothing reaches it"),
    };
    let mut records = of_addresses(&service.name, [service.a, service.aaaa], &addresses);
    if let (Some(srv), Some(port)) = (&service.srv, port) {
        let target = instance_name(service, task)?;
        let data = SRV::new(1, 1, port, target.clone());
        let of_service = Record::from_rdata(service.name.clone(), srv.ttl, RData::SRV(data));
        records.push(of_service);
        records.extend(of_addresses(&target, [Some(srv.ttl); 2], &addresses));
    }
    if records.is_empty() {
        bail!("it has no IPv6 address, and the service no other records than AAAA");
    }
    Ok(records)
}

/// The name of a task in a service, which an SRV record leads to.
fn instance_name(service: &Service, task: &Task) -> anyhow::Result<Name> {
    Ok(service.name.prepend_label(task.id.as_str())?)
}

/// A name's A and AAAA records, of those kinds that may be kept for some time.
fn of_addresses(name: &Name, ttls: [Option<u32>; 2], addresses: &[IpAddr]) -> Vec<Record> {
    let [a, aaaa] = ttls;
    let record = |address: &IpAddr| {
        let ttl = if address.is_ipv4() { a } else { aaaa };
        Some(Record::from_rdata(name.clone(), ttl?, (*address).into()))
    };
    addresses.iter().filter_map(record).collect()
}

fn of_interface(task: &Task) -> anyhow::Result<Vec<IpAddr>> {
    let eni = task.interfaces.iter().find_map(|eni| eni.attached.as_ref());
    let eni = eni.context("it has no interface")?;
    let ipv6 = eni.ipv6.as_ref().map(|ipv6| ipv6.address.into());
    Ok([eni.address.into()].into_iter().chain(ipv6).collect())
}

/// The port under `awsvpc`, where those of containers are the interface's.
fn container_port(service: &Service, task: &Task) -> anyhow::Result<Option<u16>> {
    match service.srv.as_ref().map(|srv| &srv.port) {
        None => Ok(None),
        Some(Port::Number(port)) => Ok(Some(*port)),
        Some(Port::Container { name, port }) => {
            let container = task.definition.container(name);
            let mappings = container.map(|container| container.port_mappings.as_slice());
            let mut mappings = mappings.unwrap_or_default().iter();
            if !mappings.any(|mapping| mapping.ports.container().ports().contains(port)) {
                bail!(no_mapping(name, *port));
            }
            Ok(Some(*port))
        }
    }
}

/// The host's port that leads to the container's, under `bridge` and `host`.
fn host_port(service: &Service, task: &Task) -> anyhow::Result<u16> {
    let mode = task.definition.network_mode.name();
    if service.a.is_some() || service.aaaa.is_some() {
        bail!(
            "it has network mode {mode}, under which ECS has SRV records only: remove the others"
        );
    }
    let Some(Port::Container { name, port }) = service.srv.as_ref().map(|srv| &srv.port) else {
        bail!(
            "it has network mode {mode}, under which containerName and containerPort must be given, from the task \
             definition"
        );
    };
    let container = task.containers.iter().find(|c| c.name == *name);
    let bindings = container.map(|container| container.bindings.as_slice());
    let mut pairs = bindings.unwrap_or_default().iter().flat_map(|b| b.pairs());
    let pair = pairs.find(|(container, _)| container == port);
    let (_, host) = pair.with_context(|| no_mapping(name, *port))?;
    Ok(host)
}

fn no_mapping(name: &str, port: u16) -> String {
    format!(
        "containerName '{name}' and containerPort {port} are no port mapping of its task definition"
    )
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
