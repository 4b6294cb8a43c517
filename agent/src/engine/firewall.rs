//! The engine's watch over the firewall: rules that somebody else removes are put back, and the log says so.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use berth_netns::{FirewallWatch, Network, WatchEvent, WatchStop};

/// The watch, on a thread of its own, until this is dropped.
pub struct Guard {
    stop: WatchStop,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts the watch in the calling thread's network namespace.
    pub fn start(network: Arc<Network>) -> anyhow::Result<Self> {
        tracing::debug!(
            owned = network.firewall_is_owned(),
            "the firewall's rules are in place"
        );
        let watch = FirewallWatch::open(&network)?;
        let stop = watch.stop();
        let thread = thread::Builder::new()
            .name("firewall".into())
            .spawn(move || watch.run(&network, tell))
            .context("starting the watch over the firewall's rules")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A thread that couldn't be told would never end.
        if let Err(error) = self.stop.stop() {
            tracing::error!("{error}");
        } else if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch over the firewall's rules broke off");
        }
    }
}

fn tell(event: WatchEvent) {
    match event {
        WatchEvent::Restored { by: Some(process) } => tracing::warn!(
            by = process.name,
            pid = process.id,
            "somebody changed or removed the firewall's rules; they are back"
        ),
        WatchEvent::Restored { by: None } => {
            tracing::warn!("the firewall's rules were changed or removed; they are back");
        }
        WatchEvent::RestoredRoutingPolicy => {
            tracing::warn!("somebody removed rules of the routing policy; they are back");
        }
        WatchEvent::PassesDocker => {
            tracing::info!("Docker's chain DOCKER-USER lets the traffic of tasks pass");
        }
        WatchEvent::Failed(error) => {
            tracing::error!(
                "rules may be missing, and with them tasks' network or what closes it: {error}"
            );
        }
        other => tracing::info!(?other, "the watch over the firewall's rules"),
    }
}
