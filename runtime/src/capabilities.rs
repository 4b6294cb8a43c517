//! Capabilities by name, as configurations have them, and as the masks that the kernel takes.

use caps::Capability as Known;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::sys::credentials::CapabilityMasks;

/// The capabilities that Docker gives to a container, which images have come to expect.
pub fn default_capabilities() -> &'static [&'static str] {
    &[
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ]
}

/// Every capability's name.
pub(crate) fn names() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(Known::to_string).collect()
}

/// The sets of a process that may use `names`: bounding, effective and permitted. Inheritable and
/// ambient stay empty, or every program that is executed would gain them (CVE-2022-29162).
///
/// Names that don't exist are left out; the configuration's own are checked when it is parsed.
pub(crate) fn sets(names: &[&str]) -> LinuxCapabilities {
    let set: Capabilities = names
        .iter()
        .filter_map(|name| name.strip_prefix("CAP_").unwrap_or(name).parse().ok())
        .collect();
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

/// The masks of a process's sets; none given means none allowed.
pub(crate) fn masks(sets: Option<&LinuxCapabilities>) -> CapabilityMasks {
    let Some(sets) = sets else {
        return CapabilityMasks::default();
    };
    CapabilityMasks {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

fn mask(set: &Option<Capabilities>) -> u64 {
    set.iter()
        .flatten()
        .filter_map(bit)
        .fold(0, |mask, bit| mask | bit)
}

/// The capability's bit. Every capability of the configuration's type is one that caps knows.
fn bit(capability: &Capability) -> Option<u64> {
    format!("CAP_{capability}")
        .parse::<Known>()
        .ok()
        .map(|known| known.bitmask())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_capabilities_make_dockers_mask() {
        let masks = masks(Some(&sets(default_capabilities())));
        assert_eq!(masks.bounding, 0xa804_25fb);
        assert_eq!(
            (masks.effective, masks.permitted),
            (masks.bounding, masks.bounding)
        );
        assert_eq!((masks.inheritable, masks.ambient), (0, 0));
    }

    #[test]
    fn every_capability_of_the_configuration_has_its_bit() {
        for known in caps::all() {
            let name = known.to_string();
            let parsed: Capability = name.strip_prefix("CAP_").unwrap().parse().unwrap();
            assert_eq!(bit(&parsed), Some(known.bitmask()), "{name}");
        }
    }
}
