//! The limits that `update` takes as flags: runc's names and forms.

use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::command::size;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The share of input and output, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<String>,
    /// The period of the CPU quota, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_period: Option<String>,
    /// CPU time in each period, in microseconds; -1 for no limit
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Saved CPU time that may be used beyond the quota, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_burst: Option<String>,
    /// The share of CPU time; 1024 is everyone's
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<String>,
    /// Accepted: cgroup v2 has no such limit
    #[arg(long, value_name = "USEC")]
    cpu_rt_period: Option<String>,
    /// Accepted: cgroup v2 has no such limit
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,
    /// The CPUs to run on, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1 lets it run only when nothing else wants to
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<String>,
    /// The most memory; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that isn't taken from it while others have more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// The most memory and swap together; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// The most processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<String>,
}

impl Flags {
    /// The limits in the words of the configuration.
    pub(super) fn resources(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResources::default();
        resources
            .set_devices(None)
            .set_cpu(Some(self.cpu()?))
            .set_memory(Some(self.memory()?));
        if let Some(limit) = number("pids-limit", &self.pids_limit)? {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        if let Some(weight) = number("blkio-weight", &self.blkio_weight)? {
            let mut io = LinuxBlockIo::default();
            io.set_weight(Some(weight));
            resources.set_block_io(Some(io));
        }
        Ok(resources)
    }

    fn cpu(&self) -> Result<LinuxCpu> {
        let text = |value| given(value).map(str::to_owned);
        let mut cpu = LinuxCpu::default();
        cpu.set_period(number("cpu-period", &self.cpu_period)?)
            .set_quota(number("cpu-quota", &self.cpu_quota)?)
            .set_burst(number("cpu-burst", &self.cpu_burst)?)
            .set_shares(number("cpu-share", &self.cpu_share)?)
            .set_realtime_period(number("cpu-rt-period", &self.cpu_rt_period)?)
            .set_realtime_runtime(number("cpu-rt-runtime", &self.cpu_rt_runtime)?)
            .set_idle(number("cpu-idle", &self.cpu_idle)?)
            .set_cpus(text(&self.cpuset_cpus))
            .set_mems(text(&self.cpuset_mems));
        Ok(cpu)
    }

    fn memory(&self) -> Result<LinuxMemory> {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(limit("memory", &self.memory)?)
            .set_swap(limit("memory-swap", &self.memory_swap)?)
            .set_reservation(limit("memory-reservation", &self.memory_reservation)?);
        Ok(memory)
    }
}

/// A flag's value. An empty one means that the flag isn't given: callers fill in all of them.
pub(super) fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

fn number<T: FromStr>(flag: &str, value: &Option<String>) -> Result<Option<T>> {
    let parsed = given(value).map(|text| {
        text.parse().ok().with_context(|| {
            format!("invalid value for {flag}: {text:?} is not a number that it can have")
        })
    });
    parsed.transpose()
}

fn limit(flag: &str, value: &Option<String>) -> Result<Option<i64>> {
    let parsed = given(value).map(|text| {
        size::limit(text).map_err(|error| anyhow!("invalid value for {flag}: {error}"))
    });
    parsed.transpose()
}
