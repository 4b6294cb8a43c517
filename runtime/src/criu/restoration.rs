//! Restore: images become processes again. What is around them, `container/restore.rs` makes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::dump::config_file;
use super::images::{Directories, below};
use super::rpc::{self, Kind, Request};
use super::service::{Needed, Said, Service, Start, process};
use super::streams::{self, Heirs};
use super::{ManageCgroups, RestoreOptions, Result, mounts, namespaces};
use crate::cgroup::Cgroup;
use crate::channel::{self, Report};
use crate::child::{Child, ExitStatus};
use crate::config;
use crate::error::Error as RuntimeError;
use crate::exec::keyring_name;
use crate::hooks::Subject;
use crate::init::restoration::{ROOT, make_mount_points};
use crate::plan::{MountSource, MountStep};
use crate::sys::clone::{CloneArgs, Cloned, clone3};
use crate::sys::socket;

const DOING: &str = "restore the container";

/// Images that can be restored, as far as can be told before anything is made.
#[derive(Debug)]
pub(crate) struct Images<'a> {
    options: &'a RestoreOptions<'a>,
    directories: Directories,
    heirs: Heirs,
    places: namespaces::Places,
}

impl<'a> Images<'a> {
    pub(crate) fn open(spec: &Spec, options: &'a RestoreOptions) -> Result<Self> {
        namespaces::refuse_impossible(spec)?;
        mounts::refuse_impossible(spec)?;
        let images = Self {
            options,
            directories: Directories::of_checkpoint(&options.common)?,
            heirs: streams::heirs(options.common.images)?,
            places: namespaces::places(spec)?,
        };
        let needed = |flag: Option<&str>, what| {
            let version = (3, 16);
            flag.map(|_| Needed { what, version })
        };
        let needed = [
            Some(Needed::ALWAYS),
            needed(options.lsm_profile, "--lsm-profile"),
            needed(options.lsm_mount_context, "--lsm-mount-context"),
        ];
        Service::must_be(&needed)?;
        Ok(images)
    }

    /// Makes the mount points that the root filesystem lacks. `root` is a detached mount of it.
    pub(crate) fn make_mount_points(&self, root: &OwnedFd, steps: Vec<MountStep>) -> Result<()> {
        let scratch = self.directories.scratch();
        make_points(root.as_fd(), scratch, &outside_of_new(steps))
    }

    /// Has CRIU begin. `root` is another detached mount of the root filesystem.
    pub(crate) fn restore(
        self,
        subject: &Subject,
        root: &OwnedFd,
        cgroup: &Cgroup,
    ) -> Result<Restoration> {
        let mut request = Request::new(Kind::Restore);
        request.options = Some(Box::new(self.request(subject, cgroup)));
        let own = self.heirs.descriptors.iter();
        let keyring = CString::new(keyring_name(subject.id)).ok();
        let service = Service::start(&Start {
            scratch: Some(self.directories.scratch()),
            root: Some(root.as_fd()),
            directories: self.directories.to_be_opened(),
            descriptors: own
                .chain(&self.places.descriptors)
                .map(AsFd::as_fd)
                .collect(),
            streams: true,
            no_new_privileges: config::no_new_privileges(subject.spec),
            keyring: keyring.as_deref(),
            // Else it would count against the container's limits.
            cgroup: (self.options.common.manage_cgroups == ManageCgroups::Ignore)
                .then(|| cgroup.directory()),
        })?;
        service.send(&request)?;
        Ok(Restoration {
            service,
            directories: self.directories,
        })
    }

    fn request(&self, subject: &Subject, cgroup: &Cgroup) -> rpc::Options {
        let options = self.options;
        let mut wanted = self.directories.request(&options.common);
        wanted.root = Some(below(options.common.scratch, ROOT));
        // The container's first process becomes our child, not CRIU's.
        wanted.rst_sibling = Some(true);
        // A device may have another path now.
        wanted.evasive_devices = Some(true);
        wanted.config_file = config_file(subject);
        wanted.ext_mnt = mounts::sources(subject.spec, subject.bundle, cgroup.path());
        wanted.inherit_fd.clone_from(&self.heirs.inherited);
        wanted.inherit_fd.extend_from_slice(&self.places.inherited);
        wanted.join_ns.clone_from(&self.places.joined);
        wanted.lsm_profile = options.lsm_profile.map(str::to_owned);
        wanted.lsm_mount_context = options.lsm_mount_context.map(str::to_owned);
        if options.common.manage_cgroups != ManageCgroups::Ignore {
            let path = Path::new("/").join(cgroup.path());
            // The hierarchy of version 2 has no name.
            wanted.cg_root = vec![rpc::CgroupRoot {
                controller: Some(String::new()),
                path: path.to_string_lossy().into_owned(),
            }];
        }
        wanted
    }
}

/// A turn of a restoration that a runtime has to do with. CRIU waits until it is told to go on.
#[derive(Debug)]
pub(crate) enum Event {
    /// The first process is there, in its namespaces.
    NamespacesMade(Pid),
    /// The master of the container's terminal, which was outside of it.
    Console(OwnedFd),
    /// All processes are there as they were, and don't run yet.
    Restored(Pid),
    /// They are about to run, with their rights.
    Ready,
    /// They run.
    Done,
}

/// A CRIU that restores. When this is dropped before the end, it takes back what it has done.
#[derive(Debug)]
pub(crate) struct Restoration {
    service: Service,
    directories: Directories,
}

impl Restoration {
    pub(crate) fn next(&mut self) -> Result<Event> {
        loop {
            match self.service.hear()? {
                Said::Notification {
                    script,
                    pid,
                    descriptor,
                } => match (script.as_str(), descriptor) {
                    ("setup-namespaces", _) => return Ok(Event::NamespacesMade(process(pid)?)),
                    ("orphan-pts-master", Some(master)) => return Ok(Event::Console(master)),
                    ("post-restore", _) => return Ok(Event::Restored(process(pid)?)),
                    ("pre-resume", _) => return Ok(Event::Ready),
                    _ => self.go_on()?,
                },
                Said::Response(response) if response.success => return Ok(Event::Done),
                Said::Response(response) => {
                    return Err(self.directories.refused(DOING, &response).into());
                }
                Said::Nothing => {
                    let how = self.service.end()?;
                    return Err(self.directories.ended(DOING, how).into());
                }
            }
        }
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        self.service.go_on()
    }

    /// Waits until CRIU is gone, once all is done.
    pub(crate) fn end(mut self) -> Result<()> {
        self.service.end().map(drop)
    }
}

/// All but the mounts on file systems that are new with the container: those come back with their
/// content, mount points included.
fn outside_of_new(steps: Vec<MountStep>) -> Vec<MountStep> {
    let is_new = |step: &&MountStep| matches!(step.source, MountSource::New { .. });
    let new = steps.iter().filter(is_new).map(|step| step.target.clone());
    let new: Vec<_> = new.collect();
    let is_below = |target: &CStr| {
        let below = |above: &CString| {
            let rest = target.to_bytes().strip_prefix(above.to_bytes());
            rest.is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        new.iter().any(below)
    };
    let outside = |step: &MountStep| !is_below(&step.target);
    steps.into_iter().filter(outside).collect()
}

fn make_points(root: BorrowedFd, scratch: &CStr, steps: &[MountStep]) -> Result<()> {
    let failed = |call| {
        move |errno| RuntimeError::system(call, errno, "make mount points in the root filesystem")
    };
    let (ours, childs) = socket::packet_pair().map_err(failed("socketpair"))?;
    let args = CloneArgs {
        flags: CloneFlags::CLONE_NEWNS,
        cgroup: None,
    };
    let Cloned { pid, pidfd } = clone3(&args, || {
        make_mount_points(root, scratch, steps, childs.as_fd())
    })
    .map_err(failed("clone3"))?;
    let mut child = Child::in_the_making(pid, pidfd);
    drop(childs);
    match channel::next_report(ours.as_fd()).map_err(failed("recvmsg"))? {
        Some(Report::Failed(failure)) => {
            let step = steps.get(failure.index as usize);
            let target = step.map(|step| step.target.to_string_lossy());
            let doing = format!(
                "make the mount point /{} in the root filesystem",
                target.unwrap_or_default()
            );
            Err(RuntimeError::system("openat2", failure.errno, doing))
        }
        _ => {
            let status = child.wait()?;
            child.release();
            match status {
                ExitStatus::Code(0) => Ok(()),
                status => Err(RuntimeError::Died {
                    pid,
                    how: format!("{status:?}, while it made mount points"),
                }),
            }
        }
    }
}
