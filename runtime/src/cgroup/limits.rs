//! From the limits of OCI, which speaks cgroup v1, to the files of cgroup v2.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::Error;

/// A value to be written to a file, and the controller that has the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) controller: Option<&'static str>,
    pub(super) file: String,
    pub(super) value: String,
}

impl Write {
    fn new(controller: &'static str, file: &str, value: impl ToString) -> Self {
        Self {
            controller: Some(controller),
            file: file.to_owned(),
            value: value.to_string(),
        }
    }
}

/// Checks limits without touching anything.
pub fn check(resources: &LinuxResources) -> Result<(), Error> {
    writes(resources).map(drop)
}

/// What to write for these limits, in order.
pub(super) fn writes(resources: &LinuxResources) -> Result<Vec<Write>, Error> {
    refuse_unsupported(resources)?;
    let mut writes = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_writes(cpu, &mut writes)?;
    }
    if let Some(memory) = resources.memory() {
        memory_writes(memory, &mut writes)?;
    }
    if let Some(pids) = resources.pids() {
        // Zero and below mean no limit, which is the default of a new cgroup: nothing is written, so
        // that nothing is missed where there is no such controller.
        if pids.limit() > 0 {
            writes.push(Write::new("pids", "pids.max", pids.limit()));
        }
    }
    let unified = resources.unified().iter().flatten();
    let mut unified: Vec<_> = unified
        .map(|(file, value)| unified_write(file, value))
        .collect::<Result<_, _>>()?;
    unified.sort_by(|a, b| a.file.cmp(&b.file));
    writes.append(&mut unified);
    Ok(writes)
}

fn refuse_unsupported(resources: &LinuxResources) -> Result<(), Error> {
    let given = [
        ("blockIO", resources.block_io().is_some()),
        (
            "hugepageLimits",
            resources
                .hugepage_limits()
                .as_ref()
                .is_some_and(|l| !l.is_empty()),
        ),
        ("network", resources.network().is_some()),
        (
            "rdma",
            resources.rdma().as_ref().is_some_and(|r| !r.is_empty()),
        ),
    ];
    refuse_given(&given)
}

fn refuse_given(given: &[(&'static str, bool)]) -> Result<(), Error> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((field, _)) => Err(Error::Unsupported { field }),
        None => Ok(()),
    }
}

fn cpu_writes(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<(), Error> {
    refuse_given(&[
        (
            "cpu.realtimeRuntime",
            cpu.realtime_runtime().is_some_and(|runtime| runtime != 0),
        ),
        (
            "cpu.realtimePeriod",
            cpu.realtime_period().is_some_and(|period| period != 0),
        ),
    ])?;
    if let Some(idle) = cpu.idle() {
        writes.push(Write::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        writes.push(Write::new("cpu", "cpu.weight", weight_of_shares(shares)));
    }
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota > 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let value = format!("{quota} {}", period.unwrap_or(100_000));
        writes.push(Write::new("cpu", "cpu.max", value));
    }
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0) {
        writes.push(Write::new("cpu", "cpu.max.burst", burst));
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            writes.push(Write::new("cpuset", file, value));
        }
    }
    Ok(())
}

fn memory_writes(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<(), Error> {
    refuse_given(&[
        (
            "memory.kernel",
            memory.kernel().is_some_and(|limit| limit > 0),
        ),
        (
            "memory.kernelTCP",
            memory.kernel_tcp().is_some_and(|limit| limit > 0),
        ),
        ("memory.swappiness", memory.swappiness().is_some()),
        (
            "memory.disableOOMKiller",
            memory.disable_oom_killer() == Some(true),
        ),
    ])?;
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(limit) = limit {
        writes.push(Write::new("memory", "memory.max", bytes_or_max(limit)));
    }
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        writes.push(Write::new(
            "memory",
            "memory.swap.max",
            swap_alone(swap, limit)?,
        ));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        writes.push(Write::new(
            "memory",
            "memory.low",
            bytes_or_max(reservation),
        ));
    }
    Ok(())
}

fn bytes_or_max(bytes: i64) -> String {
    if bytes < 0 {
        "max".to_owned()
    } else {
        bytes.to_string()
    }
}

/// OCI's swap counts memory and swap together, as v1 did; v2 counts swap alone.
fn swap_alone(swap: i64, limit: Option<i64>) -> Result<String, Error> {
    let wrong = |expected| Error::Value {
        field: "memory.swap",
        value: swap.to_string(),
        expected,
    };
    match limit {
        _ if swap < 0 => Ok("max".to_owned()),
        None | Some(..=-1) => Err(wrong("needs memory.limit beside it, which it includes")),
        Some(limit) if swap < limit => {
            Err(wrong("must be at least memory.limit, which it includes"))
        }
        Some(limit) => Ok((swap - limit).to_string()),
    }
}

fn unified_write(file: &str, value: &str) -> Result<Write, Error> {
    let prefix = file.split_once('.').map(|(prefix, _)| prefix);
    let is_name = !file.contains('/') && prefix.is_some_and(|prefix| !prefix.is_empty());
    let controller = match prefix {
        _ if !is_name => {
            return Err(Error::Value {
                field: "unified",
                value: format!("{file:?}"),
                expected: "must be the name of a cgroup file such as \"memory.high\"",
            });
        }
        Some("cpu") => Some("cpu"),
        Some("cpuset") => Some("cpuset"),
        Some("memory") => Some("memory"),
        Some("pids") => Some("pids"),
        Some("io") => Some("io"),
        Some("hugetlb") => Some("hugetlb"),
        Some("rdma") => Some("rdma"),
        Some("misc") => Some("misc"),
        _ => None,
    };
    Ok(Write {
        controller,
        file: file.to_owned(),
        value: value.to_owned(),
    })
}

/// The weight that gives the proportions of v1's shares: 2 → 1, 1024 → 100, 262144 → 10000.
///
/// A quadratic in the logarithm, as runc and crun have agreed on. The older linear formula mapped the
/// default 1024 to 39, which put containers behind every process of the host.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: &str) -> Result<Vec<String>, Error> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = writes(&resources)?;
        Ok(writes
            .iter()
            .map(|write| format!("{} = {}", write.file, write.value))
            .collect())
    }

    #[test]
    fn shares_become_weights_on_runcs_curve() {
        let pairs = [
            (2, 1),
            (1024, 100),
            (262_144, 10_000),
            (512, 59),
            (2048, 174),
            (1, 1),
        ];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn limits_are_written_as_v2_has_them() {
        let json = r#"{"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
            "memory": {"limit": 1000, "swap": 1500, "reservation": 500}, "pids": {"limit": 10},
            "unified": {"memory.high": "900"}}"#;
        let want = [
            "cpu.weight = 100",
            "cpu.max = 50000 100000",
            "cpuset.cpus = 0-1",
            "memory.max = 1000",
            "memory.swap.max = 500",
            "memory.low = 500",
            "pids.max = 10",
            "memory.high = 900",
        ];
        assert_eq!(lines(json).unwrap(), want);
    }

    #[test]
    fn no_limit_is_not_written() {
        let json =
            r#"{"cpu": {"shares": 0, "quota": 0}, "memory": {"limit": 0}, "pids": {"limit": 0}}"#;
        assert!(lines(json).unwrap().is_empty());
        assert_eq!(
            lines(r#"{"memory": {"limit": -1}}"#).unwrap(),
            ["memory.max = max"]
        );
        assert_eq!(
            lines(r#"{"cpu": {"quota": -1, "period": 50000}}"#).unwrap(),
            ["cpu.max = max 50000"]
        );
    }

    #[test]
    fn what_cannot_be_applied_is_refused_by_name() {
        for (json, field) in [
            (r#"{"memory": {"swap": 100, "limit": 200}}"#, "memory.swap"),
            (r#"{"memory": {"swap": 100}}"#, "memory.swap"),
            (
                r#"{"memory": {"disableOOMKiller": true}}"#,
                "memory.disableOOMKiller",
            ),
            (r#"{"blockIO": {"weight": 10}}"#, "blockIO"),
            (
                r#"{"unified": {"../cgroup.procs": "1"}}"#,
                "../cgroup.procs",
            ),
        ] {
            let message = lines(json).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
