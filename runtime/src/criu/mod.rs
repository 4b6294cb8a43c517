//! Checkpoint and restore by CRIU, the program `criu` (<https://criu.org>).
//!
//! `criu swrk` is started for each request, and asked over a packet socket in the words of its RPC
//! interface (protocol buffers; its source's `images/rpc.proto`). Nothing is linked against it. What it
//! can't know of a container, it is told:
//!
//! - which mounts come from the host (`mounts`): their names in the images are the destinations of the
//!   configuration, so that they can have other sources when they are restored;
//! - which namespaces are joined rather than made (`namespaces`);
//! - which standard streams lead out of the container (`streams`): `descriptors.json` beside CRIU's
//!   images has their names, and the restored container gets the caller's in their places.
//!
//! The names are runc's, so that each runtime can restore what the other has checkpointed. CRIU stops
//! at turns of its work and says so (`Event`): what a runtime has to do then is done by
//! [`checkpoint`] and [`restore`](crate::restore()).
//!
//! Three processes share the work of a restoration. This one makes the cgroup, as for a new container.
//! A clone of it, in a mount namespace that ends with it, makes the mount points that the root
//! filesystem lacks. Another becomes `criu`, with mounts of the root and of the cgroups that nobody else
//! sees, of which nothing is left when it has ended; what CRIU would forget to give the processes, it has
//! itself, since they are its clones. The container's first process is its sibling: our child.

mod dump;
mod error;
mod images;
mod mounts;
mod namespaces;
mod options;
mod restoration;
mod rpc;
mod service;
mod streams;

use crate::error::Error as RuntimeError;

pub use dump::checkpoint;
pub use error::Error;
pub use options::{CheckpointOptions, ManageCgroups, Options, PageServer, RestoreOptions};
pub(crate) use restoration::{Event, Images, Restoration};

type Result<T> = std::result::Result<T, RuntimeError>;
