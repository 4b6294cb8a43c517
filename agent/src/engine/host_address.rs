//! The engine's watch over the host's address, which names of tasks under `bridge` and `host` lead to: where the host
//! moves, with its uplink, they follow.

use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};

use berth_netns::HostAddressWatch;
use tokio::sync::watch;

use super::Inner;
use super::watch_thread::WatchThread;
use crate::task_definition::NetworkMode;

/// The watch, on a thread of its own, until this is dropped.
pub struct HostAddress {
    known: watch::Receiver<Option<Ipv4Addr>>,
    _thread: WatchThread,
}

impl HostAddress {
    /// Starts the watch in the calling thread's network namespace.
    pub fn watch() -> anyhow::Result<Self> {
        let mut watch = HostAddressWatch::open()?;
        let (tell, mut known) = watch::channel(None);
        note(&tell, watch.look());
        known.mark_unchanged();
        let thread = WatchThread::start("host-address", watch.stop(), move || {
            watch.run(|looked| note(&tell, looked));
        })?;
        Ok(Self {
            known,
            _thread: thread,
        })
    }

    /// The address that the host sends from to the outside. While it has none, the one that it had last: an uplink that
    /// is down for a moment takes no task out of a service, just as it takes none out of Cloud Map. Nothing where it has
    /// had none since the engine was opened.
    pub fn known(&self) -> watch::Receiver<Option<Ipv4Addr>> {
        self.known.clone()
    }
}

fn note(known: &watch::Sender<Option<Ipv4Addr>>, looked: berth_netns::Result<Option<Ipv4Addr>>) {
    match looked {
        Ok(None) => {}
        Ok(now) => {
            known.send_if_modified(|known| std::mem::replace(known, now) != now);
        }
        Err(error) => tracing::warn!(
            "names of tasks under bridge and host lead to the host's address, which can't be told: {error}"
        ),
    }
}

/// Has names lead to where the host is, whenever that is another place, until the engine is gone.
pub async fn follow(inner: Weak<Inner>, mut known: watch::Receiver<Option<Ipv4Addr>>) {
    while known.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let address = known.borrow_and_update().map(tracing::field::display);
        tracing::info!(address, "the host has another address to the outside");
        let registers = move || inner.register_those_of_host();
        if let Err(error) = tokio::task::spawn_blocking(registers).await {
            tracing::error!("registering tasks at the host's address broke off: {error}");
        }
    }
}

impl Inner {
    /// Registers all tasks anew that are reached at the host's address.
    fn register_those_of_host(self: Arc<Self>) {
        for handle in self.handles() {
            let mode = handle.record.borrow().definition.network_mode;
            if matches!(mode, NetworkMode::Bridge | NetworkMode::Host) {
                self.discovery.register(&handle);
            }
        }
    }
}
