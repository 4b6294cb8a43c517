//! The network's file, read again while tasks run: security groups follow it, subnets wait for the next start.

use anyhow::Context;

use super::{Engine, network_config};

impl Engine {
    /// Reads the file again. Connections that are open go on; new ones are judged by the groups as the file has them
    /// now. With a file that is wrong, everything stays as it is.
    pub fn reload_network(&self) -> anyhow::Result<()> {
        let config = network_config(self.config())?;
        self.network()
            .set_security_groups(&config.security_groups)
            .context("replacing the security groups")?;
        let groups = config.security_groups.len();
        tracing::info!(
            groups,
            "the security groups are as the network's file has them"
        );
        if (&config.subnets, &config.public_addresses)
            != (&self.inner.subnets, &self.inner.public_addresses)
        {
            tracing::warn!(
                "the network's file has other subnets, or public addresses, than when the agent started; they take \
                 effect when it is restarted"
            );
        }
        Ok(())
    }
}
