//! `checkpoint`.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use berth_runtime::criu::{self, CheckpointOptions, ManageCgroups, Options, PageServer};
use berth_runtime::{ContainerId, rootless};
use clap::Args;

use super::state::{StateDirectory, Status};
use super::{Global, lifecycle, pause};

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The directory of CRIU's images
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub(super) image_path: PathBuf,
    /// The directory of CRIU's log: the images' unless given
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Keep TCP connections that are established
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets that lead out of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session and a terminal that begin outside of the container
    #[arg(long)]
    shell_job: bool,
    /// Keep file locks
    #[arg(long)]
    file_locks: bool,
    /// Drop memory from earlier images that is in later ones
    #[arg(long)]
    auto_dedup: bool,
    /// Bring memory over when it is needed
    #[arg(long)]
    lazy_pages: bool,
    /// What CRIU does about cgroups: soft, full, strict or ignore
    #[arg(long, value_name = "MODE", default_value = "soft")]
    manage_cgroups_mode: ManageCgroups,
    /// Accepted: interfaces of a network namespace are never saved
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    empty_ns: Vec<String>,
}

impl Common {
    pub(super) fn options<'a>(&'a self, scratch: &'a Scratch) -> Options<'a> {
        let mut options = Options::new(&self.image_path, scratch.0.as_path());
        options.work = self.work_path.as_deref();
        options.tcp_established = self.tcp_established;
        options.external_unix_sockets = self.ext_unix_sk;
        options.shell_job = self.shell_job;
        options.file_locks = self.file_locks;
        options.auto_dedup = self.auto_dedup;
        options.lazy_pages = self.lazy_pages;
        options.manage_cgroups = self.manage_cgroups_mode;
        options
    }
}

/// A directory for CRIU beside a container's state, for the time of a command.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn make(directory: &StateDirectory) -> Result<Self> {
        let path = directory.path().join("criu");
        let made = DirBuilder::new().mode(0o700).create(&path);
        match made {
            // A command that was killed has left it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("make {}", path.display()))?,
        }
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where it stays, it goes with the state.
        let _removed = fs::remove_dir(&self.0).is_ok();
    }
}

#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// The container's id
    id: ContainerId,
    #[command(flatten)]
    common: Common,
    /// The directory of earlier images, relative to --image-path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    leave_running: bool,
    /// Leave out TCP connections that are being established
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give files without a name one for the time
    #[arg(long)]
    link_remap: bool,
    /// Write a null byte to this descriptor once memory can be fetched (with --lazy-pages)
    #[arg(long, value_name = "FD")]
    status_fd: Option<i32>,
    /// Send memory to a page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<PageServer>,
    /// Save memory alone, and let the container go on
    #[arg(long)]
    pre_dump: bool,
}

/// CRIU takes rights that nobody has in a user namespace.
pub(crate) fn refuse_ordinary_users(command: &str) -> Result<()> {
    match rootless::is_root_of_the_host() {
        true => Ok(()),
        false => bail!(
            "{command} is for the host's root: CRIU takes rights that an ordinary user doesn't have"
        ),
    }
}

/// Saves a container in images. It is deleted then, as by runc, unless it is to go on: its id is free to
/// be restored.
pub(crate) fn checkpoint(global: &Global, options: &Checkpoint) -> Result<()> {
    refuse_ordinary_users("checkpoint")?;
    let directory = StateDirectory::of(global, &options.id);
    let state = directory.load()?;
    match directory.status(&state) {
        Status::Running | Status::Paused => {}
        // runc's words.
        other => bail!(
            "Container cannot be checkpointed in {} state: it must be running or paused",
            other.name()
        ),
    }
    let container = pause::alive(&state)?;
    let scratch = Scratch::make(&directory)?;
    let mut how = CheckpointOptions::new(options.common.options(&scratch));
    how.parent = options.parent_path.as_deref();
    how.pre_dump = options.pre_dump;
    how.leave_running = options.leave_running;
    how.tcp_skip_in_flight = options.tcp_skip_in_flight;
    how.link_remap = options.link_remap;
    how.page_server.clone_from(&options.page_server);
    how.status_fd = options.status_fd;
    let mut subject = state.subject();
    subject.pid = Some(container.pid());
    let cgroup = container.cgroup();
    let cgroup = cgroup.with_context(|| {
        format!(
            "container {} has no cgroup of its own, in which its processes could be stopped",
            options.id
        )
    })?;
    criu::checkpoint(&subject, &state.rootfs, cgroup, &how)?;
    drop(scratch);
    match options.leave_running || options.pre_dump {
        true => Ok(()),
        false => lifecycle::remove(global, directory, &state, &options.id),
    }
}
