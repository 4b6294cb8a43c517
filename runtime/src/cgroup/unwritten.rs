//! Limits as far as nothing is written: for the fuzzer.

use oci_spec::runtime::{LinuxResources, Spec};

use super::{Driver, Error, devices, limits, systemd};

/// Works out what would be written, told to systemd and loaded.
pub(crate) fn unwritten(
    resources: &LinuxResources,
    spec: &Spec,
    driver: Driver,
) -> Result<(), Error> {
    limits::writes(resources)?;
    limits::passed_over(resources);
    devices::compile(resources.devices().as_deref().unwrap_or_default());
    match driver {
        Driver::Cgroupfs | Driver::Disabled => Ok(()),
        Driver::Systemd => systemd::unasked(resources, spec),
    }
}
