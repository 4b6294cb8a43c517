//! A watch over what others do to the host, on a thread of its own, until this is dropped.

use std::thread::{self, JoinHandle};

use anyhow::Context;
use berth_netns::WatchStop;

/// The thread of a watch.
pub struct WatchThread {
    stop: WatchStop,
    thread: Option<JoinHandle<()>>,
}

impl WatchThread {
    /// Runs a watch until `stop` ends it.
    pub fn start(
        name: &str,
        stop: WatchStop,
        run: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<Self> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .with_context(|| format!("starting the watch {name}"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for WatchThread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let name = thread.thread().name().unwrap_or_default().to_owned();
        // A thread that couldn't be told would never end.
        if let Err(error) = self.stop.stop() {
            tracing::error!("the watch {name}: {error}");
        } else if thread.join().is_err() {
            tracing::error!("the watch {name} broke off");
        }
    }
}
