//! `cargo measure many`: whether `berth-runtime` is as fast with its two thousandth container as with its
//! first, and what it takes for two hundred at once; and whether anything is left of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::run::said;
use super::times::{Times, milliseconds};
use super::world::{self, DISK};

/// One after the other.
const SEQUENCE: usize = 2000;
/// What is compared of them: so many at the beginning and at the end.
const PART: usize = 100;
const AT_ONCE: usize = 200;

const STATE: &str = "/run/berth-many";

/// What was measured.
pub struct Outcome {
    first: Times,
    last: Times,
    count: usize,
    at_once: Duration,
    at_once_count: usize,
    leaked: Vec<String>,
}

/// Runs the benchmark. Fewer runs than the benchmark's own are for trying it.
pub fn compare(runs: Option<usize>) -> anyhow::Result<Outcome> {
    let program = crate::build::program("berth-runtime", true)?;
    let rootfs = crate::image::busybox()?;
    let disk = crate::cache()?.join("measure-many");
    if disk.exists() {
        std::fs::remove_dir_all(&disk)?;
    }
    std::fs::create_dir_all(disk.join("rootfs"))?;
    said(
        Command::new("tar")
            .arg("-xf")
            .arg(&rootfs)
            .arg("-C")
            .arg(disk.join("rootfs")),
    )?;
    std::fs::copy(program, disk.join("berth-runtime"))?;
    let count = runs.unwrap_or(SEQUENCE).max(2);
    crate::say("measuring many containers");
    let outcome = world::within(&disk, || inside(count, AT_ONCE.min(count)));
    std::fs::remove_dir_all(&disk)?;
    outcome
}

fn inside(count: usize, at_once_count: usize) -> anyhow::Result<Outcome> {
    // The processes of containers become ours when `create` ends.
    prctl::set_child_subreaper(true)?;
    std::fs::write(format!("{DISK}/config.json"), configuration().to_string())?;
    let before = traces()?;
    let part = PART.min(count / 2);
    let (mut first, mut last) = (Times::default(), Times::default());
    all(&["warm-up".to_owned()])?;
    for number in 0..count {
        let time = all(&[format!("many-{number}")])?;
        if number < part {
            first.push(time);
        } else if number >= count - part {
            last.push(time);
        }
    }
    let ids: Vec<_> = (0..at_once_count)
        .map(|number| format!("crowd-{number}"))
        .collect();
    let at_once = all(&ids)?;
    let leaked = traces()?.difference(&before).cloned().collect();
    Ok(Outcome {
        first,
        last,
        count,
        at_once,
        at_once_count,
        leaked,
    })
}

fn configuration() -> Value {
    let namespaces = ["mount", "pid", "ipc", "uts", "network", "cgroup"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sleep", "86400"],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        "linux": {"namespaces": namespaces.map(|name| json!({"type": name}))},
    })
}

/// Creates, starts, kills and deletes containers, each step for all of them at once; the time of it.
fn all(ids: &[String]) -> anyhow::Result<Duration> {
    let pid_file = |id: &str| format!("{DISK}/{id}.pid");
    let begin = Instant::now();
    step(ids, |id| {
        vec!["create", "--bundle", DISK, "--pid-file"]
            .into_iter()
            .map(String::from)
            .chain([pid_file(id), id.to_owned()])
            .collect()
    })?;
    step(ids, |id| vec!["start".into(), id.to_owned()])?;
    step(ids, |id| vec!["kill".into(), id.to_owned(), "KILL".into()])?;
    for id in ids {
        let text = std::fs::read_to_string(pid_file(id))?;
        let pid = Pid::from_raw(text.parse().with_context(|| format!("pid {text}"))?);
        while waitpid(pid, None) == Err(Errno::EINTR) {}
    }
    step(ids, |id| vec!["delete".into(), id.to_owned()])?;
    let time = begin.elapsed();
    for id in ids {
        std::fs::remove_file(pid_file(id))?;
    }
    Ok(time)
}

/// Runs a command for each container, all at once, and waits for them.
fn step(ids: &[String], words: impl Fn(&str) -> Vec<String>) -> anyhow::Result<()> {
    let start = |id: &String| {
        let mut command = Command::new(format!("{DISK}/berth-runtime"));
        command
            .args(["--root", STATE])
            .args(words(id))
            .stdin(Stdio::null());
        command
            .spawn()
            .with_context(|| format!("running {command:?}"))
    };
    let started: Vec<Child> = ids.iter().map(start).collect::<anyhow::Result<_>>()?;
    let mut failed = 0;
    for mut child in started {
        if !child.wait()?.success() {
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} containers failed, as said above", ids.len()),
    }
}

/// What a container could leave behind: cgroups, states, mounts, processes.
fn traces() -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for folder in ["/sys/fs/cgroup", STATE] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if folder == STATE || name.starts_with("berth-runtime-") {
                found.insert(format!("{folder}/{name}"));
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().map(|line| format!("mount {line}")));
    let task = Path::new("/proc/thread-self/children");
    let children = std::fs::read_to_string(task).unwrap_or_default();
    found.extend(
        children
            .split_whitespace()
            .map(|pid| format!("process {pid}")),
    );
    Ok(found)
}

impl Outcome {
    fn ratio(&self) -> f64 {
        self.last.median().as_secs_f64() / self.first.median().as_secs_f64()
    }

    fn each_at_once(&self) -> Duration {
        self.at_once / u32::try_from(self.at_once_count).unwrap_or(1).max(1)
    }

    /// Whether nothing is left.
    pub fn is_clean(&self) -> bool {
        self.leaked.is_empty()
    }

    /// For people.
    pub fn show(&self) {
        println!(
            "{} containers in sequence: create, start, kill, delete",
            self.count
        );
        for (name, times) in [("first", &self.first), ("last", &self.last)] {
            let (count, median) = (times.count(), milliseconds(times.median()));
            println!("  the {name} {count}: median {median:.2} ms");
        }
        println!(
            "  the last take {:.2} of the first; expected is at most 1.20",
            self.ratio()
        );
        println!(
            "{} at once: {:.0} ms, {:.2} ms each",
            self.at_once_count,
            milliseconds(self.at_once),
            milliseconds(self.each_at_once()),
        );
        println!("left behind: {}", self.leaked.len());
        for trace in &self.leaked {
            println!("  {trace}");
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "benchmark": "many",
            "count": self.count,
            "first": self.first.json(),
            "last": self.last.json(),
            "ratio": self.ratio(),
            "expected_ratio": 1.2,
            "at_once": {
                "count": self.at_once_count,
                "total_ms": milliseconds(self.at_once),
                "each_ms": milliseconds(self.each_at_once()),
            },
            "leaked": self.leaked,
        })
    }
}
