//! Published ports: TCP connections to a port of the host's loopback go on to the task.
//!
//! The bound sockets also keep the port reserved. The kernel can't translate connections from
//! `::1`, so loopback is forwarded here, in both families.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, socket, sockopt,
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
    /// Takes the port on `127.0.0.1` and, where the host has IPv6, on `::1`.
    pub fn bind(publish: &Publish, task: Ipv4Addr) -> anyhow::Result<Vec<Self>> {
        let target = SocketAddrV4::new(task, publish.container_port);
        let port = publish.host_port;
        let listen = |address: SocketAddr| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            io::Result::Ok(Self { listener, target })
        };
        let v4 = listen((Ipv4Addr::LOCALHOST, port).into()).with_context(|| {
            format!("publishing port {port} on 127.0.0.1; another program may use it")
        })?;
        let v6 = match listen((Ipv6Addr::LOCALHOST, port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| {
                    format!("publishing port {port} on ::1; another program may use it")
                });
            }
            other => other.ok(),
        };
        Ok(std::iter::once(v4).chain(v6).collect())
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
        match to.write(&self.buffer) {
            Ok(n) => drop(self.buffer.drain(..n)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) => {}
        }
        if self.ended && self.buffer.is_empty() && !self.closed {
            self.closed = true;
            to.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}
