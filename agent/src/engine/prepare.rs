//! Interfaces that are prepared for tasks to come, where tasks have come before.

use std::convert::Infallible;

use tokio::sync::broadcast::error::RecvError;

use super::Engine;

/// How many wait in a subnet. Each is a network namespace, two descriptors, and in a bridged subnet a port.
const PREPARED: usize = 8;

impl Engine {
    /// Prepares interfaces in each subnet in which a task gets one: the next is there at once. For an engine that
    /// stays.
    pub async fn keep_prepared(&self) -> Infallible {
        let mut attached = self.inner.attached.subscribe();
        loop {
            let subnet = match attached.recv().await {
                Ok(subnet) => subnet,
                // More at once than it could be told: the next will be.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => std::future::pending().await,
            };
            let engine = self.clone();
            let prepare = move || -> anyhow::Result<usize> {
                Ok(engine
                    .network()
                    .prepare_interfaces(&subnet.parse()?, PREPARED)?)
            };
            let outcome = tokio::task::spawn_blocking(prepare).await;
            // A task that then finds none makes its own, and says what keeps it from that.
            match outcome.map_err(anyhow::Error::from).flatten() {
                Ok(count) => tracing::debug!(count, "interfaces are prepared"),
                Err(error) => tracing::debug!("no interface is prepared: {error:#}"),
            }
        }
    }
}
