//! `cargo measure runtime`: a container that runs `/bin/true`, by `berth-runtime`, crun and runc, with
//! the configuration that Podman writes and with a small one.
//!
//! All get the same bundle in the same place. crun is Debian 13's, since Debian 12's is old, so the
//! place is a Debian 13; ours is static, and runc brings the one library that it has of its own.
//! Beside them the floor: what the kernel takes for the same container without a runtime around it.

mod configuration;
mod contestant;
mod cost;
mod floor;
mod layout;
mod report;

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::world::{self, DISK};
use configuration::Configuration;
use contestant::{Contestant, Operation, Sleeper, timed};
use floor::Floor;
pub use report::Outcome;
use report::{Row, Table};

const WARM_UP: usize = 5;
const RUNS: usize = 250;

/// The parts of runs whose peak is taken: it varies little.
const PEAK_RUNS: usize = 9;

/// The cgroup that all containers of the benchmark are in.
const CGROUP: &str = "/berth-measure";

/// The programs under test, by the names that they have on the disk.
const PROGRAMS: [&str; 3] = ["floor", "peak", "steps"];

/// Runs the benchmark.
pub fn compare(runs: Option<usize>) -> anyhow::Result<Outcome> {
    crate::say("measuring berth-runtime, crun and runc");
    let tables = with_configurations(|all| {
        let tables = all.iter().map(|one| table(one, runs.unwrap_or(RUNS)));
        tables.collect::<anyhow::Result<Vec<_>>>()
    });
    Ok(Outcome { tables: tables? })
}

/// Writes down which functions of the runtime run, for it to be linked by.
pub fn record_layout() -> anyhow::Result<()> {
    let program = crate::build::program("berth-runtime", true)?;
    let functions = layout::Functions::of(&program)?;
    crate::say("following berth-runtime, for some minutes");
    let places = with_configurations(|all| {
        let all = all.iter().map(places);
        Ok(all.collect::<anyhow::Result<Vec<_>>>()?.concat())
    })?;
    let script = functions.script(&places)?;
    let file = crate::workspace().join("runtime/hot.ld");
    std::fs::write(&file, script).with_context(|| format!("writing {}", file.display()))
}

/// Does something in the place of the benchmark, with its configurations.
fn with_configurations<T: Send>(
    act: impl FnOnce(&[Configuration]) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    crate::packages::install(crate::packages::FOR_RUNTIME_BENCH)?;
    let system = debian_13()?;
    let disk = crate::cache()?.join("measure-runtime");
    remove(&disk)?;
    std::fs::create_dir_all(disk.join("bin"))?;
    for name in PROGRAMS.iter().chain(&["berth-runtime"]) {
        std::fs::copy(
            crate::build::program(name, true)?,
            disk.join("bin").join(name),
        )?;
    }
    std::fs::copy("/usr/sbin/runc", disk.join("bin/runc")).context("copying runc")?;
    let rootfs = crate::image::busybox()?;
    std::fs::copy(&rootfs, disk.join("rootfs.tar"))?;
    let podmans = world::within(&disk, || configuration::of_podman(&rootfs))?;
    let done = world::within_root(&system, &disk, || {
        let all = [Configuration::podman(podmans)?, Configuration::minimal()?];
        let done = act(&all);
        world::remove_empty(Path::new(&format!("/sys/fs/cgroup{CGROUP}")));
        done
    });
    remove(&disk)?;
    done
}

/// Where the runtime has been in all that is timed.
fn places(configuration: &Configuration) -> anyhow::Result<Vec<u64>> {
    let berth = Contestant::new("berth", format!("{DISK}/bin/berth-runtime"))?;
    let sleeper = Sleeper::start(&berth, configuration)?;
    let followed = berth.turn(configuration, &sleeper, cost::places)?;
    Ok(followed.map(|(_, places)| places).concat())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// The system that has the crun to be compared with: made once.
fn debian_13() -> anyhow::Result<PathBuf> {
    let folder = crate::cache()?.join("debian-13");
    if !folder.exists() {
        crate::say("making a Debian 13 for its crun");
        let packages = ["crun", "strace", "libseccomp2"];
        crate::packages::system("trixie", &folder, &packages)?;
    }
    Ok(folder)
}

/// Whose turn it is: the order is rotated from one pair of turns to the next, and reversed in every second.
fn place_in_order(turn: usize, step: usize, count: usize) -> usize {
    let step = match turn % 2 {
        0 => step,
        _ => count - 1 - step,
    };
    (turn / 2 + step) % count
}

/// Measures everyone at everything, with one configuration.
fn table(configuration: &Configuration, runs: usize) -> anyhow::Result<Table> {
    let contestants = [
        Contestant::new("berth", format!("{DISK}/bin/berth-runtime"))?,
        Contestant::new("crun", "crun".into())?,
        Contestant::new("runc", format!("{DISK}/bin/runc"))?,
    ];
    let sleepers = contestants
        .iter()
        .map(|contestant| Sleeper::start(contestant, configuration))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut rows: Vec<Row> = contestants.iter().map(|one| Row::new(&one.title)).collect();
    let floor = Floor::new(configuration, sleepers.first().context("a container")?)?;
    let mut lowest = Row::new("floor");
    let pairs: Vec<_> = contestants.iter().zip(&sleepers).collect();
    // In turn, and each time another begins, forwards and backwards: what one leaves to the kernel (the end of
    // its network namespace, for one) disturbs the next, so each must come after each as often.
    for turn in 0..WARM_UP + runs {
        let counts = turn >= WARM_UP;
        for step in 0..pairs.len() {
            let index = place_in_order(turn, step, pairs.len());
            let (Some((contestant, sleeper)), Some(row)) = (pairs.get(index), rows.get_mut(index))
            else {
                continue;
            };
            let times = contestant.turn(configuration, sleeper, timed)?;
            if counts {
                row.note(times);
            }
        }
        let times = [
            (Operation::Run, floor.run()?),
            (Operation::Exec, floor.exec()?),
        ];
        if counts {
            lowest.note(times);
        }
    }
    for ((contestant, sleeper), row) in pairs.iter().zip(&mut rows) {
        row.run_calls = cost::calls(contestant.run(configuration))?;
        row.exec_calls = cost::calls(contestant.exec(sleeper))?;
        row.peak = cost::peak(PEAK_RUNS, || contestant.run(configuration))?;
    }
    lowest.run_calls = cost::calls(floor.run_command())?;
    lowest.exec_calls = cost::calls(floor.exec_command())?;
    lowest.peak = cost::peak(PEAK_RUNS, || floor.run_command())?;
    Ok(Table {
        name: configuration.name,
        floor: lowest,
        rows,
    })
}
