//! Berth runs Amazon ECS task definitions on a Linux host.
//!
//! This crate is everything that is ECS: the API, tasks and their lifecycle, images, metadata,
//! and the command `berth`. A container is the business of `berth_runtime`, a task's network that
//! of `berth_netns`. `docs/design.md` beside the sources tells how the parts work together.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod config;
pub mod error;
pub mod failpoint;
pub mod id;
pub mod image;
pub mod members;
pub mod store;
pub mod task;
pub mod task_definition;

#[path = "supervisor"]
pub mod supervisor {
    #[path = "protocol.rs"]
    pub mod protocol;
}
#[path = "engine"]
pub mod engine {
    #[path = "decide.rs"]
    pub mod decide;
}
