//! Images: where they come from, how they are kept, and what a container gets of them.
//!
//! ```text
//! <root>/images/
//!   refs/<name>.json      which image a name stands for
//!   blobs/sha256/<hex>    manifests and configurations, as they came
//!   layers/<hex>/fs       a layer, unpacked; hex is the start of its diff id
//!   layers/<hex>/diff-id  the whole of it
//!   lock                  shared by who uses images, exclusive for who removes them
//! ```
//!
//! Nothing enters the store unless its digest is right, and a name is written last: whatever
//! breaks off before that leaves a folder `layers/new-…`, which the next opening removes.

mod archive;
mod digest;
mod layer;
mod name;
mod pull;
mod reader;
mod store;
mod tree;

use serde::{Deserialize, Serialize};

pub use digest::Digest;
pub use layer::LayerError;
pub use name::full_name;
pub use pull::{PullError, Puller};
pub use store::{Image, Images, Lock};

use crate::id::Timestamp;

/// What went wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A name that isn't one.
    #[error(
        "'{0}' is no image name; one looks like busybox:1.36 or registry.example.com/team/app:v1"
    )]
    Name(String),
    /// No image of that name is in the store.
    #[error("image '{0}' is not in the store; `berth image pull`, `load` or `import` brings it")]
    NotFound(String),
    /// Somebody runs it.
    #[error("image '{name}' is in use by task {task}; stop that first")]
    InUse {
        /// The image.
        name: String,
        /// The task's id.
        task: String,
    },
    /// The bytes aren't what their digest says.
    #[error(
        "{what}: its digest is {found}, but {expected} was asked for; it is damaged or was changed on the way"
    )]
    WrongDigest {
        /// Which part of the image.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The archive doesn't hold what it should.
    #[error("{0}")]
    Malformed(String),
    /// A layer that can't be unpacked.
    #[error("layer {digest}: {source}")]
    Layer {
        /// The layer.
        digest: String,
        /// What is wrong with it.
        source: LayerError,
    },
    /// The disk below the store.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The error.
        source: std::io::Error,
    },
}

impl ImageError {
    /// Says what was being done when the disk refused.
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a name stands for: the content of a file in `refs/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// The full name, such as `docker.io/library/busybox:latest`.
    pub name: String,
    /// The manifest.
    pub manifest: Digest,
    /// The configuration: Docker's "image id".
    pub config: Digest,
    /// The layers' diff ids, the lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    /// When it came into the store.
    pub added: Timestamp,
}
