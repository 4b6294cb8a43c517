//! `cargo measure`: the benchmarks. Each measures us and the peers in one run, in turn, since only
//! times of the same minutes on the same machine can be compared.

mod run;
mod world;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Runs one benchmark, or all. Whether all ran.
pub fn measure(args: &[&str]) -> anyhow::Result<bool> {
    let as_json = args.contains(&"--json");
    let names: Vec<&str> = args
        .iter()
        .copied()
        .filter(|arg| *arg != "--json")
        .collect();
    let comparison = match names.as_slice() {
        [] | ["run"] => run::compare()?,
        [name, ..] => bail!("there is no benchmark '{name}'; there is: run"),
    };
    if as_json {
        println!("{}", comparison.json());
    } else {
        comparison.show();
    }
    Ok(true)
}

/// What one contestant's command took, run by run.
struct Series {
    /// Who, with the version, and what that is built of.
    name: String,
    command: Command,
    times: Vec<Duration>,
}

impl Series {
    fn new(name: String, mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            name,
            command,
            times: Vec::new(),
        }
    }

    /// One run, from the fork of the command to its end.
    fn once(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let output = self.command.output();
        let time = start.elapsed();
        let output = output.with_context(|| format!("running {:?}", self.command))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{:?}: {}: {}", self.command, output.status, said.trim());
        }
        Ok(time)
    }

    fn median(&self) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn shortest(&self) -> Duration {
        self.times.iter().min().copied().unwrap_or_default()
    }

    fn longest(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }
}

/// A benchmark's outcome: ours first, then the peers.
struct Comparison {
    benchmark: &'static str,
    what: String,
    series: Vec<Series>,
    /// The part of the faster peer's time that ours should take at most.
    expected: f64,
}

impl Comparison {
    /// Runs everyone in turn: a disturbance then meets all of them alike.
    fn take_turns(&mut self, warm_up: usize, runs: usize) -> anyhow::Result<()> {
        for turn in 0..warm_up + runs {
            for series in &mut self.series {
                let time = series.once()?;
                if turn >= warm_up {
                    series.times.push(time);
                }
            }
        }
        Ok(())
    }

    /// Our median, as a part of the faster peer's.
    fn ratio(&self) -> f64 {
        let mut medians = self.series.iter().map(Series::median);
        let ours = medians.next().unwrap_or_default();
        let fastest = medians.min().unwrap_or(ours);
        ours.as_secs_f64() / fastest.as_secs_f64()
    }

    fn show(&self) {
        println!("{}", self.what);
        let of = |series: &Series| series.name.chars().count();
        let width = self.series.iter().map(of).max().unwrap_or(0);
        println!(
            "| {:width$} | median ms | min ms | max ms | runs |",
            "", // the contestants' column needs no title
        );
        println!(
            "|{:-<1$}|----------:|-------:|-------:|-----:|",
            "",
            width + 2
        );
        for series in &self.series {
            println!(
                "| {:width$} | {:9.1} | {:6.1} | {:6.1} | {:4} |",
                series.name,
                milliseconds(series.median()),
                milliseconds(series.shortest()),
                milliseconds(series.longest()),
                series.times.len(),
            );
        }
        println!(
            "berth takes {:.2} of the faster peer's time; expected is at most {:.2}",
            self.ratio(),
            self.expected
        );
    }

    fn json(&self) -> Value {
        let series = self.series.iter().map(|series| {
            json!({
                "name": series.name,
                "median_ms": milliseconds(series.median()),
                "min_ms": milliseconds(series.shortest()),
                "max_ms": milliseconds(series.longest()),
                "runs": series.times.len(),
            })
        });
        json!({
            "benchmark": self.benchmark,
            "what": self.what,
            "series": series.collect::<Vec<_>>(),
            "ratio": self.ratio(),
            "expected_ratio": self.expected,
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}
