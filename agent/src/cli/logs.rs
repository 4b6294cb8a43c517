//! `berth logs`: what a task's containers have printed, from the files that hold it.

use std::os::fd::AsFd;

use anyhow::bail;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::follow::Shown;
use super::task_id;
use crate::config::Config;

/// The options of `berth logs`.
#[derive(clap::Args)]
pub struct Args {
    /// The task: its ARN, its id, or the beginning of that
    task: String,
    /// Only these containers
    containers: Vec<String>,
    /// Go on showing what is printed, until the task has stopped or Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub fn logs(config: &Config, args: &Args) -> anyhow::Result<()> {
    let id = task_id(config, &args.task)?;
    let folder = config.task_root(&id).join("logs");
    let listing = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = listing.filter_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_suffix(".log")
            .map(str::to_owned)
    });
    let mut known: Vec<String> = names.collect();
    known.sort();
    if let Some(unknown) = args.containers.iter().find(|name| !known.contains(name)) {
        bail!(
            "container '{unknown}' of task {id} has no log; there are: {}",
            known.join(", ")
        );
    }
    let chosen = if args.containers.is_empty() {
        known
    } else {
        args.containers.clone()
    };
    let mut shown = Shown::new(&folder, chosen);
    if !args.follow {
        shown.catch_up();
        return Ok(());
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM;
    inotify.add_watch(&folder, events)?;
    // The task's folder goes when it has stopped.
    let run = config.task_run(&id);
    if inotify
        .add_watch(&run, AddWatchFlags::IN_DELETE_SELF)
        .is_err()
    {
        shown.catch_up();
        return Ok(());
    }
    while run.exists() {
        shown.catch_up();
        match poll(
            &mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        ) {
            Ok(_) | Err(nix::Error::EINTR) => drop(inotify.read_events()),
            Err(error) => return Err(error.into()),
        }
    }
    shown.catch_up();
    Ok(())
}
