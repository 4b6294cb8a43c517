//! `berth network check`: whether something passes from one end to the other, and why not.

use std::process::ExitCode;

use berth_netns::{Explanation, Question, Step, Traffic, Verdict};

use super::{look, names};
use crate::config::Config;

/// Neither yes nor no.
const NO_ANSWER: u8 = 2;

/// The options of `berth network check`.
#[derive(clap::Args)]
#[command(
    after_help = "An end is the beginning of a task's or an interface's id, an address, or:\n  \
        host                 the host itself\n  \
        outside, internet    anybody out there\n\n\
        Examples:\n  \
        berth network check 4c01 9f2b 5432           from one task to the port 5432 of another\n  \
        berth network check 4c01 10.231.0.2 53/udp   from a task to its resolver\n  \
        berth network check outside 9f2b 80          from outside to a task, by a port that it publishes\n  \
        berth network check 4c01 internet 443 -6     from a task to anybody's HTTPS, over IPv6\n  \
        berth network check 4c01 9f2b                a ping\n\n\
        Nothing is sent: the answer comes from the network's file, the routes, and the rules that the kernel has.\n\
        Exits with 0 if it passes, with 1 if it doesn't, and with 2 if that can't be said: a name is\n\
        wrong, or somebody else's rules may drop it or send it elsewhere."
)]
pub struct Args {
    /// Who sends
    from: String,
    /// To whom
    to: String,
    /// The port, with /tcp or /udp; without one, a ping
    #[arg(default_value = "ping")]
    port: Traffic,
    /// Over IPv6; where an end is an address, that decides
    #[arg(short = '6', long)]
    ipv6: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn check(config: &Config, args: &Args) -> ExitCode {
    match explain(config, args) {
        Ok(Verdict::Blocked) => ExitCode::FAILURE,
        Ok(Verdict::Passes) => ExitCode::SUCCESS,
        Ok(Verdict::Doubtful) => ExitCode::from(NO_ANSWER),
        Err(error) => {
            eprintln!("berth: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn explain(config: &Config, args: &Args) -> anyhow::Result<Verdict> {
    let snapshot = look(config)?;
    let end = |name| names::endpoint(config, &snapshot, name);
    let explanation = snapshot.check(&Question {
        from: end(&args.from)?,
        to: end(&args.to)?,
        traffic: args.port,
        ipv6: args.ipv6,
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string(&explanation)?),
        false => show(&explanation),
    }
    Ok(explanation.verdict)
}

fn show(explanation: &Explanation) {
    println!(
        "{} -> {}, {}",
        explanation.from, explanation.to, explanation.traffic
    );
    explanation.steps.iter().for_each(show_step);
    println!(
        "{}",
        match explanation.verdict {
            Verdict::Passes => "It passes.",
            Verdict::Doubtful => "It depends on somebody else's rules.",
            Verdict::Blocked => "It doesn't pass.",
        }
    );
    for difference in &explanation.differences {
        println!("Note: {difference}");
    }
}

fn show_step(step: &Step) {
    let verdict = match step.verdict {
        Verdict::Passes => "ok",
        Verdict::Doubtful => "DOUBTFUL",
        Verdict::Blocked => "BLOCKED",
    };
    println!("{verdict:<8} {}: {}", step.place, step.says);
    if let Some(advice) = &step.advice {
        println!("{:8} -> {advice}", "");
    }
}
