//! Checkpoint: a running container becomes images.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use nix::errno::Errno;

use super::images::Directories;
use super::mounts::Table;
use super::rpc::{self, Features, Kind, Request};
use super::service::{Needed, Said, Service, Start};
use super::streams::Streams;
use super::{CheckpointOptions, Error, Result, mounts, namespaces};
use crate::cgroup::{self, Cgroup};
use crate::child_files::has_no_new_privileges;
use crate::config;
use crate::error::Error as RuntimeError;
use crate::hooks::Subject;
use crate::sys::clone::adopt_descriptor;

const DOING: &str = "checkpoint the container";

/// Saves a container in images. Unless it is to go on, its processes are gone afterwards.
///
/// `container` has its first process, `root` is its root filesystem's directory on the host.
pub fn checkpoint(
    container: &Subject,
    root: &Path,
    cgroup: &Cgroup,
    options: &CheckpointOptions,
) -> Result<()> {
    let pid = container.pid.ok_or_else(|| {
        RuntimeError::system(
            "kill",
            Errno::ESRCH,
            "checkpoint a container without a process",
        )
    })?;
    namespaces::refuse_impossible(container.spec)?;
    mounts::refuse_impossible(container.spec)?;
    let mut status = status_file(options)?;
    let directories = Directories::make(&options.common)?;
    let parent = parent(options)?;
    let needed = [
        Some(Needed::ALWAYS),
        has_own_no_new_privileges(container, cgroup)?.then_some(Needed::NO_NEW_PRIVILEGES),
    ];
    Service::must_be(&needed)?;
    must_have_features(options)?;

    let mut wanted = directories.request(&options.common);
    wanted.pid = Some(pid.as_raw());
    wanted.root = Some(root.to_string_lossy().into_owned());
    wanted.leave_running = Some(options.leave_running);
    wanted.tcp_skip_in_flight = Some(options.tcp_skip_in_flight);
    wanted.link_remap = Some(options.link_remap);
    wanted.config_file = config_file(container);
    let frozen = Path::new(cgroup::ROOT).join(cgroup.path());
    wanted.freeze_cgroup = Some(frozen.to_string_lossy().into_owned());
    wanted.external = namespaces::external(container.spec, pid)?;
    wanted.page_server = options
        .page_server
        .as_ref()
        .map(|server| rpc::PageServerInfo {
            address: Some(server.address.clone()),
            port: Some(i32::from(server.port)),
        });
    // Without it, what changes from now on couldn't be told from what doesn't.
    wanted.track_mem = Some(options.pre_dump || parent.is_some());
    wanted.parent_img = parent;
    if !options.pre_dump {
        let table = Table::of(pid)?;
        wanted.ext_mnt = mounts::external(container.spec, pid, &table)?;
        let streams = Streams::of(pid, &table)?;
        wanted.external.extend_from_slice(&streams.external);
        streams.save(options.common.images)?;
    }
    carry_out(wanted, options.pre_dump, &directories, &mut status)
}

fn carry_out(
    wanted: rpc::Options,
    pre_dump: bool,
    directories: &Directories,
    status: &mut Option<File>,
) -> Result<()> {
    let mut request = Request::new(if pre_dump { Kind::PreDump } else { Kind::Dump });
    request.options = Some(Box::new(wanted));
    let mut service = Service::start(&Start {
        scratch: Some(directories.scratch()),
        directories: directories.to_be_opened(),
        ..Start::default()
    })?;
    service.send(&request)?;
    loop {
        match service.hear()? {
            Said::Notification { script, .. } => {
                if script == "status-ready" {
                    tell(status.take())?;
                }
                service.go_on()?;
            }
            Said::Response(response) if response.success => break,
            Said::Response(response) => return Err(directories.refused(DOING, &response).into()),
            Said::Nothing => {
                let how = service.end()?;
                return Err(directories.ended(DOING, how).into());
            }
        }
    }
    // After a pre-dump it would wait for another one, and takes our leaving for a failure.
    service.end().map(drop)
}

/// Says that memory can be fetched.
fn tell(status: Option<File>) -> Result<()> {
    let told = status.map_or(Ok(()), |mut status| status.write_all(&[0]));
    Ok(told.map_err(Error::file("write to", Path::new("--status-fd")))?)
}

/// Whether a process has set `no_new_privs` itself. What the configuration gives to all processes, a
/// restoration gives them too.
fn has_own_no_new_privileges(container: &Subject, cgroup: &Cgroup) -> Result<bool> {
    let mut processes = cgroup.all_processes()?.into_iter();
    Ok(!config::no_new_privileges(container.spec) && processes.any(has_no_new_privileges))
}

/// CRIU takes the earlier images' directory relative to that of the new ones.
fn parent(options: &CheckpointOptions) -> Result<Option<String>> {
    const FLAG: &str = "--parent-path";
    let Some(parent) = options.parent else {
        return Ok(None);
    };
    let wrong = |expected: &str| Error::flag(FLAG, parent.display(), expected);
    if parent.is_absolute() {
        return Err(wrong("must be relative to --image-path").into());
    }
    let whole = options.common.images.join(parent);
    match whole.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(Some(parent.to_string_lossy().into_owned())),
        Ok(_) => Err(wrong(&format!("{} must be a directory", whole.display())).into()),
        Err(error) => Err(wrong(&format!("{}: {error}", whole.display())).into()),
    }
}

/// Takes over the descriptor that is to be told.
fn status_file(options: &CheckpointOptions) -> Result<Option<File>> {
    let Some(number) = options.status_fd else {
        return Ok(None);
    };
    let wrong = |expected| Error::flag("--status-fd", number, expected);
    if number < 3 {
        return Err(wrong("must be the number of an open descriptor from 3 on").into());
    }
    let file = adopt_descriptor(number).map_err(|_| wrong("isn't an open descriptor"))?;
    let flags = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(0);
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => Err(wrong("must be open for writing").into()),
        _ => Ok(Some(file.into())),
    }
}

fn must_have_features(options: &CheckpointOptions) -> Result<()> {
    let wanted = Features {
        mem_track: (options.pre_dump || options.parent.is_some()).then_some(true),
        lazy_pages: options.common.lazy_pages.then_some(true),
    };
    if wanted == Features::default() {
        return Ok(());
    }
    let found = Service::features(wanted)?;
    let missing = |flag, what, feature| {
        Err(Error::MissingFeature {
            flag,
            what,
            feature,
        }
        .into())
    };
    let flag = match options.pre_dump {
        true => "--pre-dump",
        false => "--parent-path",
    };
    if wanted.mem_track.is_some() && !found.mem_track() {
        return missing(flag, "tell which memory has changed", "mem_dirty_track");
    }
    if wanted.lazy_pages.is_some() && !found.lazy_pages() {
        return missing(
            "--lazy-pages",
            "bring memory over when it is needed",
            "uffd",
        );
    }
    Ok(())
}

/// CRIU's settings for containers: the file that runc and crun take, or the container's own.
pub(super) fn config_file(container: &Subject) -> Option<String> {
    let annotations = container.spec.annotations().as_ref();
    match annotations.and_then(|annotations| annotations.get("org.criu.config")) {
        Some(file) => Some(file.clone()).filter(|file| !file.is_empty()),
        None => Some("/etc/criu/runc.conf".to_owned()),
    }
}
