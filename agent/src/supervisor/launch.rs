//! Starting a supervisor, and finding the one that an earlier agent started.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use super::protocol::Files;

/// Starts a supervisor for the plan that is on disk. The listener exists before the process does
/// and is inherited by it, so that from now on whoever connects finds the supervisor, or an error
/// if there is none (any more): nothing in between.
pub fn spawn(files: &Files) -> io::Result<()> {
    let listener = listen(files)?;
    let log = File::options()
        .append(true)
        .create(true)
        .open(files.log())?;
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command
        .arg("supervise")
        .arg(files.folder())
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        // Out of the terminal's reach: Ctrl-C is for `berth run`, which stops the task properly.
        .process_group(0)
        .kill_on_drop(false);
    let mut child = command.spawn()?;
    // Collects it when it ends. After the agent has died, init does.
    tokio::spawn(async move { child.wait().await });
    Ok(())
}

fn listen(files: &Files) -> io::Result<UnixListener> {
    let path = files.socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(&path),
    }
}
