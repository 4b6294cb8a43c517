//! Berth's OCI runtime: one container, made by the kernel's own means.
//!
//! This crate knows OCI bundles: a configuration ([`oci_spec::runtime::Spec`]) and a root filesystem.
//! It knows nothing of images, tasks or networks. The command `berth-runtime` is a thin layer over it.
//!
//! # A container's life
//!
//! [`create`] makes a container up to the point where only its program is missing: its cgroup, its
//! namespaces, its mounts. [`Created::start`] runs the program; until then, dropping the [`Created`]
//! undoes everything. A [`Container`] is the running one. Its process is a child of the caller, who
//! waits for it by its pidfd; nothing here sleeps or handles signals.
//!
//! ```no_run
//! use berth_runtime::{ContainerId, CreateOptions, Root, create, spec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // First of all: containers must not reach the host's copy of this program.
//! berth_runtime::protect_own_binary()?;
//!
//! let mut config = spec::container(spec::default_capabilities());
//! if let Some(process) = config.process_mut() {
//!     process.set_args(Some(vec!["sh".into(), "-c".into(), "echo hello".into()]));
//! }
//! let id: ContainerId = "hello".parse()?;
//! let mut options = CreateOptions::new(&id, &config, "/".as_ref());
//! options.root = Some(Root::Path("/srv/rootfs".into()));
//! let container = create(options)?.start()?;
//! println!("exited with {}", container.wait()?.code());
//! container.delete()?;
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! The parent turns the configuration into a flat plan. One clone3(2) makes the child in its new
//! namespaces and its cgroup, with a pidfd. The child walks the plan with nothing but system calls, so
//! this is sound from a threaded process too, and reports a failed step by number. Meanwhile the parent
//! compiles the system call filter. `docs/design.md` beside the crate tells more, and lists the known
//! escapes from container runtimes with what stops each.
//!
//! # Dependencies
//!
//! `oci-spec` for the types of the configuration, `serde_json` to read it; `nix` and `libc` for system
//! calls; `prost` for CRIU's protocol; `caps` for the capabilities' numbers; `thiserror` for errors; `clap` and `serde` for the
//! command. `cgroups-rs` isn't used: it resolves paths and parses the mount table at every turn, where
//! starting a container writes a handful of files.

#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod binary;
mod capabilities;
pub mod cgroup;
mod channel;
mod child;
mod child_files;
pub mod config;
mod container;
pub mod criu;
mod error;
mod exec;
pub mod failpoint;
pub mod features;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hooks;
mod id;
pub mod id_mapped;
mod init;
mod launch;
mod net_devices;
mod plan;
mod rdt;
pub mod rootless;
mod scheduling;
pub mod seccomp;
pub mod spec;
pub mod start_socket;
#[allow(unsafe_code)]
mod sys;
mod terminal;
mod user_namespace;

pub use binary::protect_own_binary;
pub use child::{Child, ExitStatus};
pub use container::{
    Container, CreateOptions, Created, Creating, Restoring, Root, begin, cgroup_path, create,
    restore,
};
pub use error::{Error, InitError, StartError};
pub use exec::{ExecOptions, exec};
pub use id::{ContainerId, InvalidContainerId};
pub use init::step::Step;
pub use plan::{Error as PrepareError, Stdio};
pub use rdt::{change_class, remove_class};
pub use terminal::{copy_terminal_size, set_terminal_size};
