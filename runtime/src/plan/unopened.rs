//! A configuration's plan as far as nothing of the host is opened: for the fuzzer.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::filesystem::{paths, sysctls};
use super::mount_options::{is_bind, parse};
use super::process::process_plan;
use super::{Error, Settings, Stdio, c_string, devices, hook_plan, inside_c, mounts, namespaces};
use crate::hooks::Stage;

/// Plans process, hooks, mounts, devices, parameters and paths. Where the plan would ask whether SELinux
/// is there, it is left out.
pub(crate) fn unopened(spec: &Spec) -> Result<(), Error> {
    if let Some(mut process) = spec.process().clone() {
        process.set_selinux_label(None);
        let plan = process_plan(&process, Settings::new(Stdio::default()))?;
        let linux = spec.linux().as_ref();
        let _scheduling = plan.scheduling.with_affinity(&process).in_container(
            linux.and_then(|linux| linux.memory_policy().as_ref()),
            linux.and_then(|linux| linux.personality().as_ref()),
        );
    }
    for hook in Stage::ALL.iter().flat_map(|stage| stage.hooks(spec)) {
        hook_plan(hook, Stdio::default())?;
    }
    for mount in spec.mounts().iter().flatten() {
        inside_c(mount.destination())?;
        let options = parse(mount);
        match is_bind(mount) {
            true => c_string(path_bytes(mount.source().as_deref())).map(drop)?,
            false => {
                let kind = mount.typ().as_deref().unwrap_or("none");
                mounts::new(mount, kind, &options, None).map(drop)?;
            }
        }
    }
    devices::devices(spec, false)?;
    sysctls(spec)?;
    namespaces::time_offsets(spec)?;
    let linux = spec.linux().as_ref();
    paths(linux.and_then(|linux| linux.masked_paths().as_deref()))?;
    paths(linux.and_then(|linux| linux.readonly_paths().as_deref()))?;
    let root = spec.root().as_ref().map(|root| root.path().as_path());
    c_string(path_bytes(root)).map(drop)
}

fn path_bytes(path: Option<&Path>) -> &[u8] {
    path.map_or(&[], |path| path.as_os_str().as_encoded_bytes())
}
