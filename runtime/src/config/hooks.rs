//! Hooks: programs of the host, so their paths must leave no doubt.

use oci_spec::runtime::Spec;

use super::{Error, no_null_bytes, value};
use crate::hooks::Stage;

pub(super) fn validate(spec: &Spec) -> Result<(), Error> {
    for stage in Stage::ALL {
        for (index, hook) in stage.hooks(spec).iter().enumerate() {
            let field = |name: &str| format!("hooks.{}[{index}].{name}", stage.name());
            if !hook.path().is_absolute() {
                return Err(value(
                    field("path"),
                    hook.path(),
                    "must be an absolute path",
                ));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(value(
                    field("timeout"),
                    hook.timeout(),
                    "must be greater than zero, in seconds",
                ));
            }
            no_null_bytes(&field("args"), hook.args().iter().flatten())?;
            no_null_bytes(&field("env"), hook.env().iter().flatten())?;
        }
    }
    Ok(())
}
