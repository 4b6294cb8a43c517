//! The key with which clients sign their requests: made by the agent, readable by root only.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::id;
use crate::supervisor::protocol::write_durable;

/// An access key, in AWS's form.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Credentials {
    /// Names the key.
    pub access_key_id: String,
    /// Signs with it.
    pub secret_access_key: String,
}

impl Credentials {
    /// Reads the key of a state folder, or makes one.
    pub fn load_or_make(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            return Self::load(path);
        }
        let made = Self {
            access_key_id: format!(
                "BERTH{}",
                id::random_128()
                    .to_uppercase()
                    .get(..15)
                    .unwrap_or_default()
            ),
            secret_access_key: id::random_160(),
        };
        write_durable(path, &serde_json::to_vec(&made)?)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(made)
    }

    /// Reads the key of a state folder.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }
}
