//! `cargo measure`: the benchmarks. Each measures us and the peers in one run, in turn, since only
//! times of the same minutes on the same machine can be compared.

mod many;
mod network;
mod run;
mod runtime;
mod times;
mod world;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use times::{Times, milliseconds};

/// What was asked for on the command line.
struct Options {
    json: bool,
    /// Other than the benchmark's own number of runs: a few will do to try it.
    runs: Option<usize>,
    name: Option<String>,
}

impl Options {
    fn parse(args: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self {
            json: false,
            runs: None,
            name: None,
        };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            match *word {
                "--json" => options.json = true,
                "--runs" => {
                    let number = words.next().context("--runs needs a number")?;
                    options.runs = Some(number.parse().context("--runs needs a number")?);
                }
                name => options.name = Some(name.to_owned()),
            }
        }
        Ok(options)
    }
}

/// Runs one benchmark, or all. Whether all ran, and left nothing behind.
pub fn measure(args: &[&str]) -> anyhow::Result<bool> {
    let options = Options::parse(args)?;
    let wanted = |name| options.name.as_deref().is_none_or(|asked| asked == name);
    if let Some(name) = options
        .name
        .as_deref()
        .filter(|n| !["run", "runtime", "many", "network", "layout"].contains(n))
    {
        bail!(
            "there is no benchmark '{name}'; there are: run, runtime, many, network; and layout, which is none"
        );
    }
    if options.name.as_deref() == Some("layout") {
        runtime::record_layout()?;
        return Ok(true);
    }
    if wanted("run") {
        let comparison = run::compare(options.runs)?;
        if options.json {
            println!("{}", comparison.json());
        } else {
            comparison.show();
        }
    }
    if wanted("runtime") {
        let outcome = runtime::compare(options.runs)?;
        if options.json {
            println!("{}", outcome.json());
        } else {
            outcome.show();
        }
    }
    let mut is_clean = true;
    if wanted("many") {
        let outcome = many::compare(options.runs)?;
        is_clean = outcome.is_clean();
        if options.json {
            println!("{}", outcome.json());
        } else {
            outcome.show();
        }
    }
    if wanted("network") {
        let outcome = network::compare(options.runs)?;
        is_clean &= outcome.is_clean();
        if options.json {
            println!("{}", outcome.json());
        } else {
            outcome.show();
        }
    }
    Ok(is_clean)
}

/// What one contestant's command took, run by run.
struct Series {
    /// Who, with the version, and what that is built of.
    name: String,
    command: Command,
    times: Times,
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
            times: Times::default(),
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
        let mut medians = self.series.iter().map(|series| series.times.median());
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
                milliseconds(series.times.median()),
                milliseconds(series.times.shortest()),
                milliseconds(series.times.longest()),
                series.times.count(),
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
            let mut entry = series.times.json();
            if let Some(map) = entry.as_object_mut() {
                map.insert("name".into(), series.name.clone().into());
            }
            entry
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
