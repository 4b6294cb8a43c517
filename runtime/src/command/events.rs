//! `events`: what a container uses, at intervals, and its out-of-memory kills when they happen.
//!
//! One line of JSON for each, in the form of runc's `events`, which monitoring programs read.

mod stats;

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_runtime::cgroup::{Cgroup, MemoryWatch};
use berth_runtime::{Container, ContainerId};
use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::state::StateDirectory;
use super::{Global, size};

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// The container's id
    id: ContainerId,
    /// The time between two lines, such as 500ms or 1m
    #[arg(long, default_value = "5s", value_parser = size::duration)]
    interval: Duration,
    /// Print what it uses now, and no more
    #[arg(long)]
    stats: bool,
}

/// Prints events until the container ends.
pub(crate) fn events(global: &Global, options: &Events) -> Result<()> {
    let id = &options.id;
    let state = StateDirectory::of(global, id).load()?;
    let Some(container) = state.container()? else {
        bail!("container with id {id} is not running");
    };
    if options.stats {
        return print_statistics(&container, id);
    }
    let watch = cgroup_of(&container, id)?.watch_memory()?;
    let mut killed = kills(watch.as_ref())?;
    let mut next = Instant::now() + options.interval;
    loop {
        let happened = wait(&container, watch.as_ref(), next)?;
        if happened.memory {
            let now = kills(watch.as_ref())?;
            for _ in killed..now {
                print(&json!({"type": "oom", "id": id.as_str()}))?;
            }
            killed = now;
        }
        if happened.ended {
            return Ok(());
        }
        if Instant::now() >= next {
            print_statistics(&container, id)?;
            next += options.interval;
        }
    }
}

/// How many processes were killed for want of memory so far. A cgroup that is gone tells no more.
fn kills(watch: Option<&MemoryWatch>) -> Result<u64> {
    match watch.map(MemoryWatch::read).transpose() {
        Ok(events) => Ok(events.unwrap_or_default().oom_kill),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Default)]
struct Happened {
    memory: bool,
    ended: bool,
}

/// Waits for something to happen, or for the time of the next line.
fn wait(container: &Container, watch: Option<&MemoryWatch>, next: Instant) -> Result<Happened> {
    let mut waits = vec![PollFd::new(container.pidfd(), PollFlags::POLLIN)];
    waits.extend(watch.map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLPRI)));
    // Rounded up, so as not to wake right before it.
    let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut waits, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Happened::default()),
        Err(errno) => return Err(errno).context("poll"),
    }
    let happened = |index: usize| waits.get(index).and_then(PollFd::any) == Some(true);
    Ok(Happened {
        ended: happened(0),
        memory: happened(1),
    })
}

/// What is printed is what the kernel has counted for the cgroup.
fn cgroup_of<'a>(container: &'a Container, id: &ContainerId) -> Result<&'a Cgroup> {
    let cgroup = container.cgroup();
    cgroup.with_context(|| format!("container {id} has no cgroup of its own that could be asked"))
}

fn print_statistics(container: &Container, id: &ContainerId) -> Result<()> {
    match cgroup_of(container, id)?.statistics() {
        Ok(statistics) => {
            print(&json!({"type": "stats", "id": id.as_str(), "data": stats::data(&statistics)}))
        }
        // It has just ended, which the next wait tells.
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn print(event: &Value) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{event}")?)
}
