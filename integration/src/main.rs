//! The rig: `cargo demo`, `cargo verify` and `cargo measure`.
//!
//! It installs what it needs from Debian's packages, builds, and runs things where they can be
//! run: on this host, or in a virtual machine that has every cgroup v2 controller.
#![forbid(unsafe_code)]

mod aws;
mod build;
mod demo;
mod image;
mod measure;
mod packages;
mod payload;
mod system;
mod tally;
mod verify;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "The rig has three commands:
  cargo demo              run the example task and show what happens
  cargo verify            run every test; or, while working on one of them, only these parts:
                          source, host, machine, engines, aws
  cargo measure [NAME] [--json] [--runs N]
                          run the benchmarks, or one: run, runtime, many, network";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["demo"] => demo::demo(),
        ["verify", parts @ ..] => verify::verify(parts),
        ["measure", rest @ ..] => measure::measure(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where the rig keeps what it made: kernels, images, root filesystems.
fn cache() -> anyhow::Result<PathBuf> {
    let path = workspace().join("target/rig");
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// Says what is being done, since some of it takes minutes.
fn say(what: &str) {
    println!("== {what}");
}
