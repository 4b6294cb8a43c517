//! Telling a service manager that the container is ready.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use crate::bundle::Bundle;
use crate::machine::PATIENCE;

crate::tests! {
    a_service_manager_is_told_when_a_started_container_is_ready;
    a_service_manager_is_told_when_a_run_container_is_ready;
    a_container_that_can_not_be_announced_is_undone;
}

/// A service manager's socket.
fn manager(bundle: &Bundle) -> UnixDatagram {
    let socket = UnixDatagram::bind(bundle.host("manager")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn with_manager(bundle: &Bundle, args: &[&str]) -> std::process::Command {
    let mut command = bundle.command(args);
    command.env("NOTIFY_SOCKET", bundle.host("manager"));
    command
}

/// Says to the container's socket what a program in it would say.
fn speak(bundle: &Bundle, message: &str) {
    let socket = bundle
        .host("state")
        .join(&bundle.id)
        .join("notify/notify.sock");
    let speaker = UnixDatagram::unbound().unwrap();
    // Until it is listened to.
    while let Err(error) = speaker.send_to(message.as_bytes(), &socket) {
        assert!(
            matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ),
            "{error}"
        );
        std::thread::yield_now();
    }
}

fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = manager.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn a_service_manager_is_told_when_a_started_container_is_ready() {
    let bundle = Bundle::new("test -S $NOTIFY_SOCKET && sleep 1000");
    let manager = manager(&bundle);
    bundle.write();
    let created = with_manager(&bundle, &["create", &bundle.id]).status();
    assert!(created.unwrap().success());
    let mut start = with_manager(&bundle, &["start", &bundle.id])
        .spawn()
        .unwrap();
    // Whatever it says beside is not the service's to say.
    speak(&bundle, "STATUS=loading\nMAINPID=1");
    speak(&bundle, "STATUS=loaded\nREADY=1\nMAINPID=1");
    assert!(start.wait().unwrap().success());
    let pid = bundle.state()["pid"].to_string();
    assert_eq!(heard(&manager), format!("MAINPID={pid}\nREADY=1"));
    assert_eq!(bundle.status(), "running");
}

fn a_service_manager_is_told_when_a_run_container_is_ready() {
    let bundle = Bundle::new("read line");
    let manager = manager(&bundle);
    bundle.write();
    let mut run = with_manager(&bundle, &["run", &bundle.id]);
    let mut run = run.stdin(Stdio::piped()).spawn().unwrap();
    speak(&bundle, "READY=1\n");
    // Its main process is the runtime's, which the manager knows.
    assert_eq!(heard(&manager), "READY=1");
    drop(run.stdin.take());
    assert!(run.wait().is_ok());
}

fn a_container_that_can_not_be_announced_is_undone() {
    let bundle = Bundle::new("sleep 1000");
    drop(manager(&bundle));
    bundle.write();
    let mut run = with_manager(&bundle, &["run", "--detach", &bundle.id]);
    let run = run.stderr(Stdio::null()).spawn();
    speak(&bundle, "READY=1");
    assert!(!run.unwrap().wait().unwrap().success());
    let said = bundle.runtime(&["state", &bundle.id]).failure();
    assert!(said.contains("does not exist"), "{said}");
}
