//! `pause` and `resume`.

use std::time::Duration;

use anyhow::{Result, bail};
use berth_runtime::{Container, ContainerId};

use super::Global;
use super::state::{State, StateDirectory, Status};

/// How long processes may take to stop. Those that run or sleep normally take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stops a container's processes where they are.
pub(crate) fn pause(global: &Global, id: &ContainerId) -> Result<()> {
    let directory = StateDirectory::of(global, id);
    let state = directory.load()?;
    match directory.status(&state) {
        Status::Created | Status::Running => Ok(alive(&state)?.pause(PATIENCE)?),
        // runc's words, here and below.
        Status::Paused => bail!("container already paused"),
        Status::Stopped => bail!("container not running"),
    }
}

/// Lets them go on.
pub(crate) fn resume(global: &Global, id: &ContainerId) -> Result<()> {
    let directory = StateDirectory::of(global, id);
    let state = directory.load()?;
    match directory.status(&state) {
        Status::Paused => Ok(alive(&state)?.resume()?),
        _ => bail!("container not paused"),
    }
}

/// The container of a state that said that it lives.
pub(crate) fn alive(state: &State) -> Result<Container> {
    match state.container()? {
        Some(container) => Ok(container),
        None => bail!("container not running"),
    }
}
