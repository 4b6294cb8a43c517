//! Configurations to start from: the one that `spec` prints, and the one an engine builds on.

use std::path::Path;

use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, PosixRlimitBuilder, PosixRlimitType, Process, Root,
    Spec, User,
};

use crate::capabilities;
use crate::seccomp::default_profile;

pub use crate::capabilities::default_capabilities;

/// The environment's search path where an image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `runc spec` writes: a shell on a terminal, three capabilities, a read-only root. Test suites
/// edit this file, so its values are runc's.
pub fn default() -> Spec {
    let names = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut spec = container(&names);
    let mut process = Process::default();
    process
        .set_terminal(Some(true))
        .set_user(User::default())
        .set_args(Some(vec!["sh".to_owned()]))
        .set_env(Some(vec![
            format!("PATH={DEFAULT_PATH}"),
            "TERM=xterm".to_owned(),
        ]))
        .set_cwd("/".into())
        .set_capabilities(Some(capabilities::sets(&names)))
        .set_rlimits(open_files(1024))
        .set_no_new_privileges(Some(true));
    spec.set_process(Some(process))
        .set_hostname(Some("runc".to_owned()));
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(true));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
        if let Some(namespaces) = linux.namespaces_mut() {
            namespaces.insert(1, namespace(LinuxNamespaceType::Network, None));
        }
    }
    spec
}

/// What `runc spec --rootless` writes: the same for a user without rights, who becomes root of a user
/// namespace that has this one user and group, and whose container has the host's network.
pub fn rootless(uid: u32, gid: u32) -> Spec {
    let mut spec = default();
    let mounts = default_mounts().into_iter().map(for_one_user).collect();
    spec.set_mounts(Some(mounts));
    if let Some(linux) = spec.linux_mut() {
        linux
            .set_resources(None)
            .set_uid_mappings(one_id(uid))
            .set_gid_mappings(one_id(gid));
        if let Some(namespaces) = linux.namespaces_mut() {
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
            namespaces.push(namespace(LinuxNamespaceType::User, None));
        }
    }
    spec
}

/// The group of terminals isn't in the namespace, and a sysfs belongs to a network, which is the host's.
fn for_one_user(mut mount: Mount) -> Mount {
    if mount.destination() == Path::new("/sys") {
        return bind(
            Path::new("/sys"),
            Path::new("/sys"),
            &["nosuid", "noexec", "nodev", "ro"],
        );
    }
    let options = mount.options().clone();
    mount.set_options(options.map(|mut options| {
        options.retain(|option| !option.starts_with("gid="));
        options
    }));
    mount
}

fn one_id(id: u32) -> Option<Vec<LinuxIdMapping>> {
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(id)
        .size(1u32)
        .build();
    mapping.ok().map(|mapping| vec![mapping])
}

/// What an engine builds on: the default mounts and paths, the default seccomp filter for these
/// capabilities, all namespaces new but the user's and the network's, which engines bring.
pub fn container(capabilities: &[&str]) -> Spec {
    let mut process = Process::default();
    process
        .set_terminal(None)
        .set_user(User::default())
        .set_args(None)
        .set_env(Some(vec![format!("PATH={DEFAULT_PATH}")]))
        .set_cwd("/".into())
        .set_capabilities(Some(capabilities::sets(capabilities)))
        .set_rlimits(None)
        .set_no_new_privileges(None);
    let mut root = Root::default();
    root.set_readonly(None);
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_mounts(Some(default_mounts()))
        .set_process(Some(process))
        .set_hostname(None)
        .set_annotations(None)
        .set_linux(Some(confinement(capabilities)));
    spec
}

fn confinement(capabilities: &[&str]) -> Linux {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Pid, Uts};
    let mut deny_devices = LinuxDeviceCgroup::default();
    deny_devices
        .set_allow(false)
        .set_access(Some("rwm".to_owned()));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![deny_devices]));
    let namespaces = [Pid, Ipc, Uts, Mount, Cgroup].map(|kind| namespace(kind, None));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces.to_vec()))
        .set_resources(Some(resources))
        .set_seccomp(Some(default_profile(capabilities)))
        .set_masked_paths(Some(owned(&DEFAULT_MASKED_PATHS)))
        .set_readonly_paths(Some(owned(&DEFAULT_READONLY_PATHS)));
    linux
}

fn open_files(limit: u64) -> Option<Vec<oci_spec::runtime::PosixRlimit>> {
    let limit = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(limit)
        .soft(limit)
        .build();
    limit.ok().map(|limit| vec![limit])
}

/// Makes the container join the namespace at `path`, in place of what the configuration said about
/// this kind.
pub fn join_namespace(spec: &mut Spec, kind: LinuxNamespaceType, path: &Path) {
    let linux = spec.linux_mut().get_or_insert_with(Linux::default);
    let namespaces = linux.namespaces_mut().get_or_insert_with(Vec::new);
    namespaces.retain(|namespace| namespace.typ() != kind);
    namespaces.push(namespace(kind, Some(path)));
}

/// A bind mount, with its submounts, private to the container: `options` such as `ro` come on top.
pub fn bind(source: &Path, destination: &Path, options: &[&str]) -> Mount {
    let options = ["rbind", "rprivate"].iter().chain(options);
    let mut mount = Mount::default();
    mount
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_owned()))
        .set_destination(destination.to_owned())
        .set_options(Some(options.map(|option| (*option).to_owned()).collect()));
    mount
}

/// The mounts that every Linux program expects.
pub fn default_mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

fn mount(destination: &str, fstype: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(fstype.to_owned()))
        .set_source(Some(source.into()))
        .set_options((!options.is_empty()).then(|| owned(options)));
    mount
}

/// Files and directories that tell about the host or act on it.
pub const DEFAULT_MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Files and directories that programs read and must not change.
pub const DEFAULT_READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn namespace(kind: LinuxNamespaceType, path: Option<&Path>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path.map(Path::to_owned));
    namespace
}

fn owned(strings: &[&str]) -> Vec<String> {
    strings.iter().map(|string| (*string).to_owned()).collect()
}
