//! What a parent writes about its child below `/proc/<pid>`: id maps and the
//! out-of-memory score; and what it reads there.

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxIdMapping;

use crate::error::Error;
use crate::user_namespace;

/// Writes the maps of a user namespace by a process that is in it.
pub(crate) fn write_id_maps(
    pid: Pid,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<(), Error> {
    let write = |file, field, maps| {
        write(pid, file, &map(maps)).map_err(|error| match error.errno() {
            Some(Errno::EPERM) => Error::IdMap {
                field,
                ids: ids(maps),
                reason: "not all of them are in the user namespace that we are in ourselves, or we lack \
                         CAP_SETUID and CAP_SETGID there (EPERM)"
                    .to_owned(),
            },
            _ => error,
        })
    };
    write("uid_map", "linux.uidMappings", uids)?;
    write("gid_map", "linux.gidMappings", gids)
}

/// The host's ids of a map, for messages.
pub(crate) fn ids(maps: &[LinuxIdMapping]) -> String {
    let ids = maps.iter().map(|map| match map.size() {
        1 => map.host_id().to_string(),
        size => {
            let last = map.host_id().saturating_add(size - 1);
            format!("{} to {last}", map.host_id())
        }
    });
    ids.collect::<Vec<_>>().join(", ")
}

/// Has the user namespace of a process refuse setgroups(2) for good, without which an ordinary user can't
/// write a map of groups.
pub(crate) fn deny_setgroups(pid: Pid) -> Result<(), Error> {
    write(pid, "setgroups", "deny")
}

fn map(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

/// Written only if it changes something: lowering it needs CAP_SYS_RESOURCE on the host, keeping it doesn't.
/// In a user namespace, where nobody has that, a process that can't be protected goes without.
pub(crate) fn adjust_oom_score(pid: Pid, score: i32) -> Result<(), Error> {
    let current = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    if current.ok().and_then(|text| text.trim().parse().ok()) == Some(score) {
        return Ok(());
    }
    match write(pid, "oom_score_adj", &score.to_string()) {
        Err(error)
            if matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM))
                && !user_namespace::is_initial() =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Whether a process has `no_new_privs`; one that is gone doesn't.
pub(crate) fn has_no_new_privileges(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix("NoNewPrivs:"));
    value.map(str::trim) == Some("1")
}

fn write(pid: Pid, file: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, value).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Error::system(
            "write",
            errno,
            format!("write {:?} to {path}", value.trim_end()),
        )
    })
}
