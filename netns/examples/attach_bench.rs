//! How long attaching and detaching take: `attach_bench [COUNT]`, as root.
//!
//! It runs in a network and a mount namespace of its own, so it changes nothing on the machine.

use std::time::{Duration, Instant};

use anyhow::Context;
use berth_netns::{AttachRequest, EniId, Network, NetworkConfig, Subnet};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn main() -> anyhow::Result<()> {
    let count: usize = std::env::args()
        .nth(1)
        .map_or(Ok(200), |text| text.parse())?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("private mounts")?;
    let folder = std::env::temp_dir().join(format!("berth-attach-bench-{}", std::process::id()));
    let id = Subnet::default_subnet().id().clone();
    let subnet = Subnet::new(id.clone(), "10.231.0.0/20".parse()?, "berth0")?;
    let config = NetworkConfig {
        subnets: vec![subnet],
        ..NetworkConfig::new(folder.join("state"), folder.join("run"))
    };

    let network = measure_open(&config)?;
    let enis = (0..count)
        .map(|_| EniId::generate())
        .collect::<Result<Vec<_>, _>>()?;
    let attached = time_each(&enis, |eni| {
        let request = AttachRequest {
            eni: eni.clone(),
            subnet: id.clone(),
            security_groups: Vec::new(),
            netns: eni.as_str().parse()?,
            published: Vec::new(),
        };
        network.attach(&request)?;
        Ok(())
    })?;
    let detached = time_each(&enis, |eni| Ok(network.detach(eni)?))?;
    print("attach", &attached);
    print(
        "attach, last 50",
        attached.get(count.saturating_sub(50)..).unwrap_or_default(),
    );
    print("detach", &detached);
    for eni in &enis {
        network.wait_until_gone(eni, Duration::from_secs(10))?;
    }
    drop(network);
    Network::undo(&config)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn measure_open(config: &NetworkConfig) -> anyhow::Result<Network> {
    let start = Instant::now();
    drop(Network::open(config.clone())?);
    let first = start.elapsed();
    let start = Instant::now();
    let network = Network::open(config.clone())?;
    println!("open: {first:?}; again: {:?}", start.elapsed());
    Ok(network)
}

fn time_each(
    enis: &[EniId],
    work: impl Fn(&EniId) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    enis.iter()
        .map(|eni| {
            let start = Instant::now();
            work(eni)?;
            Ok(start.elapsed())
        })
        .collect()
}

fn print(name: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |part: usize| {
        sorted
            .get(sorted.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{name}: p50 {:?}, p90 {:?}, p99 {:?} of {}",
        at(50),
        at(90),
        at(99),
        sorted.len()
    );
}
