//! Filters that ask somebody else about a system call, and descriptors that are handed over.

use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::bundle::Bundle;

crate::tests! {
    a_listener_is_handed_over_and_decides;
    exec_hands_a_listener_over_too;
    a_notifying_filter_without_a_listener_is_refused;
    a_pidfd_is_handed_over;
    activated_sockets_are_the_containers;
}

/// Takes one connection, with its text and descriptor.
pub(crate) fn take(listener: &UnixListener) -> (String, OwnedFd) {
    let (mut stream, _) = listener.accept().unwrap();
    let descriptor = receive(&stream);
    let (mut text, descriptor) = descriptor;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    text.extend(rest);
    (String::from_utf8(text).unwrap(), descriptor)
}

fn receive(stream: &UnixStream) -> (Vec<u8>, OwnedFd) {
    let mut buffer = [0; 4096];
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )
    .unwrap();
    let length = message.bytes;
    let descriptor = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just given it to us.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor.unwrap()) };
    (buffer[..length].to_vec(), descriptor)
}

/// Answers the next notification: the call fails with this errno.
fn answer(listener: &OwnedFd, errno: i32) {
    // `struct seccomp_notif` and `struct seccomp_notif_resp` of include/uapi/linux/seccomp.h.
    const RECV: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    let mut notification = [0u64; 10];
    // SAFETY: the request writes a structure of 80 bytes.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), RECV, notification.as_mut_ptr()) };
    assert_eq!(received, 0, "{}", std::io::Error::last_os_error());
    let response = [notification[0], 0, u64::from((-errno) as u32)];
    // SAFETY: the request reads a structure of 24 bytes.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, response.as_ptr()) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

fn notifying(bundle: &mut Bundle) -> UnixListener {
    let path = bundle.host("listener.sock");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "meta",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}),
    );
    listener
}

fn a_listener_is_handed_over_and_decides() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /tmp/x");
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let listener = notifying(&mut bundle);
        let decide = std::thread::spawn(move || {
            let (text, descriptor) = take(&listener);
            answer(&descriptor, libc::ENOMEDIUM);
            text
        });
        let said = bundle.run().failure();
        assert!(said.contains("No medium found"), "{said}");
        let state: Value = serde_json::from_str(&decide.join().unwrap()).unwrap();
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "meta");
        assert_eq!(state["pid"], state["state"]["pid"]);
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(state["state"]["status"], "creating");
    }
}

fn exec_hands_a_listener_over_too() {
    let mut bundle = Bundle::new("sleep 1000");
    let listener = notifying(&mut bundle);
    let first = std::thread::spawn(move || (take(&listener), listener));
    let pid = bundle.run_detached();
    let (_first, listener) = first.join().unwrap();
    let decide = std::thread::spawn(move || {
        let (text, descriptor) = take(&listener);
        answer(&descriptor, libc::ENOMEDIUM);
        text
    });
    let said = bundle.exec(&[&bundle.id, "mkdir", "/tmp/x"]).failure();
    assert!(said.contains("No medium found"), "{said}");
    let state: Value = serde_json::from_str(&decide.join().unwrap()).unwrap();
    assert_eq!(state["state"]["pid"], pid);
    assert_ne!(state["pid"], pid);
    assert_eq!(state["state"]["status"], "running");
}

fn a_notifying_filter_without_a_listener_is_refused() {
    for (path, names, default, word) in [
        (Value::Null, "mkdir", "SCMP_ACT_ALLOW", "listenerPath"),
        (json!("/x"), "sendmsg", "SCMP_ACT_ALLOW", "sendmsg"),
        (json!("/x"), "mkdir", "SCMP_ACT_NOTIFY", "defaultAction"),
        (json!("/nowhere"), "mkdir", "SCMP_ACT_ALLOW", "/nowhere"),
    ] {
        let mut bundle = Bundle::new("true");
        bundle.set(
            "/linux/seccomp",
            json!({"defaultAction": default, "listenerPath": path,
                "syscalls": [{"names": [names], "action": "SCMP_ACT_NOTIFY"}]}),
        );
        let said = bundle.run().failure();
        assert!(said.contains(word), "{said}");
    }
}

fn a_pidfd_is_handed_over() {
    let bundle = Bundle::new("sleep 1000");
    bundle.write();
    let path = bundle.host("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let taker = std::thread::spawn(move || take(&listener).1);
    let socket = path.display().to_string();
    bundle
        .runtime(&["run", "--detach", "--pidfd-socket", &socket, &bundle.id])
        .success();
    let pidfd = taker.join().unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    let pid = bundle.state()["pid"].to_string();
    assert!(info.contains(&format!("Pid:\t{pid}\n")), "{info}");
}

fn activated_sockets_are_the_containers() {
    let bundle = Bundle::new("echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; ls /proc/self/fd");
    bundle.write();
    let mut command = bundle.command(&["run", &bundle.id]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web");
    let socket = UnixListener::bind(bundle.host("activated.sock")).unwrap();
    let number = socket.as_raw_fd();
    use std::os::unix::process::CommandExt;
    // SAFETY: dup2 is async-signal-safe.
    unsafe {
        command.pre_exec(move || match libc::dup2(number, 3) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "1 1 web\n0\n1\n2\n3\n4\n", "{:?}", output.stderr);
}
