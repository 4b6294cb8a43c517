//! Published ports: TCP connections to a port of the host's loopback go on to the task.
//!
//! The bound sockets also keep the port reserved: on loopback, or at all of the host's addresses if it is published
//! there. The network translates what comes to those others; the kernel can't for `::1`, so loopback is forwarded
//! here, in both families.

use std::io::{self, Read, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use berth_netns::PortProtocol;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect,
    getsockopt, setsockopt, socket, sockopt,
};

use super::protocol::Publish;

const BUFFER: usize = 32 << 10;

/// Connections beyond this wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;

/// A listening socket, and where its connections go.
pub struct Published {
    listener: TcpListener,
    target: SocketAddrV4,
}

impl Published {
    /// Takes a TCP port in both families, where the host has IPv6.
    pub fn bind(publish: &Publish, task: Ipv4Addr) -> anyhow::Result<Vec<Self>> {
        let target = SocketAddrV4::new(task, publish.container_port);
        let listeners = reserve(publish, |address| {
            let listener = listen(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let published = |listener| Self { listener, target };
        Ok(listeners.into_iter().map(published).collect())
    }

    /// Takes a waiting connection; nothing where none waits.
    pub fn accept(&self) -> io::Result<Option<Forward>> {
        match self.listener.accept() {
            Ok((client, _)) => Forward::new(client, self.target).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether another connection may be taken while `open` are.
    pub fn may_accept(open: usize) -> bool {
        open < MOST_CONNECTIONS
    }
}

/// Takes a UDP port of the host's, in both families, where the host has IPv6.
pub fn reserve_udp(publish: &Publish) -> anyhow::Result<Vec<UdpSocket>> {
    reserve(publish, |address| {
        let socket = bound(address, SockType::Datagram)?;
        Ok(socket.into())
    })
}

/// Whether a port is free, before anything leads from it.
pub fn check_free(publish: &Publish) -> anyhow::Result<()> {
    match publish.protocol {
        PortProtocol::Tcp => reserve(publish, listen).map(drop),
        PortProtocol::Udp => reserve_udp(publish).map(drop),
    }
}

/// Binds a port in both families; the second only where the host has it.
fn reserve<T>(
    publish: &Publish,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let (v4, v6) = match publish.everywhere {
        true => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        false => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    };
    let port = publish.host_port;
    let taken = |address: String| {
        format!("publishing port {port} on {address}; another program may use it")
    };
    let mut bound = vec![bind((v4, port).into()).with_context(|| taken(v4.to_string()))?];
    match bind((v6, port).into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(error).with_context(|| taken(v6.to_string()));
        }
        other => bound.extend(other.ok()),
    }
    Ok(bound)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 128;
    let socket = bound(address, SockType::Stream)?;
    nix::sys::socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// A socket of one family only: the same port may be bound in the other beside it.
fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket: OwnedFd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &SockaddrStorage::from(address),
    )?;
    Ok(socket)
}

impl AsFd for Published {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A connection and its other half.
pub struct Forward {
    client: TcpStream,
    task: TcpStream,
    connecting: bool,
    up: Half,
    down: Half,
}

/// One direction: what was read and isn't written yet.
#[derive(Default)]
struct Half {
    buffer: Vec<u8>,
    ended: bool,
    closed: bool,
}

impl Forward {
    fn new(client: TcpStream, target: SocketAddrV4) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let task: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        match connect(
            std::os::fd::AsRawFd::as_raw_fd(&task),
            &SockaddrIn::from(target),
        ) {
            Ok(()) | Err(nix::Error::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            client,
            task: task.into(),
            connecting: true,
            up: Half::default(),
            down: Half::default(),
        })
    }

    /// What to wait for: on the client's side, on the task's side.
    pub fn interest(&self) -> [(BorrowedFd<'_>, PollFlags); 2] {
        let flags = |reads: &Half, writes: &Half| {
            let mut flags = PollFlags::empty();
            flags.set(
                PollFlags::POLLIN,
                !self.connecting && !reads.ended && reads.buffer.is_empty(),
            );
            flags.set(
                PollFlags::POLLOUT,
                !self.connecting && !writes.buffer.is_empty(),
            );
            flags
        };
        let mut task = flags(&self.down, &self.up);
        task.set(
            PollFlags::POLLOUT,
            self.connecting || !self.up.buffer.is_empty(),
        );
        [
            (self.client.as_fd(), flags(&self.up, &self.down)),
            (self.task.as_fd(), task),
        ]
    }

    /// Moves what can be moved. `false` when it is over.
    pub fn pump(&mut self) -> bool {
        if self.connecting {
            match getsockopt(&self.task, sockopt::SocketError) {
                Ok(0) => self.connecting = false,
                _ => return false,
            }
        }
        let moved = self.up.pump(&mut self.client, &mut self.task).is_ok()
            && self.down.pump(&mut self.task, &mut self.client).is_ok();
        moved && !(self.up.closed && self.down.closed)
    }
}

impl Half {
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
        if self.buffer.is_empty() && !self.ended {
            self.buffer.resize(BUFFER, 0);
            let read = from.read(&mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.ended = true,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        // After its end has been passed on, even an empty write is refused.
        if !self.buffer.is_empty() {
            match to.write(&self.buffer) {
                Ok(n) => drop(self.buffer.drain(..n)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        if self.ended && self.buffer.is_empty() && !self.closed {
            self.closed = true;
            to.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;

    /// Moves a connection on until it is over, as the event loop does.
    fn serve(mut forward: Forward) {
        loop {
            let interest = forward.interest().into_iter();
            let mut fds: Vec<PollFd<'_>> = interest
                .filter(|(_, flags)| !flags.is_empty())
                .map(|(fd, flags)| PollFd::new(fd, flags))
                .collect();
            poll(&mut fds, PollTimeout::NONE).unwrap();
            if !forward.pump() {
                return;
            }
        }
    }

    #[test]
    fn an_answer_comes_back_after_the_client_has_said_all() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(target) = server.local_addr().unwrap() else {
            panic!("not IPv4")
        };
        let mut client = TcpStream::connect(front.local_addr().unwrap()).unwrap();
        let patience = Some(Duration::from_secs(60));
        client.set_read_timeout(patience).unwrap();
        let forward = Forward::new(front.accept().unwrap().0, target).unwrap();
        std::thread::spawn(move || serve(forward));
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut task = server.accept().unwrap().0;
        let mut question = String::new();
        task.read_to_string(&mut question).unwrap();
        // In parts: the connection is moved on more than once after the client's end.
        for part in ["an", "swer"] {
            std::thread::sleep(Duration::from_millis(20));
            task.write_all(part.as_bytes()).unwrap();
        }
        drop(task);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    }
}
