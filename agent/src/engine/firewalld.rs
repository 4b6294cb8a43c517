//! The engine's watch over firewalld: whenever it has loaded its rules, tasks' traffic passes it again, and the log says
//! so.

use std::thread;

use anyhow::Context;
use berth_netns::{FirewalldEvent, FirewalldWatch, Network, WatchStop};

/// The watch, on a thread of its own, until this is dropped.
pub struct Guard(WatchStop);

impl Guard {
    /// Starts the watch in the calling thread's network namespace. A firewalld that is there lets tasks' traffic pass
    /// when this returns; one that doesn't answer is waited for no longer than five seconds.
    pub fn start(network: &Network) -> anyhow::Result<Self> {
        let mut watch = FirewalldWatch::open(network)?;
        watch.look(tell);
        let stop = watch.stop();
        thread::Builder::new()
            .name("firewalld".into())
            .spawn(move || watch.run(tell))
            .context("starting the watch over firewalld")?;
        Ok(Self(stop))
    }
}

impl Drop for Guard {
    /// The thread isn't waited for: it has nothing of the network's, and may be talking to a firewalld that hangs.
    fn drop(&mut self) {
        if let Err(error) = self.0.stop() {
            tracing::error!("{error}");
        }
    }
}

fn tell(event: FirewalldEvent) {
    match event {
        FirewalldEvent::Passes { links } => tracing::info!(
            links = links.join(" "),
            "firewalld lets the traffic of tasks pass, by its zone trusted"
        ),
        FirewalldEvent::Elsewhere { link, zone } => tracing::warn!(
            link,
            zone,
            "somebody has put a link of tasks in a zone of firewalld's: what it rejects doesn't reach tasks, or the \
             outside; firewall-cmd --zone=trusted --change-interface={link} leaves it to their security groups"
        ),
        FirewalldEvent::Failed(error) => tracing::warn!("{error}"),
        other => tracing::info!(?other, "the watch over firewalld"),
    }
}
