//! The cgroup that a container gets: made by either driver, limited, and removed again on failure.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxResources, Spec};

use super::create::CreateOptions;
use crate::cgroup::{
    Cgroup, Driver, Limits, Mark, Placeholder, Started, Unit, Wanted, Warning, go_without, path_of,
    start_scope,
};
use crate::{ContainerId, Error, cgroup, failpoint, user_namespace};

/// A container's cgroup. It is removed again, unless the container gets as far as being started.
#[derive(Debug)]
pub(super) struct OwnCgroup {
    pub(super) cgroup: Cgroup,
    /// systemd's, if it made the cgroup.
    pub(super) unit: Option<Unit>,
    placeholder: Option<Placeholder>,
    remove_on_drop: bool,
}

/// Makes the cgroup and applies the configuration's limits, all but those on devices
/// ([`OwnCgroup::allow_devices`]). There may be none: by [`Driver::Disabled`], or in a user namespace to
/// which none is delegated.
pub(super) fn make(options: &CreateOptions) -> Result<(Option<OwnCgroup>, Vec<Warning>), Error> {
    let linux = options.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().clone());
    let resources = resources.unwrap_or_default();
    let without = |why: &str| Ok((None, go_without(&resources, options.limits, why)?));
    let made = match options.cgroup_driver {
        Driver::Cgroupfs => made_here(cgroup_path(options.spec, options.id), options.mark),
        Driver::Systemd => scope(options, &resources),
        Driver::Disabled => return without("cgroups are disabled (--cgroup-manager disabled)"),
    };
    let own = match made {
        Err(error) if is_undelegated(&error) && nobody_asked(options) => {
            return without(&format!(
                "none is delegated to this user ({error}). Begin in one that is, as by systemd-run \
                 --user --scope -p Delegate=yes, or have the user's systemd make it (--systemd-cgroup)"
            ));
        }
        made => made?,
    };
    failpoint::pass("cgroup-marked");
    // Also where systemd knows the limits already: the files take what it has no property for, and
    // take exactly what it rounds.
    let warnings = own.cgroup.apply(&resources, options.limits)?;
    failpoint::pass("cgroup-limited");
    Ok((Some(own), warnings))
}

/// Whether the error says that making cgroups isn't for us.
fn is_undelegated(error: &Error) -> bool {
    use Errno::{EACCES, ENOENT, EPERM, EROFS};
    match error {
        // Ours lies outside of what is mounted, or nothing is.
        Error::Cgroup(cgroup::Error::NotUnifiedRoot | cgroup::Error::Path { .. }) => true,
        error => matches!(error.errno(), Some(EACCES | ENOENT | EPERM | EROFS)),
    }
}

/// Whether we chose a cgroup in a user namespace, where there need not be any.
fn nobody_asked(options: &CreateOptions) -> bool {
    let chosen = configured_path(options.spec).is_none();
    chosen && options.cgroup_driver == Driver::Cgroupfs && !user_namespace::is_initial()
}

fn made_here(path: PathBuf, mark: Option<&Mark>) -> Result<OwnCgroup, Error> {
    let cgroup = Cgroup::create(&path)?;
    failpoint::pass("cgroup-made");
    if !cgroup.is_new() && cgroup.is_populated()? {
        return Err(Error::CgroupInUse { path });
    }
    if let Some(mark) = mark {
        cgroup.claim(mark)?;
    }
    Ok(OwnCgroup {
        cgroup,
        unit: None,
        placeholder: None,
        remove_on_drop: true,
    })
}

fn scope(options: &CreateOptions, resources: &LinuxResources) -> Result<OwnCgroup, Error> {
    let annotations = options.spec.annotations().clone().unwrap_or_default();
    let Started {
        unit,
        cgroup,
        placeholder,
    } = start_scope(&Wanted {
        id: options.id.as_str(),
        path: configured_path(options.spec),
        mark: options.mark,
        resources,
        annotations: &annotations,
    })?;
    let own = OwnCgroup {
        cgroup,
        unit: Some(unit),
        placeholder: Some(placeholder),
        remove_on_drop: true,
    };
    // Its description says it too, but is asked for over a bus.
    if let Some(mark) = options.mark {
        own.cgroup.claim(mark)?;
    }
    Ok(own)
}

/// The path of a container's cgroup with [`Driver::Cgroupfs`], below the root of all: what the
/// configuration says, or else one named after the container. ([`Unit::of`] is the other driver's.)
///
/// In a user namespace a path that isn't absolute begins beside the caller's cgroup, as what is delegated
/// there is what the caller's is in.
pub fn cgroup_path(spec: &Spec, id: &ContainerId) -> PathBuf {
    // Flat, so that nothing stays behind when it is removed.
    let own = || PathBuf::from(format!("berth-runtime-{id}"));
    let path = configured_path(spec).map_or_else(own, Path::to_owned);
    if path.is_absolute() || user_namespace::is_initial() {
        return path;
    }
    let ours = path_of(Pid::this()).unwrap_or_default();
    let around = ours.parent().unwrap_or(Path::new(""));
    around.join(path)
}

fn configured_path(spec: &Spec) -> Option<&Path> {
    let linux = spec.linux().as_ref()?;
    linux.cgroups_path().as_deref()
}

impl OwnCgroup {
    /// The cgroup of a container that lives already.
    pub(super) fn of(cgroup: Cgroup) -> Self {
        Self {
            cgroup,
            unit: None,
            placeholder: None,
            remove_on_drop: false,
        }
    }

    /// To clone the container's process into it.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.cgroup.directory()
    }

    /// Applies the configuration's device rules: before the container runs anything of its own.
    pub(super) fn allow_devices(
        &self,
        linux: &Linux,
        limits: Limits,
    ) -> Result<Vec<Warning>, Error> {
        let resources = linux.resources().as_ref();
        let devices = resources.and_then(|resources| resources.devices().as_deref());
        let allowed = self
            .cgroup
            .allow_devices(devices.unwrap_or_default(), limits);
        match allowed {
            // In a user namespace nobody can load a program, nor make a node: what may be opened is what
            // was bound.
            Err(error) if error.errno() == Some(Errno::EPERM) && !user_namespace::is_initial() => {
                Ok(Vec::new())
            }
            other => Ok(other?),
        }
    }

    /// The container's process is in it, so nothing else has to be.
    pub(super) fn taken(&mut self) {
        self.placeholder = None;
    }

    /// It stays when this is dropped.
    pub(super) fn keep(&mut self) {
        self.remove_on_drop = false;
    }

    /// Kills what is left in it and removes it.
    pub(super) fn remove(&self) -> Result<(), Error> {
        match &self.unit {
            None => self.cgroup.remove()?,
            Some(unit) => self.cgroup.remove_scope(unit)?,
        }
        Ok(())
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if self.remove_on_drop {
            // The error that brought us here is the one to be reported.
            let _removed = self.remove().is_ok();
        }
    }
}
