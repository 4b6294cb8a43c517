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
        let patience = Some(Duration::from_secs(10));
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
