//! The engine's watch over the firewall: rules that somebody else removes are put back, and the log says so.

use std::sync::Arc;

use berth_netns::{FirewallWatch, Network, WatchEvent};

use super::watch_thread::WatchThread;

/// Starts the watch in the calling thread's network namespace.
pub fn watch(network: Arc<Network>) -> anyhow::Result<WatchThread> {
    tracing::debug!(
        owned = network.firewall_is_owned(),
        "the firewall's rules are in place"
    );
    let watch = FirewallWatch::open(&network)?;
    let stop = watch.stop();
    WatchThread::start("firewall", stop, move || watch.run(&network, tell))
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
