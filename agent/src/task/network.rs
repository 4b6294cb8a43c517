//! What a task has of the network: interfaces, and ports of the host's that lead to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_netns::IdRange;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{Container, Task, set};
use crate::id;
use crate::task_definition::{NetworkMode, PortRange, Protocol, TaskDefinition};

/// A network interface: of the whole task, or of one of its containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the API's names of the same things say it")]
pub struct Eni {
    pub id: String,
    pub attachment: String,
    pub subnet: String,
    pub security_groups: Vec<String>,
    /// Whether it is to have an address of its own outside.
    #[serde(default)]
    pub assign_public_ip: bool,
    /// The container whose own it is; that of all containers where there is none.
    #[serde(default)]
    pub container: Option<String>,
    /// Set once it is attached.
    pub attached: Option<AttachedEni>,
    /// Set once it is detached again.
    #[serde(default)]
    pub detached: bool,
}

/// What an interface has while it is attached, kept afterwards for descriptions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the API's names of the same things say it")]
pub struct AttachedEni {
    pub mac: String,
    pub address: Ipv4Addr,
    pub subnet_cidr: String,
    pub gateway: Ipv4Addr,
    pub private_dns_name: String,
    #[serde(default)]
    pub domain_name_servers: Vec<IpAddr>,
    #[serde(default)]
    pub domain_name_search_list: Vec<String>,
    /// The ids of the user namespace that owns its network namespace, if that is not the host's.
    #[serde(default)]
    pub id_range: Option<IdRange>,
    /// In a subnet that has a range of it.
    #[serde(default)]
    pub ipv6: Option<AttachedIpv6>,
}

/// The same of IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the API's names of the same things say it")]
pub struct AttachedIpv6 {
    pub address: Ipv6Addr,
    pub subnet_cidr: String,
    pub gateway: Ipv6Addr,
}

/// A container's ports and those of the host's that lead there: as many, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NetworkBinding {
    pub container: PortRange,
    pub host: PortRange,
    pub protocol: Protocol,
}

impl Eni {
    /// The interfaces that tasks of that definition have, in that subnet and those groups: one under `awsvpc`, one
    /// for each container under `bridge` that has a network, none otherwise.
    pub fn planned(definition: &TaskDefinition, subnet: &str, groups: &[String]) -> Vec<Self> {
        let one = |container: Option<String>| Self {
            id: id::random_ec2("eni"),
            attachment: id::random_uuid(),
            subnet: subnet.to_owned(),
            security_groups: groups.to_vec(),
            assign_public_ip: false,
            container,
            attached: None,
            detached: false,
        };
        match definition.network_mode {
            NetworkMode::Awsvpc => vec![one(None)],
            NetworkMode::Bridge => {
                let containers = definition.container_definitions.iter();
                let networked =
                    containers.filter(|c| definition.network_mode_of(c) == NetworkMode::Bridge);
                networked.map(|c| one(Some(c.name.clone()))).collect()
            }
            NetworkMode::Host | NetworkMode::None => Vec::new(),
        }
    }

    /// As DescribeTasks gives it among a container's `networkInterfaces`.
    pub(super) fn describe(&self) -> Option<Value> {
        let eni = self.attached.as_ref()?;
        let mut interface =
            json!({"attachmentId": self.attachment, "privateIpv4Address": eni.address});
        let ipv6 = eni.ipv6.as_ref().map(|ipv6| ipv6.address.to_string());
        set(&mut interface, "ipv6Address", ipv6);
        Some(interface)
    }

    /// As DescribeTasks gives it among a task's `attachments`.
    pub(super) fn describe_attachment(&self) -> Value {
        let status = match (&self.attached, self.detached) {
            (_, true) => "DELETED",
            (Some(_), false) => "ATTACHED",
            (None, false) => "PRECREATED",
        };
        let mut details = vec![
            json!({"name": "subnetId", "value": self.subnet}),
            json!({"name": "networkInterfaceId", "value": self.id}),
        ];
        if let Some(eni) = &self.attached {
            details.push(json!({"name": "macAddress", "value": eni.mac}));
            details.push(json!({"name": "privateDnsName", "value": eni.private_dns_name}));
            details.push(json!({"name": "privateIPv4Address", "value": eni.address}));
        }
        json!({"id": self.attachment, "type": "ElasticNetworkInterface", "status": status, "details": details})
    }
}

impl NetworkBinding {
    /// Each port of the container with that of the host's which leads there.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> {
        self.container.ports().zip(self.host.ports())
    }

    /// As DescribeTasks gives it: at each of the host's addresses.
    pub(super) fn describe(&self) -> Value {
        let mut binding = json!({"bindIP": "0.0.0.0", "protocol": self.protocol});
        if self.container.count() > 1 {
            set(
                &mut binding,
                "containerPortRange",
                Some(self.container.to_string()),
            );
            set(&mut binding, "hostPortRange", Some(self.host.to_string()));
        } else {
            set(&mut binding, "containerPort", Some(self.container.first()));
            set(&mut binding, "hostPort", Some(self.host.first()));
        }
        binding
    }
}

impl Task {
    /// How a container reaches the network.
    pub fn network_mode_of(&self, container: &str) -> NetworkMode {
        let definition = self.definition.container(container);
        let mode = definition.map(|definition| self.definition.network_mode_of(definition));
        mode.unwrap_or(self.definition.network_mode)
    }

    /// The interface that a container has: its own, or the task's.
    pub fn interface_of(&self, container: &str) -> Option<&Eni> {
        let is_its = |eni: &&Eni| eni.container.as_deref().is_none_or(|of| of == container);
        self.interfaces.iter().find(is_its)
    }

    /// The containers that have no network: each is alone in a network namespace of its own.
    pub fn isolated(&self) -> impl Iterator<Item = &Container> {
        let containers = self.containers.iter();
        containers.filter(|container| {
            let on_host = self.network_mode_of(&container.name) == NetworkMode::Host;
            !on_host && self.interface_of(&container.name).is_none()
        })
    }

    /// The ids of the user namespace that a container is in, if that is not the host's.
    pub fn id_range_of(&self, container: &str) -> Option<IdRange> {
        match self.interface_of(container) {
            Some(eni) => eni.attached.as_ref()?.id_range,
            None => {
                let mut isolated = self.isolated();
                isolated.find(|c| c.name == container)?.id_range
            }
        }
    }

    /// The interface with that id.
    pub fn interface_mut(&mut self, id: &str) -> Option<&mut Eni> {
        self.interfaces.iter_mut().find(|eni| eni.id == id)
    }
}

/// Reads a task's interfaces; a record of before there could be several has one, alone.
pub(super) fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Eni>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Record {
        Several(Vec<Eni>),
        One(Box<Eni>),
    }
    Ok(match Record::deserialize(from)? {
        Record::Several(enis) => enis,
        Record::One(eni) => vec![*eni],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Record {
        #[serde(alias = "eni", deserialize_with = "one_or_several")]
        interfaces: Vec<Eni>,
    }

    #[test]
    fn a_record_with_one_interface_alone_is_still_read() {
        let eni = json!({
            "id": "eni-1", "attachment": "a", "subnet": "s", "security_groups": [], "attached": null,
        });
        for record in [json!({ "eni": eni }), json!({ "interfaces": [eni] })] {
            let record: Record = serde_json::from_value(record).unwrap();
            assert_eq!(record.interfaces.len(), 1);
            assert_eq!(record.interfaces[0].container, None);
        }
    }

    fn task(mode: NetworkMode) -> Task {
        let container = |name| json!({"name": name, "image": "i", "memory": 64});
        let definition = TaskDefinition::from_request(json!({
            "family": "f", "networkMode": mode, "memory": "128",
            "containerDefinitions": [container("one"), container("two")],
        }));
        let definition = definition.unwrap();
        Task {
            interfaces: Eni::planned(&definition, "subnet-1", &[]),
            ..Task::running("t", definition)
        }
    }

    #[test]
    fn containers_without_an_interface_are_isolated_unless_they_have_the_hosts() {
        let isolated = |task: &Task| {
            let containers = task.isolated();
            containers.map(|c| c.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(isolated(&task(NetworkMode::None)), ["one", "two"]);
        for mode in [NetworkMode::Awsvpc, NetworkMode::Bridge, NetworkMode::Host] {
            assert_eq!(isolated(&task(mode)), [""; 0], "{mode:?}");
        }
        let without = |mode| {
            let mut task = task(mode);
            let definition = &mut task.definition;
            definition.container_definitions[0].disable_networking = Some(true);
            task.interfaces = Eni::planned(definition, "subnet-1", &[]);
            task
        };
        assert_eq!(isolated(&without(NetworkMode::Host)), ["one"]);
        let mut bridge = without(NetworkMode::Bridge);
        assert_eq!(isolated(&bridge), ["one"]);
        let range = Some(IdRange { first: 100_000 });
        bridge
            .containers
            .iter_mut()
            .for_each(|c| c.id_range = range);
        assert_eq!(bridge.id_range_of("one"), range);
        assert_eq!(bridge.id_range_of("two"), None, "it isn't attached");
    }

    #[test]
    fn a_container_on_record_of_before_it_could_have_ids_has_none() {
        let mut record = serde_json::to_value(task(NetworkMode::None)).unwrap();
        for container in record["containers"].as_array_mut().unwrap() {
            container.as_object_mut().unwrap().remove("id_range");
        }
        let task: Task = serde_json::from_value(record).unwrap();
        assert_eq!(task.isolated().count(), 2);
        assert_eq!(task.id_range_of("one"), None);
    }

    #[test]
    fn a_binding_is_described_as_a_port_or_as_a_range() {
        let ports = |first: u16, text: &str| {
            PortRange::as_many_as(text.to_owned().try_into().unwrap(), first).unwrap()
        };
        let binding = |container, host| NetworkBinding {
            container,
            host,
            protocol: Protocol::Udp,
        };
        assert_eq!(
            binding(PortRange::one(80), PortRange::one(61_000)).describe(),
            json!({"bindIP": "0.0.0.0", "protocol": "udp", "containerPort": 80, "hostPort": 61_000})
        );
        let range = binding(ports(80, "80-82"), ports(61_000, "80-82"));
        assert_eq!(
            range.describe(),
            json!({"bindIP": "0.0.0.0", "protocol": "udp", "containerPortRange": "80-82", "hostPortRange": "61000-61002"})
        );
        assert_eq!(range.pairs().last(), Some((82, 61_002)));
    }
}
