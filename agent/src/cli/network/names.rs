//! What people call the things of the network.

use anyhow::bail;
use berth_netns::{Endpoint, Eni, EniId, Snapshot};

use crate::cli::task_id;
use crate::config::Config;

/// The interface with an id that begins so, or of a task whose id does.
pub(super) fn interface(config: &Config, snapshot: &Snapshot, name: &str) -> anyhow::Result<EniId> {
    let start = name.rsplit('/').next().unwrap_or(name);
    let begins =
        |eni: &&Eni| eni.id.as_str().starts_with(start) || eni.netns.as_str().starts_with(start);
    let found: Vec<&Eni> = snapshot.enis().iter().filter(begins).collect();
    match found.as_slice() {
        [eni] if !start.is_empty() => Ok(eni.id.clone()),
        [] if start.starts_with("eni-") => {
            bail!("no interface begins with '{start}'; `berth network ls` lists them")
        }
        [] => {
            let task = task_id(config, start)?;
            bail!(
                "the task {task} has no interface on the network; `berth network ls` lists those that have one"
            )
        }
        more => bail!(
            "'{start}' is the beginning of {} interfaces or tasks; give more of the id",
            more.len()
        ),
    }
}

/// One end of what is checked.
pub(super) fn endpoint(
    config: &Config,
    snapshot: &Snapshot,
    name: &str,
) -> anyhow::Result<Endpoint> {
    match name {
        "host" => Ok(Endpoint::Host),
        "outside" | "internet" => Ok(Endpoint::Outside),
        name => match name.parse() {
            Ok(address) => Ok(Endpoint::Address(address)),
            Err(_) => Ok(Endpoint::Interface(interface(config, snapshot, name)?)),
        },
    }
}
