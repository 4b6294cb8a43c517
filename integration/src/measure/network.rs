//! `cargo measure network`: whether the thousandth interface is attached as fast as the first, and how long one
//! takes beside the plugins of CNI and netavark, which do the same work: an interface on a bridge with an address,
//! masquerading, and one published port.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::run::said;
use super::times::{Times, milliseconds};
use super::world::{self, DISK};

const INTERFACES: usize = 1000;
/// How often all of them are attached in `routed` mode: what else a machine does comes and goes within one round.
const ROUNDS: usize = 5;
/// How many are prepared before.
const POOL: usize = 32;
/// Where the allocations of thousands are. For each new file, ext4 without a journal goes through the inodes that were given
/// up within the last minute: a round would pay on disk for what the one before has removed.
const MEMORY: &str = "/run/measure";
const RUNS: usize = 30;
const WARM_UP: usize = 2;
/// The number of the interface that is there all the time.
const NEIGHBOUR: usize = 200;

/// What the last fifty may take of the time of the first, in `routed` mode.
const EXPECTED_GROWTH: f64 = 1.5;
/// How much faster than the better of the others, as a library and as a process.
const EXPECTED_AS_LIBRARY: f64 = 20.0;
const EXPECTED_AS_PROCESS: f64 = 10.0;

const PACKAGES: &[&str] = &["containernetworking-plugins", "netavark", "iptables"];
const PLUGINS: &str = "/usr/lib/cni";
const NETAVARK: &str = "/usr/lib/podman/netavark";

/// What was measured.
pub struct Outcome {
    scale: Vec<(&'static str, Value)>,
    pool: Value,
    contestants: Vec<(String, Times)>,
}

/// Runs the benchmark. Other numbers of runs than the benchmark's own are for trying it.
pub fn compare(runs: Option<usize>) -> anyhow::Result<Outcome> {
    crate::packages::install(PACKAGES)?;
    let attach = crate::build::program("attach", true)?;
    let disk = crate::cache()?.join("measure-network");
    if disk.exists() {
        std::fs::remove_dir_all(&disk)?;
    }
    std::fs::create_dir_all(&disk)?;
    crate::say("measuring the attachment of interfaces");
    let outcome = world::within(&disk, || {
        // Before there have been thousands of namespaces, of which the kernel has work left for a while.
        let contestants = beside_others(&attach, runs.unwrap_or(RUNS))?;
        let mut scale = Vec::new();
        let routed = std::iter::repeat_n(("routed", INTERFACES), ROUNDS);
        // A bridge has fewer ports than that: it is to say so.
        for (mode, count) in routed.chain([("bridged", INTERFACES + 50)]) {
            let json = said(
                Command::new(&attach)
                    .args(["scale", mode, &count.to_string()])
                    .arg(format!("{MEMORY}/{mode}")),
            )?;
            scale.push((mode, serde_json::from_str(&json)?));
            settle()?;
        }
        let pool = said(
            Command::new(&attach)
                .args(["pool", &INTERFACES.to_string(), &POOL.to_string()])
                .arg(format!("{MEMORY}/pool")),
        )?;
        settle()?;
        let pool = serde_json::from_str(&pool)?;
        Ok(Outcome {
            scale,
            pool,
            contestants,
        })
    });
    std::fs::remove_dir_all(&disk)?;
    outcome
}

/// Everyone in turn, each on a host that has an interface of its kind already, and with a namespace that is there.
fn beside_others(attach: &Path, runs: usize) -> anyhow::Result<Vec<(String, Times)>> {
    let calls = said(
        Command::new(attach)
            .args(["calls", &(WARM_UP + runs).to_string()])
            .arg(format!("{DISK}/calls")),
    )?;
    let calls: Value = serde_json::from_str(&calls)?;
    let mut as_library = Times::default();
    for time in calls["times_us"]
        .as_array()
        .into_iter()
        .flatten()
        .skip(WARM_UP)
    {
        as_library.push(Duration::from_micros(time.as_u64().unwrap_or_default()));
    }
    let [mut as_process, mut cni, mut netavark] = [(); 3].map(|()| Times::default());
    let neighbours = [
        ("cni-neighbour", with_cni as Attach),
        ("netavark-neighbour", with_netavark),
    ];
    for (name, attach) in neighbours {
        said(Command::new("ip").args(["netns", "add", name]))?;
        attach(name, NEIGHBOUR, Then::Stay)?;
    }
    said(Command::new("ip").args(["netns", "add", "berth-neighbour"]))?;
    with_berth(attach, "berth-neighbour", NEIGHBOUR, Then::Stay)?;
    for turn in 0..WARM_UP + runs {
        let times = [
            in_namespace(turn, |name, turn, then| {
                with_berth(attach, name, turn, then)
            })?,
            in_namespace(turn, with_cni)?,
            in_namespace(turn, with_netavark)?,
        ];
        if turn >= WARM_UP {
            for (series, time) in [&mut as_process, &mut cni, &mut netavark]
                .into_iter()
                .zip(times)
            {
                series.push(time);
            }
        }
    }
    let version = said(Command::new(NETAVARK).arg("version")).unwrap_or_default();
    let version: Value = serde_json::from_str(&version).unwrap_or_default();
    let version = version["version"].as_str().unwrap_or_default().to_owned();
    Ok(vec![
        ("berth, a call of the library".into(), as_library),
        ("berth, a process of its own".into(), as_process),
        ("CNI: bridge, then portmap".into(), cni),
        (format!("netavark {version}"), netavark),
    ])
}

/// Makes a namespace, measures what is done to it, and takes it away.
fn in_namespace(
    turn: usize,
    with: impl Fn(&str, usize, Then) -> anyhow::Result<Duration>,
) -> anyhow::Result<Duration> {
    let name = format!("bench-{turn}");
    said(Command::new("ip").args(["netns", "add", &name]))?;
    let time = with(&name, turn, Then::Go)?;
    said(Command::new("ip").args(["netns", "delete", &name]))?;
    settle()?;
    Ok(time)
}

/// Waits until the kernel has taken apart all namespaces that are gone: it locks out whoever configures a link meanwhile,
/// and the next contestant would pay for the one before. It works them off in their order, so one more is the last.
fn settle() -> anyhow::Result<()> {
    const ENDS: [&str; 2] = ["settle0", "settle1"];
    let ip = |line: &str| said(Command::new("ip").args(line.split(' ')));
    ip("netns add settle")?;
    ip(&format!(
        "link add {} type veth peer name {} netns settle",
        ENDS[0], ENDS[1]
    ))?;
    ip("netns delete settle")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string("/proc/thread-self/net/dev")?.contains(ENDS[0]) {
        ensure!(
            Instant::now() < deadline,
            "the kernel keeps namespaces that are gone"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What is measured: it gets the namespace's name and a number that nobody else has.
type Attach = fn(&str, usize, Then) -> anyhow::Result<Duration>;

/// What becomes of the interface.
#[derive(PartialEq)]
enum Then {
    Go,
    Stay,
}

fn with_berth(attach: &Path, name: &str, turn: usize, then: Then) -> anyhow::Result<Duration> {
    let dir = format!("{DISK}/once");
    let number = turn.to_string();
    let netns = format!("/run/netns/{name}");
    let start = Instant::now();
    said(Command::new(attach).args(["once", &number, &netns, &dir]))?;
    let time = start.elapsed();
    if then == Then::Go {
        said(Command::new(attach).args(["end", &number, &dir]))?;
    }
    Ok(time)
}

fn with_cni(name: &str, turn: usize, then: Then) -> anyhow::Result<Duration> {
    let bridge = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": format!("{DISK}/cni"),
            "ranges": [[{"subnet": "10.89.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let ports = [json!({"hostPort": 30_000 + turn, "containerPort": 80, "protocol": "tcp"})];
    let portmap = |result: &Value| {
        json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "portmap",
            "capabilities": {"portMappings": true},
            "runtimeConfig": {"portMappings": ports}, "prevResult": result,
        })
    };
    let start = Instant::now();
    let result = plugin("bridge", "ADD", name, &bridge)?;
    plugin("portmap", "ADD", name, &portmap(&result))?;
    let time = start.elapsed();
    if then == Then::Go {
        plugin("portmap", "DEL", name, &portmap(&result))?;
        plugin("bridge", "DEL", name, &bridge)?;
    }
    Ok(time)
}

fn plugin(kind: &str, verb: &str, name: &str, config: &Value) -> anyhow::Result<Value> {
    let mut command = Command::new(format!("{PLUGINS}/{kind}"));
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", name)
        .env("CNI_NETNS", format!("/run/netns/{name}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS);
    let said = answer(&mut command, config)?;
    Ok(serde_json::from_str(&said).unwrap_or_default())
}

fn with_netavark(name: &str, turn: usize, then: Then) -> anyhow::Result<Duration> {
    let config = json!({
        "container_id": format!("{turn:064x}"), "container_name": name,
        "port_mappings": [{
            "container_port": 80, "host_ip": "", "host_port": 40_000 + turn,
            "protocol": "tcp", "range": 1,
        }],
        "networks": {"bench": {
            "static_ips": [format!("10.90.0.{}", 2 + turn)], "interface_name": "eth0",
        }},
        "network_info": {"bench": {
            "name": "bench", "id": format!("{:064x}", 1), "driver": "bridge",
            "network_interface": "bench0", "subnets": [{"subnet": "10.90.0.0/24", "gateway": "10.90.0.1"}],
            "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        }},
    });
    let command = |verb: &str| {
        let mut command = Command::new(NETAVARK);
        command
            .args(["--config", &format!("{DISK}/netavark")])
            .arg(verb)
            .arg(format!("/run/netns/{name}"));
        command
    };
    let start = Instant::now();
    answer(&mut command("setup"), &config)?;
    let time = start.elapsed();
    if then == Then::Go {
        answer(&mut command("teardown"), &config)?;
    }
    Ok(time)
}

/// Runs a command that reads a document, and returns what it prints.
fn answer(command: &mut Command, document: &Value) -> anyhow::Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let mut stdin = child.stdin.take().context("it has an input")?;
    stdin.write_all(document.to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let (said, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{command:?}: {said}{complaint}");
    Ok(said.into_owned())
}

impl Outcome {
    /// Whether nothing was left behind.
    pub fn is_clean(&self) -> bool {
        let scale = self.scale.iter().map(|(_, outcome)| outcome);
        scale
            .chain([&self.pool])
            .all(|outcome| outcome["left"] == 0)
    }

    /// What the last fifty took of the time of the first, in the middle one of the rounds.
    fn growth_of_routed(&self) -> f64 {
        let routed = self.scale.iter().filter(|(mode, _)| *mode == "routed");
        let mut all: Vec<f64> = routed.map(|(_, outcome)| growth(outcome)).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// By how much ours are faster than the better of the others: as a library, as a process.
    fn factors(&self) -> [f64; 2] {
        let medians: Vec<f64> = self
            .contestants
            .iter()
            .map(|(_, times)| times.median().as_secs_f64())
            .collect();
        let others = medians
            .iter()
            .skip(2)
            .copied()
            .fold(f64::INFINITY, f64::min);
        [0, 1].map(|ours| others / medians.get(ours).copied().unwrap_or(f64::NAN))
    }

    pub fn show(&self) {
        println!("Interfaces of tasks on one host, each verified by traffic in both families");
        println!(
            "| mode    | attached | first 50, µs | last 50, µs | growth | detach, µs | left |"
        );
        println!(
            "|---------|---------:|-------------:|------------:|-------:|-----------:|-----:|"
        );
        for (mode, outcome) in &self.scale {
            println!(
                "| {mode:7} | {:8} | {:12} | {:11} | {:6.2} | {:10} | {:4} |",
                outcome["attached"],
                outcome["first_us"],
                outcome["last_us"],
                growth(outcome),
                outcome["detach_us"],
                outcome["left"],
            );
        }
        println!(
            "growth of routed, the median of {ROUNDS}: {:.2} (expected: at most {EXPECTED_GROWTH})",
            self.growth_of_routed()
        );
        for (mode, outcome) in &self.scale {
            if let Some(refusal) = outcome["refusal"].as_str() {
                println!("{mode}: {refusal}");
            }
        }
        println!();
        println!(
            "with {} prepared, one after the other without a pause: {} µs each of those, {} µs of the {} after them, \
             {} µs on average; left {}",
            self.pool["size"],
            self.pool["prepared_us"],
            self.pool["sustained_us"],
            INTERFACES - POOL,
            self.pool["each_us"],
            self.pool["left"],
        );
        println!();
        println!("One interface with a published port");
        println!("| {:28} | median ms | min ms | runs |", "");
        println!("|{:-<30}|----------:|-------:|-----:|", "");
        for (name, times) in &self.contestants {
            println!(
                "| {name:28} | {:9.2} | {:6.2} | {:4} |",
                milliseconds(times.median()),
                milliseconds(times.shortest()),
                times.count(),
            );
        }
        let [library, process] = self.factors();
        println!(
            "berth is {library:.1} times faster than the better of the others as a library (expected: {EXPECTED_AS_LIBRARY}), \
             {process:.1} times as a process (expected: {EXPECTED_AS_PROCESS})"
        );
    }

    pub fn json(&self) -> Value {
        let [library, process] = self.factors();
        let scale = self.scale.iter().map(|(mode, outcome)| {
            let mut outcome = outcome.clone();
            outcome["mode"] = (*mode).into();
            outcome
        });
        let contestants = self.contestants.iter().map(|(name, times)| {
            let mut entry = times.json();
            entry["name"] = name.clone().into();
            entry
        });
        json!({
            "benchmark": "network",
            "scale": scale.collect::<Vec<_>>(),
            "pool": self.pool,
            "growth_of_routed": self.growth_of_routed(),
            "expected_growth": EXPECTED_GROWTH,
            "series": contestants.collect::<Vec<_>>(),
            "times_faster_as_library": library,
            "expected_as_library": EXPECTED_AS_LIBRARY,
            "times_faster_as_process": process,
            "expected_as_process": EXPECTED_AS_PROCESS,
        })
    }
}

fn growth(outcome: &Value) -> f64 {
    let [first, last] =
        ["first_us", "last_us"].map(|name| outcome[name].as_f64().unwrap_or(f64::NAN));
    last / first
}
