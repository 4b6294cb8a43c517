//! Two flags of `process.scheduler` whose names `oci-spec` doesn't spell as the specification does.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::{Error, parse};

/// The specification's names, and those of the types.
const NAMES: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Parses a configuration again whose parsing failed, if it was for such a name.
pub(super) fn parse_again(path: &Path, bytes: &[u8], error: Error) -> Result<Spec, Error> {
    const FIELD: &str = "process.scheduler.flags";
    if !matches!(&error, Error::Parse { field, .. } if field.starts_with(FIELD)) {
        return Err(error);
    }
    let mut document: Value = parse(path, bytes)?;
    let flags = document.pointer_mut("/process/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let name = flag.as_str().unwrap_or_default();
        if let Some((_, known)) = NAMES.iter().find(|(right, _)| *right == name) {
            *flag = Value::from(*known);
        }
    }
    parse(path, document.to_string().as_bytes())
}
