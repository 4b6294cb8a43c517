//! What a parent writes about its child below `/proc/<pid>`: id maps and the
//! out-of-memory score.

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxIdMapping;

use crate::error::Error;

/// Writes the maps of a user namespace by a process that is in it.
pub(crate) fn write_id_maps(
    pid: Pid,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<(), Error> {
    write(pid, "uid_map", &map(uids))?;
    write(pid, "gid_map", &map(gids))
}

fn map(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

/// Written only if it changes something: lowering it needs CAP_SYS_RESOURCE, keeping it doesn't.
pub(crate) fn adjust_oom_score(pid: Pid, score: i32) -> Result<(), Error> {
    let current = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    match current.ok().and_then(|text| text.trim().parse().ok()) == Some(score) {
        true => Ok(()),
        false => write(pid, "oom_score_adj", &score.to_string()),
    }
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
