//! What becomes of the limits of a container that has no cgroup.

use oci_spec::runtime::LinuxResources;

use super::{Error, Limits, Warning, limits};
use crate::user_namespace;

/// Refuses limits, or warns that they aren't in force, as the mode has it; `why` tells why there is no
/// cgroup, and what to do.
///
/// Device rules are no reason to refuse, since every configuration has some. In a user namespace nobody
/// can make a device's node anyway.
pub(crate) fn go_without(
    resources: &LinuxResources,
    mode: Limits,
    why: &str,
) -> Result<Vec<Warning>, Error> {
    let mut warnings = limits::passed_over(resources);
    for file in limits::asked(resources)? {
        let why = why.to_owned();
        let error = Error::NoCgroup { file, why };
        match mode {
            Limits::Required => return Err(error),
            Limits::BestEffort => warnings.push(Warning::from(error)),
        }
    }
    if resources.devices().iter().flatten().next().is_some() && user_namespace::is_initial() {
        warnings.push(Warning::no_device_rules());
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_limits_is_missed() {
        let without =
            |json: &str, mode| go_without(&serde_json::from_str(json).unwrap(), mode, "x");
        let nothing = r#"{"memory": {"limit": -1}, "pids": {"limit": 0}}"#;
        assert_eq!(without(nothing, Limits::Required).unwrap(), []);
        let limit = r#"{"memory": {"limit": 1048576}}"#;
        let refused = without(limit, Limits::Required).unwrap_err().to_string();
        assert!(
            refused.contains("memory.max") && refused.contains(": x"),
            "{refused}"
        );
        let warnings = without(limit, Limits::BestEffort).unwrap();
        assert!(
            warnings
                .iter()
                .any(|w| w.to_string().contains("memory.max")),
            "{warnings:?}"
        );
    }
}
