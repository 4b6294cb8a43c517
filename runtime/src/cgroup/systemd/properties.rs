//! Limits as properties of a unit.
//!
//! The same limits are also written to the cgroup's files, exactly and for all controllers. systemd is
//! told because the scope's own files are its to write: it would undo at `daemon-reload`, or whenever it
//! realizes the slice anew, what it doesn't know of. Device rules aren't among them: systemd attaches no
//! device program of its own to a unit without `DeviceAllow`, and so it takes none away either; telling
//! it the rules is how containers of other runtimes lost `/dev/null` at a reload.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::value::Value;
use crate::cgroup::limits::{Write, io_weight, swap_alone, weight_of_shares};
use crate::cgroup::{Error, limits};

/// A unit's property: `(sv)`.
pub(super) fn property(name: impl Into<String>, value: Value) -> Value {
    Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))])
}

/// The list of them: `a(sv)`.
pub(super) fn list(properties: Vec<Value>) -> Value {
    Value::Array("(sv)".to_owned(), properties)
}

/// systemd's infinity.
const NO_LIMIT: u64 = u64::MAX;

/// The properties of these limits; those that systemd has no property for are left to the files.
pub(super) fn of(resources: &LinuxResources) -> Result<Vec<Value>, Error> {
    let mut properties = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_properties(cpu, &mut properties)?;
    }
    if let Some(memory) = resources.memory() {
        memory_properties(memory, &mut properties)?;
    }
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        None | Some(0) => {}
        Some(limit) => properties.push(property("TasksMax", bytes(limit))),
    }
    if let Some(io) = resources.block_io() {
        io_properties(io, &mut properties);
    }
    for write in limits::unified_writes(resources)? {
        properties.extend(unified_property(&write)?);
    }
    Ok(properties)
}

fn bytes(limit: i64) -> Value {
    Value::U64(u64::try_from(limit).unwrap_or(NO_LIMIT))
}

fn cpu_properties(cpu: &LinuxCpu, properties: &mut Vec<Value>) -> Result<(), Error> {
    match (cpu.idle(), cpu.shares().filter(|shares| *shares != 0)) {
        // What systemd says for idle (252).
        (Some(1), _) => properties.push(property("CPUWeight", Value::U64(0))),
        (_, Some(shares)) => {
            properties.push(property("CPUWeight", Value::U64(weight_of_shares(shares))));
        }
        _ => {}
    }
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if quota.is_some() || period.is_some() {
        quota_properties(quota, period, properties);
    }
    for (name, value) in [
        ("AllowedCPUs", cpu.cpus()),
        ("AllowedMemoryNodes", cpu.mems()),
    ] {
        if let Some(list) = value.as_deref().filter(|list| !list.is_empty()) {
            properties.push(property(name, set(list)?));
        }
    }
    Ok(())
}

/// systemd keeps the quota as whole percents of a CPU: less would become nothing, so it is rounded up.
/// The cgroup's file has it exactly.
fn quota_properties(quota: Option<i64>, period: Option<u64>, properties: &mut Vec<Value>) {
    const PERCENT: u64 = 10_000;
    if let Some(period) = period {
        properties.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    let per_second = match quota.and_then(|quota| u64::try_from(quota).ok()) {
        None => NO_LIMIT,
        Some(quota) => {
            let whole = u128::from(quota) * 1_000_000 / u128::from(period.unwrap_or(100_000));
            let whole = u64::try_from(whole).unwrap_or(NO_LIMIT);
            whole.checked_next_multiple_of(PERCENT).unwrap_or(NO_LIMIT)
        }
    };
    properties.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
}

fn memory_properties(memory: &LinuxMemory, properties: &mut Vec<Value>) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(limit) = limit {
        properties.push(property("MemoryMax", bytes(limit)));
    }
    if let Some(swap) = swap_alone(memory.swap(), limit)? {
        properties.push(property("MemorySwapMax", bytes(swap)));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        properties.push(property("MemoryLow", bytes(reservation)));
    }
    Ok(())
}

fn io_properties(io: &LinuxBlockIo, properties: &mut Vec<Value>) {
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        properties.push(property("IOWeight", Value::U64(io_weight(weight))));
    }
    for (name, list) in [
        ("IOReadBandwidthMax", io.throttle_read_bps_device()),
        ("IOWriteBandwidthMax", io.throttle_write_bps_device()),
        ("IOReadIOPSMax", io.throttle_read_iops_device()),
        ("IOWriteIOPSMax", io.throttle_write_iops_device()),
    ] {
        let devices: Vec<Value> = list.iter().flatten().map(device_limit).collect();
        if !devices.is_empty() {
            properties.push(property(name, Value::Array("(st)".to_owned(), devices)));
        }
    }
}

fn device_limit(device: &LinuxThrottleDevice) -> Value {
    let rate = match device.rate() {
        0 => NO_LIMIT,
        rate => rate,
    };
    let path = format!("/dev/block/{}:{}", device.major(), device.minor());
    Value::Struct(vec![Value::text(path), Value::U64(rate)])
}

/// A list of numbers and ranges, `0-3,7`, as the bits of a set, the first byte the lowest.
fn set(list: &str) -> Result<Value, Error> {
    let wrong = || Error::Value {
        field: "cpu.cpus or cpu.mems".to_owned(),
        value: format!("{list:?}"),
        expected: "must be numbers and ranges up to 8191, such as 0-3,7",
    };
    let mut bits = vec![0u8; 1024];
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        for number in first..=last {
            *bits.get_mut(number / 8).ok_or_else(wrong)? |= 1 << (number % 8);
        }
    }
    let length = bits
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bits.truncate(length);
    match bits.is_empty() {
        true => Err(wrong()),
        false => Ok(Value::bytes(bits)),
    }
}

/// The property of a file that the configuration names itself, if systemd has one.
fn unified_property(write: &Write) -> Result<Option<Value>, Error> {
    let value = write.value.trim();
    let name = match write.file.as_ref() {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpuset.cpus" => return Ok(Some(property("AllowedCPUs", set(value)?))),
        "cpuset.mems" => return Ok(Some(property("AllowedMemoryNodes", set(value)?))),
        _ => return Ok(None),
    };
    // What is no number the kernel will refuse, with the file's name.
    Ok(match value {
        "max" => Some(property(name, Value::U64(NO_LIMIT))),
        number => number
            .parse()
            .ok()
            .map(|number| property(name, Value::U64(number))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(json: &str) -> Vec<(String, Value)> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let pairs = of(&resources).unwrap().into_iter().map(|property| {
            let Value::Struct(fields) = property else {
                panic!()
            };
            let [Value::Text(name), Value::Variant(value)] = fields.as_slice() else {
                panic!("{fields:?}");
            };
            (name.clone(), (**value).clone())
        });
        pairs.collect()
    }

    #[test]
    fn limits_become_properties() {
        let number = |name: &str, value| (name.to_owned(), Value::U64(value));
        let table: &[(&str, Vec<(String, Value)>)] = &[
            (
                r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 100}}"#,
                vec![
                    number("MemoryMax", 1000),
                    number("MemorySwapMax", 500),
                    number("MemoryLow", 100),
                ],
            ),
            (
                r#"{"memory": {"limit": -1}}"#,
                vec![
                    number("MemoryMax", u64::MAX),
                    number("MemorySwapMax", u64::MAX),
                ],
            ),
            (r#"{"pids": {"limit": 5}}"#, vec![number("TasksMax", 5)]),
            (
                r#"{"pids": {"limit": -1}}"#,
                vec![number("TasksMax", u64::MAX)],
            ),
            (r#"{"pids": {"limit": 0}}"#, vec![]),
            (
                r#"{"cpu": {"shares": 1024}}"#,
                vec![number("CPUWeight", 100)],
            ),
            (
                r#"{"cpu": {"shares": 1024, "idle": 1}}"#,
                vec![number("CPUWeight", 0)],
            ),
            (
                r#"{"cpu": {"quota": 50000, "period": 200000}}"#,
                vec![
                    number("CPUQuotaPeriodUSec", 200_000),
                    number("CPUQuotaPerSecUSec", 250_000),
                ],
            ),
            // A third of a percent.
            (
                r#"{"cpu": {"quota": 1000, "period": 300000}}"#,
                vec![
                    number("CPUQuotaPeriodUSec", 300_000),
                    number("CPUQuotaPerSecUSec", 10_000),
                ],
            ),
            (
                r#"{"cpu": {"quota": -1}}"#,
                vec![number("CPUQuotaPerSecUSec", u64::MAX)],
            ),
            (
                r#"{"cpu": {"cpus": "0-3,9", "mems": "0"}}"#,
                vec![
                    ("AllowedCPUs".to_owned(), Value::bytes(vec![0x0f, 0x02])),
                    ("AllowedMemoryNodes".to_owned(), Value::bytes(vec![1])),
                ],
            ),
            (
                r#"{"unified": {"memory.high": "max", "pids.max": "7", "cpuset.cpus": "1", "io.weight": "5"}}"#,
                vec![
                    ("AllowedCPUs".to_owned(), Value::bytes(vec![2])),
                    number("MemoryHigh", u64::MAX),
                    number("TasksMax", 7),
                ],
            ),
            (
                r#"{"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}]}}"#,
                vec![
                    number("IOWeight", 4950),
                    (
                        "IOReadBandwidthMax".to_owned(),
                        Value::Array(
                            "(st)".to_owned(),
                            vec![Value::Struct(vec![
                                Value::text("/dev/block/8:0"),
                                Value::U64(9),
                            ])],
                        ),
                    ),
                ],
            ),
        ];
        for (json, want) in table {
            assert_eq!(&properties(json), want, "{json}");
        }
    }

    #[test]
    fn sets_out_of_bounds_are_refused() {
        for list in ["", "x", "3-1", "99999", "1-", ","] {
            assert!(set(list).is_err(), "{list:?}");
        }
    }
}
