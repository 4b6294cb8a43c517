//! The agent as a service: listeners that systemd holds for it, and the word that it is ready.
//!
//! With `berth.socket` the listeners outlive the agent: who calls while it restarts waits instead
//! of being refused. `sd_listen_fds(3)` and `sd_notify(3)` describe the two protocols.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use anyhow::{Context, bail};
use listenfd::ListenFd;

/// The listeners that were handed over.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For the local API.
    pub unix: Option<UnixListener>,
    /// For the API over TCP.
    pub tcp: Option<TcpListener>,
}

impl Listeners {
    /// Takes them, once. Called before there are threads: it removes `LISTEN_FDS` and
    /// `LISTEN_PID` from the environment.
    pub fn take() -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut listeners = Self::default();
        for i in 0..passed.len() {
            // What a listener is for is told by its family: `FileDescriptorName=` names both alike.
            if let Ok(Some(unix)) = passed.take_unix_listener(i) {
                unix.set_nonblocking(true)?;
                if listeners.unix.replace(unix).is_some() {
                    bail!("systemd hands over two unix sockets; berth.socket must have one");
                }
                continue;
            }
            let tcp = passed.take_tcp_listener(i);
            let Some(tcp) = tcp.context("a socket of berth.socket")? else {
                continue;
            };
            tcp.set_nonblocking(true)?;
            if listeners.tcp.replace(tcp).is_some() {
                bail!("systemd hands over two TCP sockets; berth.socket must have one");
            }
        }
        Ok(listeners)
    }
}

/// Tells systemd that the API answers, if it wants to know.
pub fn ready() -> anyhow::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    say_ready(&path).with_context(|| format!("telling systemd at {path:?} that the agent is ready"))
}

fn say_ready(path: &std::ffi::OsStr) -> io::Result<()> {
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(b"READY=1", &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    /// Says which role this test's own process has: it starts itself again.
    const INNER: &str = "BERTH_TEST_LISTENERS";

    #[test]
    fn listeners_that_systemd_holds_are_taken_with_those_who_wait() {
        if std::env::var_os(INNER).is_some() {
            return inner();
        }
        let path = std::env::temp_dir().join(format!("berth-activation-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        // They call before anybody serves.
        let mut callers: [Box<dyn Read>; 2] = [
            Box::new(UnixStream::connect(&path).unwrap()),
            Box::new(TcpStream::connect(tcp.local_addr().unwrap()).unwrap()),
        ];
        // As systemd does: from descriptor 3 on, for the process of this id.
        let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\" 3<&0 4<&2 0</dev/null 2>&1";
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg("listeners_that_systemd_holds_are_taken_with_those_who_wait")
            .env(INNER, "1")
            .stdin(Stdio::from(OwnedFd::from(unix)))
            .stderr(Stdio::from(OwnedFd::from(tcp)))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(status.success());
        for caller in &mut callers {
            let mut answer = String::new();
            caller.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "served");
        }
    }

    fn inner() {
        let Listeners { unix, tcp } = Listeners::take().unwrap();
        unix.unwrap()
            .accept()
            .unwrap()
            .0
            .write_all(b"served")
            .unwrap();
        tcp.unwrap()
            .accept()
            .unwrap()
            .0
            .write_all(b"served")
            .unwrap();
        assert!(Listeners::take().unwrap().unix.is_none());
    }

    #[test]
    fn systemd_is_told_at_a_path_or_an_abstract_name() {
        let name = format!("berth-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let of_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let of_name = UnixDatagram::bind_addr(&address).unwrap();
        say_ready(path.as_os_str()).unwrap();
        say_ready(format!("@{name}").as_ref()).unwrap();
        std::fs::remove_file(&path).unwrap();
        for socket in [of_path, of_name] {
            let mut said = [0; 16];
            let length = socket.recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"READY=1");
        }
    }
}
