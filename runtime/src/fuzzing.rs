//! What the fuzzer throws bytes at: the readers and compilers of other programs' words, as far as they
//! go without the kernel. `docs/fuzzing.md` tells how it is run.
//!
//! Each function panics where something that must hold doesn't. The corpus that the fuzzer has found is
//! replayed by this module's tests.

mod filter;

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::cgroup::{self, Driver};
use crate::{config, plan};

pub use filter::filter;

/// Parses a configuration, validates it, and plans it as far as nothing is opened. What validation lets
/// through must be plannable: afterwards there are things to be cleaned up.
pub fn configuration(bytes: &[u8]) {
    let parsed = config::parse_configuration(Path::new("config.json"), bytes);
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => return said(&error),
    };
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        match config::validate(&spec, driver) {
            Ok(()) => plannable(&spec, driver),
            Err(error) => said(&error),
        }
    }
}

/// An error has words, whatever it is about.
fn said(error: &dyn std::error::Error) {
    assert!(!error.to_string().is_empty());
}

#[allow(clippy::expect_used)]
fn plannable(spec: &Spec, driver: Driver) {
    plan::unopened(spec).expect("a valid configuration can be planned");
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let Some(resources) = resources else { return };
    cgroup::unwritten(resources, spec, driver).expect("valid limits can be written");
}

#[cfg(test)]
mod tests;
