//! The measured side of `cargo measure network`: attaches and detaches interfaces, and says how long it took.
//!
//! - `attach scale MODE COUNT DIR`: that many at once, each verified by traffic; or the error that ends it.
//! - `attach pool COUNT SIZE DIR`: that many, of which so many are prepared before, and others meanwhile.
//! - `attach calls COUNT DIR`: one after the other, each with a published port, as a library.
//! - `attach once NUMBER NETNS DIR`: one, as a process of its own, into that namespace.
//! - `attach end NUMBER DIR`: takes that one away.
//!
//! It works in the network namespace that it is started in.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use berth_netns::{
    AttachRequest, AttachmentMode, Eni, EniId, HostPort, Network, NetworkConfig, PortProtocol,
    PublishedPort, Subnet, SubordinateIds,
};
use serde_json::{Value, json};

/// Of how many the first and the last are compared.
const PART: usize = 50;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match words.as_slice() {
        ["scale", mode, count, dir] => scale(mode_named(mode)?, count.parse()?, Path::new(dir))?,
        ["pool", count, size, dir] => pool(count.parse()?, size.parse()?, Path::new(dir))?,
        ["calls", count, dir] => calls(count.parse()?, Path::new(dir))?,
        ["once", number, netns, dir] => {
            let network = Network::open(momentary(Path::new(dir))?)?;
            let netns = File::open(netns)?;
            network.attach_namespace(&publishing(number.parse()?)?, netns.as_fd())?;
            return Ok(());
        }
        ["end", number, dir] => {
            let network = Network::open(momentary(Path::new(dir))?)?;
            return Ok(network.detach(&eni(number.parse()?)?)?);
        }
        _ => bail!("wrong arguments: {words:?}"),
    };
    println!("{answer}");
    Ok(())
}

fn mode_named(name: &str) -> anyhow::Result<AttachmentMode> {
    match name {
        "bridged" => Ok(AttachmentMode::Bridged),
        "routed" => Ok(AttachmentMode::Routed),
        _ => bail!("{name} is no mode"),
    }
}

/// One dual-stack subnet with room for four thousand, each in a user namespace of its own, unless its namespace is given.
fn config(mode: AttachmentMode, dir: &Path) -> anyhow::Result<NetworkConfig> {
    let id = Subnet::default_subnet().id().clone();
    let subnet = Subnet::new(id, "10.231.0.0/20".parse()?, "berth0")?;
    let subnet = subnet.with_ipv6("fd62:6572:7468::/64".parse()?)?;
    // As on a host: what doesn't survive a reboot is in memory.
    let run_dir = Path::new("/run/berth").join(dir.file_name().context("a folder has a name")?);
    Ok(NetworkConfig {
        subnets: vec![subnet.with_mode(mode)],
        subordinate_ids: Some(SubordinateIds::default()),
        ..NetworkConfig::new(dir, run_dir)
    })
}

/// For a process that ends at once: the firewall's tables needn't be its own.
fn momentary(dir: &Path) -> anyhow::Result<NetworkConfig> {
    Ok(NetworkConfig {
        own_tables: false,
        ..config(AttachmentMode::Bridged, dir)?
    })
}

fn eni(number: u32) -> anyhow::Result<EniId> {
    Ok(format!("eni-{number:017x}").parse()?)
}

fn request(number: u32) -> anyhow::Result<AttachRequest> {
    Ok(AttachRequest {
        eni: eni(number)?,
        subnet: Subnet::default_subnet().id().clone(),
        security_groups: Vec::new(),
        netns: format!("task-{number}").parse()?,
        published: Vec::new(),
        assign_public_ip: false,
    })
}

fn publishing(number: u32) -> anyhow::Result<AttachRequest> {
    let host = HostPort {
        protocol: PortProtocol::Tcp,
        port: 20_000 + u16::try_from(number)?,
    };
    let published = vec![PublishedPort {
        host,
        container_port: 80,
    }];
    Ok(AttachRequest {
        published,
        ..request(number)?
    })
}

fn scale(mode: AttachmentMode, count: u32, dir: &Path) -> anyhow::Result<Value> {
    let config = config(mode, dir)?;
    let network = Network::open(config.clone())?;
    network.reconcile(&[], &[])?;
    let (mut attached, mut times, mut refusal) = (Vec::new(), Vec::new(), None);
    for number in 0..count {
        let request = request(number)?;
        let start = Instant::now();
        match network.attach(&request) {
            Ok(attachment) => attached.push(attachment.eni),
            Err(error) => {
                refusal = Some(error.to_string());
                break;
            }
        }
        times.push(start.elapsed());
    }
    for eni in &attached {
        verify(eni)?;
    }
    let mut detached = Vec::new();
    for eni in &attached {
        let start = Instant::now();
        network.detach(&eni.id)?;
        detached.push(start.elapsed());
    }
    for eni in &attached {
        network.wait_until_gone(&eni.id, Duration::from_secs(60))?;
    }
    drop(network);
    Network::undo(&config)?;
    let part = PART.min(times.len());
    let ends = [&times[..part], &times[times.len() - part..]].map(median);
    Ok(json!({
        "attached": attached.len(),
        "refusal": refusal,
        "first_us": ends[0],
        "last_us": ends[1],
        "detach_us": median(&detached),
        "left": links_left()?,
    }))
}

/// One task after the other starts, without a pause, while a thread sees to it that interfaces are prepared.
fn pool(count: u32, size: usize, dir: &Path) -> anyhow::Result<Value> {
    let config = config(AttachmentMode::Routed, dir)?;
    let network = Network::open(config.clone())?;
    network.reconcile(&[], &[])?;
    let subnet = Subnet::default_subnet().id().clone();
    network.prepare_interfaces(&subnet, size)?;
    let (mut attached, mut times) = (Vec::new(), Vec::new());
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let filler = scope.spawn(|| -> anyhow::Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                if network.prepare_interfaces(&subnet, size)? == 0 {
                    std::thread::yield_now();
                }
            }
            Ok(())
        });
        let outcome = (0..count).try_for_each(|number| -> anyhow::Result<()> {
            let start = Instant::now();
            let eni = network.choose_eni(&subnet)?;
            let attachment = network.attach(&AttachRequest {
                eni,
                ..request(number)?
            })?;
            times.push(start.elapsed());
            attached.push(attachment.eni);
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        let filled = filler.join().map_err(|_| anyhow!("the filler panicked"))?;
        outcome.and(filled)
    })?;
    let all = start.elapsed();
    attached.iter().try_for_each(verify)?;
    network.discard_prepared()?;
    for eni in &attached {
        network.detach(&eni.id)?;
    }
    for eni in &attached {
        network.wait_until_gone(&eni.id, Duration::from_secs(60))?;
    }
    drop(network);
    Network::undo(&config)?;
    let (prepared, sustained) = times.split_at(size.min(times.len()));
    Ok(json!({
        "attached": attached.len(),
        "size": size,
        "prepared_us": median(prepared),
        "sustained_us": median(sustained),
        "each_us": microseconds(all / count.max(1)),
        "left": links_left()?,
    }))
}

/// That packets get to both addresses and back: nobody listens there, and the task itself says so.
fn verify(eni: &Eni) -> anyhow::Result<()> {
    for address in eni.addresses() {
        let patience = Duration::from_secs(5);
        let outcome = TcpStream::connect_timeout(&SocketAddr::new(address, 1), patience);
        let refused = outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(
            refused,
            "no answer from {address}: {:?}",
            IpAddr::from(eni.address)
        );
    }
    Ok(())
}

fn calls(count: u32, dir: &Path) -> anyhow::Result<Value> {
    let config = config(AttachmentMode::Bridged, dir)?;
    let network = Network::open(config.clone())?;
    network.reconcile(&[], &[])?;
    // As on a host that has tasks: the bridge is in use.
    network.attach(&publishing(0)?)?;
    let mut times = Vec::new();
    for number in 1..=count {
        let request = publishing(number)?;
        let netns = new_namespace()?;
        let start = Instant::now();
        network.attach_namespace(&request, netns.as_fd())?;
        times.push(start.elapsed());
        drop(netns);
        network.detach(&request.eni)?;
        network.wait_until_gone(&request.eni, Duration::from_secs(10))?;
    }
    network.detach(&eni(0)?)?;
    drop(network);
    Network::undo(&config)?;
    let times: Vec<u64> = times.iter().map(|time| microseconds(*time)).collect();
    Ok(json!({"times_us": times}))
}

/// A network namespace that nothing is in, as the others are given one.
fn new_namespace() -> anyhow::Result<File> {
    let made = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    let joined = made.join().map_err(|_| anyhow!("the thread panicked"))?;
    joined.context("making a network namespace")
}

fn links_left() -> anyhow::Result<usize> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").context("listing links")?;
    let ours = |line: &&str| line.trim().starts_with("eni-") || line.trim().starts_with("berth");
    Ok(text.lines().filter(ours).count())
}

fn median(times: &[Duration]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    let middle = sorted.get(sorted.len() / 2).copied();
    microseconds(middle.unwrap_or_default())
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
