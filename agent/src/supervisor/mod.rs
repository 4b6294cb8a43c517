//! The supervisor: one small process per task that outlives the agent.
//!
//! It is the parent of the task's containers. It creates them, writes what they print to log
//! files, records each exit on disk before it tells anyone, forwards published ports, and does
//! what the agent asks over a unix socket ([`protocol`]). It decides nothing: the order of
//! containers and the reasons to stop are the agent's.
//!
//! It has one thread, no async runtime, and allocates little: its memory is paid for every task.
//! Its mounts are in a mount namespace of its own, so that they vanish with it; its containers
//! are killed by the kernel when it dies (`PR_SET_PDEATHSIG`), and whatever else it made is known
//! to the agent by the task's id.

pub mod client;
pub mod connection;
mod container;
mod datagrams;
mod event_loop;
pub(crate) mod forward;
pub mod launch;
pub mod log;
pub mod protocol;
mod rootfs;
mod spec;
mod user;
mod user_namespace;

use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::supervisor::protocol::{Files, PROTOCOL, Plan};

/// What `berth supervise` does: reads the plan in `folder` and serves the listener that the agent
/// handed over as standard input, until the agent says that it is over.
pub fn run(folder: &Path) -> anyhow::Result<()> {
    // A process that enters a container shows it, for a moment, its own program as
    // /proc/self/exe; that must not be the host's file (CVE-2019-5736).
    berth_runtime::protect_own_binary().context("protecting the program's own file")?;
    nix::sys::prctl::set_child_subreaper(true)
        .context("becoming the reaper of the containers' processes")?;
    nix::sys::prctl::set_name(c"berth-supervise").context("naming the process")?;
    let files = Files::new(folder);
    let plan = read_plan(&files)?;
    let listener = inherited_listener()?;
    leave_the_hosts_mounts()?;
    event_loop::Supervisor::new(plan, files, listener)?.run()
}

fn read_plan(files: &Files) -> anyhow::Result<Plan> {
    let path = files.plan();
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let plan: Plan =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    if plan.protocol > PROTOCOL {
        bail!(
            "{} is of version {}; this supervisor knows up to {PROTOCOL}",
            path.display(),
            plan.protocol
        );
    }
    Ok(plan)
}

fn inherited_listener() -> anyhow::Result<UnixListener> {
    use std::os::fd::AsFd;
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    listener
        .local_addr()
        .context("standard input is no socket; the agent starts `berth supervise`, people don't")?;
    // The containers must not get it: from here on standard input is empty.
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(null).context("closing standard input")?;
    Ok(listener)
}

/// From here on, what is mounted is seen by this process and its containers only. What the host
/// unmounts is still unmounted here too.
fn leave_the_hosts_mounts() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context("detaching mounts from the host's")
}
