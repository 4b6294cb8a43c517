//! What a command costs beside time: system calls and memory.

use std::process::Command;

use anyhow::Context;

use super::super::run::said;
use super::DISK;
use super::contestant::timed;

/// How many system calls a command and its processes make.
pub fn calls(command: Command) -> anyhow::Result<u64> {
    let counts = format!("{DISK}/strace");
    let traced = ["strace", "-f", "-c", "-U", "calls,name", "-o", &counts];
    said(&mut wrapped(&traced, &command))?;
    let text = std::fs::read_to_string(&counts)?;
    let total = text
        .lines()
        .find_map(|line| line.trim().strip_suffix("total"));
    total
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("strace counted: {text}"))
}

/// The most memory that one of a command's processes held, in KiB: the median of some runs.
pub fn peak(runs: usize, command: impl Fn() -> Command) -> anyhow::Result<u64> {
    let peak = format!("{DISK}/bin/peak");
    let mut all = (0..runs)
        .map(|_| {
            let said = said(&mut wrapped(&[&peak], &command()))?;
            said.parse().with_context(|| format!("peak said: {said}"))
        })
        .collect::<anyhow::Result<Vec<u64>>>()?;
    all.sort_unstable();
    all.get(runs / 2).copied().context("no run")
}

/// The addresses that a command's own program comes to.
pub fn places(command: &mut Command) -> anyhow::Result<Vec<u64>> {
    let file = format!("{DISK}/places");
    let followed = [&format!("{DISK}/bin/steps"), &file];
    timed(&mut wrapped(&followed.map(String::as_str), command))?;
    let text = std::fs::read_to_string(&file)?;
    let place = |line| u64::from_str_radix(line, 16).with_context(|| format!("a place: {line}"));
    text.lines().map(place).collect()
}

fn wrapped(words: &[&str], command: &Command) -> Command {
    let mut all = words.iter();
    let mut wrapped = Command::new(all.next().unwrap_or(&""));
    wrapped
        .args(all)
        .arg(command.get_program())
        .args(command.get_args());
    wrapped
}
