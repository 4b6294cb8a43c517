//! Hooks: programs of the host, so their paths must leave no doubt.

use oci_spec::runtime::Spec;

use super::process::{check_args, check_env};
use super::{Error, bounds, value};
use crate::hooks::Stage;

pub(super) fn validate(spec: &Spec) -> Result<(), Error> {
    for stage in Stage::ALL {
        bounds::list(&format!("hooks.{}", stage.name()), stage.hooks(spec))?;
        for (index, hook) in stage.hooks(spec).iter().enumerate() {
            let field = |name: &str| format!("hooks.{}[{index}].{name}", stage.name());
            bounds::path(&field("path"), hook.path())?;
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
            let (args, env) = (hook.args().as_deref(), hook.env().as_deref());
            check_args(&field("args"), args.unwrap_or_default())?;
            check_env(&field("env"), env.unwrap_or_default())?;
        }
    }
    Ok(())
}
