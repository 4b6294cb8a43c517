//! Handing the listener of a filter to whoever decides about the calls that it notifies of.
//!
//! The listener travels over a unix socket with the container's process state (config-linux.md, "The
//! Container Process State").

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;

use crate::error::Error;
use crate::hooks::{StateDocument, Subject};

/// The name by which the descriptor is announced.
const LISTENER: &str = "seccompFd";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: StateDocument<'a>,
}

/// Sends the listener of the process `pid` to the profile's `listenerPath`.
pub(crate) fn notify(
    profile: Option<&LinuxSeccomp>,
    subject: Option<Subject>,
    pid: Pid,
    listener: &OwnedFd,
) -> Result<(), Error> {
    let path = profile.and_then(|profile| profile.listener_path().as_deref());
    let (Some(profile), Some(path), Some(subject)) = (profile, path, subject) else {
        let doing = "hand over a seccomp listener: nobody is there to take it";
        return Err(Error::system("sendmsg", Errno::EDESTADDRREQ, doing));
    };
    // The container is being created, or a process is put into one that runs.
    let status = match subject.pid {
        Some(_) => "running",
        None => "creating",
    };
    let subject = Subject {
        pid: Some(subject.pid.unwrap_or(pid)),
        ..subject
    };
    let state = ProcessState {
        oci_version: subject.spec.version(),
        fds: [LISTENER],
        pid: pid.as_raw(),
        metadata: profile.listener_metadata().as_deref(),
        state: subject.state(status),
    };
    let failed = |call| {
        let doing = format!("send the seccomp listener to linux.seccomp.listenerPath {path:?}");
        move |errno| Error::system(call, errno, doing)
    };
    let text = serde_json::to_vec(&state).map_err(|_| failed("serialise")(Errno::EINVAL))?;
    let connection = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(failed("socket"))?;
    UnixAddr::new(path)
        .and_then(|address| connect(connection.as_raw_fd(), &address))
        .map_err(failed("connect"))?;
    send(&connection, &text, listener).map_err(failed("sendmsg"))
}

/// The descriptor goes with the first part that the socket takes.
fn send(connection: &OwnedFd, text: &[u8], listener: &OwnedFd) -> nix::Result<()> {
    let descriptors = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let mut rest = text;
    let mut control = &rights[..];
    while !rest.is_empty() {
        let part = [IoSlice::new(rest)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = match sendmsg::<()>(connection.as_raw_fd(), &part, control, flags, None) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        rest = rest.get(sent..).unwrap_or_default();
        control = &[];
    }
    Ok(())
}
