//! Berth runs Amazon ECS task definitions on a Linux host.
//!
//! This crate is everything that is ECS: the API, tasks and their lifecycle, images, metadata,
//! and the command `berth`. A container is the business of `berth_runtime`, a task's network that
//! of `berth_netns`. `docs/design.md` beside the sources tells how the parts work together.
//!
//! | module | is for |
//! |---|---|
//! | [`task_definition`] | what somebody registered, read and checked |
//! | [`task`] | one run of it, and everything that is known of that |
//! | [`store`] | both, on disk |
//! | [`engine`] | driving tasks through their lives |
//! | [`supervisor`] | the process that is the parent of a task's containers |
//! | [`image`] | where images come from and how they are kept |
//! | [`api`] | the ECS API |
//! | [`dns`] | the resolver that containers ask |
//! | [`service_discovery`] | names that lead to the tasks of a service |
//! | [`metadata`] | the endpoint that containers ask |
//! | [`cli`] | the command |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
mod callers;
pub mod cli;
pub mod config;
pub mod dns;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod id;
pub mod image;
mod kernel;
pub mod members;
pub mod metadata;
mod open_files;
mod removal;
pub mod service_discovery;
mod shares;
pub mod store;
pub mod supervisor;
pub mod task;
pub mod task_definition;
