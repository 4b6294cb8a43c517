//! Fields that the specification requires and whose absence the types of the configuration don't tell:
//! they take zero for it. A user without `uid` would be root, a map without `hostID` would begin at the
//! host's root. And objects that are arrays, which those types read by position.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Error, parse, value};

/// Names the first that is missing from a document that is a configuration otherwise.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let Object(document) = parse::<Object<Configuration>>(path, bytes)?;
    let linux = document.linux.as_ref();
    let devices = linux.and_then(|linux| linux.0.devices.as_deref());
    for (index, Object(device)) in devices.unwrap_or_default().iter().enumerate() {
        let is_given = device.major.is_some() && device.minor.is_some();
        if device.typ != "p" && !is_given {
            let field = format!("linux.devices[{index}].major, minor");
            return Err(value(field, "", "must both be given, but for a fifo"));
        }
    }
    Ok(())
}

/// An object, and nothing else.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

type One<T> = Option<Object<T>>;
type Many<T> = Option<Vec<Object<T>>>;
type Named<T> = Option<HashMap<String, Object<T>>>;

/// Declares mirrors of the configuration's objects that have no more than what is needed here.
macro_rules! mirrors {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            #[allow(dead_code)]
            struct $name { $($(#[$attribute])* $field: $type,)* }
        )*
    };
}

mirrors! {
    Any {}
    Configuration {
        root: One<Any>,
        process: One<Process>,
        mounts: Many<Mount>,
        hooks: One<Hooks>,
        linux: One<Linux>,
    }
    Process {
        user: Object<User>,
        console_size: One<Size>,
        capabilities: One<Any>,
        rlimits: Many<Rlimit>,
        scheduler: One<Any>,
        io_priority: One<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: One<Any>,
    }
    User { uid: IgnoredAny, gid: IgnoredAny, }
    Size { height: IgnoredAny, width: IgnoredAny, }
    Rlimit { soft: IgnoredAny, hard: IgnoredAny, }
    IoPriority { class: IgnoredAny, priority: IgnoredAny, }
    Mount { uid_mappings: Many<Mapping>, gid_mappings: Many<Mapping>, }
    Mapping {
        #[serde(rename = "containerID")]
        container_id: IgnoredAny,
        #[serde(rename = "hostID")]
        host_id: IgnoredAny,
        size: IgnoredAny,
    }
    Hooks {
        prestart: Many<Any>,
        create_runtime: Many<Any>,
        create_container: Many<Any>,
        start_container: Many<Any>,
        poststart: Many<Any>,
        poststop: Many<Any>,
    }
    Linux {
        namespaces: Many<Any>,
        uid_mappings: Many<Mapping>,
        gid_mappings: Many<Mapping>,
        time_offsets: Named<Any>,
        devices: Many<Device>,
        resources: One<Resources>,
        // Not further: its rules are most of a configuration, and complete or refused.
        seccomp: One<Any>,
        personality: One<Any>,
        memory_policy: One<Any>,
        intel_rdt: One<Any>,
        net_devices: Named<Any>,
    }
    Device {
        path: IgnoredAny,
        #[serde(rename = "type")]
        typ: String,
        major: Option<IgnoredAny>,
        minor: Option<IgnoredAny>,
    }
    Resources {
        devices: Many<Rule>,
        memory: One<Any>,
        cpu: One<Any>,
        pids: One<Any>,
        #[serde(rename = "blockIO")]
        block_io: One<BlockIo>,
        hugepage_limits: Many<HugePages>,
        rdma: Named<Any>,
        network: One<Network>,
    }
    Rule { allow: IgnoredAny, }
    BlockIo {
        weight_device: Many<Numbers>,
        throttle_read_bps_device: Many<Throttle>,
        throttle_write_bps_device: Many<Throttle>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Many<Throttle>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Many<Throttle>,
    }
    Numbers { major: IgnoredAny, minor: IgnoredAny, }
    Throttle { major: IgnoredAny, minor: IgnoredAny, rate: IgnoredAny, }
    HugePages { page_size: IgnoredAny, limit: IgnoredAny, }
    Network { priorities: Many<Priority>, }
    Priority { name: IgnoredAny, priority: IgnoredAny, }
}
