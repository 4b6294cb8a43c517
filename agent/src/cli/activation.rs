//! The agent as a service: listeners that systemd holds for it, and the word that it is ready.
//!
//! With `berth.socket` the listeners outlive the agent: who calls while it restarts waits instead
//! of being refused. The resolver's sockets can't be in a unit, since the network's file says where
//! they are: systemd is given them to hold. `sd_listen_fds(3)` and `sd_notify(3)` describe the
//! protocols.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use anyhow::{Context, bail};
use listenfd::ListenFd;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::dns::{self, Sockets};

/// The listeners that were handed over.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For the local API.
    pub unix: Option<UnixListener>,
    /// For the API over TCP.
    pub tcp: Option<TcpListener>,
    /// For the resolver.
    pub resolver: Sockets,
}

impl Listeners {
    /// Takes them, once. Called before there are threads: it removes `LISTEN_FDS` and
    /// `LISTEN_PID` from the environment.
    pub fn take() -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut listeners = Self::default();
        listeners.resolver.keep = Some(keep);
        for i in 0..passed.len() {
            // What a listener is for is told by its family: `FileDescriptorName=` names both alike.
            if let Ok(Some(unix)) = passed.take_unix_listener(i) {
                unix.set_nonblocking(true)?;
                if listeners.unix.replace(unix).is_some() {
                    bail!("systemd hands over two unix sockets; berth.socket must have one");
                }
                continue;
            }
            if let Ok(Some(datagrams)) = passed.take_udp_socket(i) {
                listeners.resolver.datagrams.push(datagrams);
                continue;
            }
            let tcp = passed.take_tcp_listener(i);
            let Some(tcp) = tcp.context("a socket of berth.socket")? else {
                continue;
            };
            if tcp.local_addr()?.port() == dns::PORT {
                listeners.resolver.listeners.push(tcp);
                continue;
            }
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

fn say_ready(path: &OsStr) -> io::Result<()> {
    say(path, b"READY=1", &[])
}

/// Has systemd hold a socket for the next agent, to which it comes with the listeners. systemd
/// closes it when the service is stopped to stay so.
fn keep(socket: BorrowedFd<'_>) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => keep_at(&path, socket),
        None => Ok(()),
    }
}

fn keep_at(path: &OsStr, socket: BorrowedFd<'_>) -> io::Result<()> {
    // It shall not watch it: a socket of datagrams tells of errors that are others' business.
    let text = b"FDSTORE=1\nFDNAME=resolver\nFDPOLL=0";
    say(path, text, &[socket.as_raw_fd()])
}

fn say(path: &OsStr, text: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() {
        &[]
    } else {
        &rights[..]
    };
    let (parts, flags) = ([IoSlice::new(text)], MsgFlags::MSG_NOSIGNAL);
    sendmsg(socket.as_raw_fd(), &parts, rights, flags, Some(&address))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::{IoSliceMut, Read, Write};
    use std::net::{TcpStream, UdpSocket};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
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
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        // They call before anybody serves.
        let mut callers: [Box<dyn Read>; 2] = [
            Box::new(UnixStream::connect(&path).unwrap()),
            Box::new(TcpStream::connect(tcp.local_addr().unwrap()).unwrap()),
        ];
        // As systemd does: from descriptor 3 on, for the process of this id.
        let script = "LISTEN_PID=$$ LISTEN_FDS=3 exec \"$0\" \"$@\" \
                      3<&0 4<&2 5<&1 0</dev/null 1>/dev/null 2>&1";
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg("listeners_that_systemd_holds_are_taken_with_those_who_wait")
            .env(INNER, "1")
            .stdin(Stdio::from(OwnedFd::from(unix)))
            .stderr(Stdio::from(OwnedFd::from(tcp)))
            .stdout(Stdio::from(OwnedFd::from(datagrams)))
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
        let Listeners {
            unix,
            tcp,
            resolver,
        } = Listeners::take().unwrap();
        assert_eq!(resolver.datagrams.len(), 1);
        assert!(resolver.listeners.is_empty());
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
    #[test]
    fn systemd_is_given_a_socket_to_hold() {
        let path = std::env::temp_dir().join(format!("berth-keep-{}", std::process::id()));
        let systemd = UnixDatagram::bind(&path).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        keep_at(path.as_os_str(), socket.as_fd()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut text = [0; 64];
        let mut space = nix::cmsg_space!(RawFd);
        let mut parts = [IoSliceMut::new(&mut text)];
        let fd = systemd.as_raw_fd();
        let got = recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        let length = got.bytes;
        let Some(ControlMessageOwned::ScmRights(held)) = got.cmsgs().unwrap().next() else {
            panic!("no descriptor");
        };
        assert_eq!(held.len(), 1);
        let held = std::fs::read_link(format!("/proc/self/fd/{}", held[0])).unwrap();
        let own = format!("/proc/self/fd/{}", socket.as_raw_fd());
        assert_eq!(held, std::fs::read_link(own).unwrap());
        assert!(text[..length].starts_with(b"FDSTORE=1\n"));
    }
}
