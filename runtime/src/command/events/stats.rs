//! Statistics with the names and units of runc's `types/events.go`: nanoseconds, and v1's view of
//! memory, in which swap includes memory.

use berth_runtime::cgroup::Statistics;
use berth_runtime::cgroup::statistics::{
    CpuStatistics, DeviceIo, IoStatistics, MemoryStatistics, PidsStatistics, Pressure, Stall,
};
use serde_json::{Map, Value, json};

/// The `data` of an event of type `stats`.
pub(super) fn data(statistics: &Statistics) -> Value {
    let io = statistics.io.clone().unwrap_or_default();
    let huge_pages = statistics.huge_pages.iter().map(|(size, pages)| {
        let entry = json!({"usage": pages.current, "failcnt": pages.failures});
        (size.clone(), entry)
    });
    json!({
        "cpu": cpu(&statistics.cpu, statistics.cpu_pressure),
        "cpuset": cpuset(),
        "memory": memory(statistics.memory.as_ref(), statistics.memory_pressure),
        "pids": pids(statistics.pids.unwrap_or_default()),
        "blkio": block_io(&io, statistics.io_pressure),
        "hugetlb": huge_pages.collect::<Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// Adds the pressure, where the kernel tells it.
fn with_pressure(mut value: Value, pressure: Option<Pressure>) -> Value {
    let stall = |stall: Stall| {
        json!({
            "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300,
            "total": stall.total,
        })
    };
    if let (Value::Object(fields), Some(pressure)) = (&mut value, pressure) {
        let lines = json!({"some": stall(pressure.some), "full": stall(pressure.full)});
        fields.insert("psi".to_owned(), lines);
    }
    value
}

fn cpu(cpu: &CpuStatistics, pressure: Option<Pressure>) -> Value {
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let value = json!({
        "usage": {
            "total": nanoseconds(cpu.usage),
            "kernel": nanoseconds(cpu.system),
            "user": nanoseconds(cpu.user),
        },
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": nanoseconds(cpu.throttled),
        },
    });
    with_pressure(value, pressure)
}

/// v1's flags, of which v2 has none.
fn cpuset() -> Value {
    json!({
        "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
        "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
        "sched_load_balance": 0, "sched_relax_domain_level": 0,
    })
}

fn memory(memory: Option<&MemoryStatistics>, pressure: Option<Pressure>) -> Value {
    let entry = |usage: u64, max: u64, limit: u64| json!({"usage": usage, "max": max, "limit": limit, "failcnt": 0});
    let none = MemoryStatistics::default();
    let counted = memory.unwrap_or(&none);
    let limit = |max: Option<u64>| match memory {
        Some(_) => max.unwrap_or(u64::MAX),
        None => 0,
    };
    let swap = counted.swap.unwrap_or_default();
    let swap_limit = match (swap.max, counted.max) {
        (Some(swap), max) => swap.saturating_add(limit(max)),
        (None, _) => limit(None),
    };
    let events = counted.events;
    let value = json!({
        "cache": counted.stat.get("file").copied().unwrap_or_default(),
        "usage": entry(counted.current, counted.peak.unwrap_or_default(), limit(counted.max)),
        "swap": entry(counted.current.saturating_add(swap.current), 0, swap_limit),
        "kernel": entry(0, 0, 0),
        "kernelTCP": entry(0, 0, 0),
        "raw": counted.stat,
        "event_count": {
            "low": events.low, "high": events.high, "max": events.max, "oom": events.oom,
            "oom_kill": events.oom_kill,
        },
    });
    with_pressure(value, pressure)
}

/// Here no limit is zero, unlike with memory: so it has always been in runc.
fn pids(pids: PidsStatistics) -> Value {
    json!({"current": pids.current, "limit": pids.max.unwrap_or_default()})
}

fn block_io(io: &IoStatistics, pressure: Option<Pressure>) -> Value {
    let entries = |counts: fn(&DeviceIo) -> [(&'static str, u64); 2]| -> Vec<Value> {
        let devices = io.devices.iter().flat_map(|device| {
            counts(device).map(|(operation, value)| {
                json!({"major": device.major, "minor": device.minor, "op": operation, "value": value})
            })
        });
        devices.collect()
    };
    let value = json!({
        "ioServiceBytesRecursive":
            entries(|io| [("Read", io.read_bytes), ("Write", io.written_bytes)]),
        "ioServicedRecursive": entries(|io| [("Read", io.reads), ("Write", io.writes)]),
    });
    with_pressure(value, pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(max: Option<u64>, swap: Option<u64>) -> Value {
        let mut statistics = Statistics::default();
        let mut memory = MemoryStatistics {
            current: 100,
            max,
            ..MemoryStatistics::default()
        };
        memory.swap = Some(Default::default());
        if let Some(counts) = &mut memory.swap {
            (counts.current, counts.max) = (20, swap);
        }
        statistics.memory = Some(memory);
        data(&statistics)["memory"].clone()
    }

    #[test]
    fn swap_includes_memory_as_in_v1() {
        let limited = counted(Some(1000), Some(500));
        assert_eq!(limited["swap"]["usage"], 120);
        assert_eq!(limited["swap"]["limit"], 1500);
        assert_eq!(limited["usage"]["limit"], 1000);
        let unlimited = counted(None, None);
        assert_eq!(unlimited["swap"]["limit"], u64::MAX);
        assert_eq!(unlimited["usage"]["limit"], u64::MAX);
    }

    #[test]
    fn times_are_in_nanoseconds_and_pressure_is_there_where_it_is_counted() {
        let mut statistics = Statistics::default();
        statistics.cpu.usage = 7;
        statistics.cpu_pressure = Some(Pressure::default());
        let data = data(&statistics);
        assert_eq!(data["cpu"]["usage"]["total"], 7000);
        assert_eq!(data["cpu"]["psi"]["some"]["total"], 0);
        assert!(data["memory"].get("psi").is_none());
        assert_eq!(data["memory"]["usage"]["limit"], 0);
    }
}
