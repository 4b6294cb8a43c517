//! The resolver's sockets, which may outlive an agent: who asks while it restarts waits for the
//! next one, instead of being told that nobody is there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, UdpSocket};

/// Room for what tasks ask while we are busy: with the kernel's default a few hundred queries at
/// once lose some, and each that is lost costs its client five seconds.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Gives a socket to somebody who holds it for the next agent.
pub type Keep = fn(BorrowedFd<'_>) -> io::Result<()>;

/// What an agent before has left, and who is given what is new.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For datagrams, at whatever addresses.
    pub datagrams: Vec<std::net::UdpSocket>,
    /// For connections.
    pub listeners: Vec<std::net::TcpListener>,
    /// Nobody, where no service manager is there.
    pub keep: Option<Keep>,
}

impl Sockets {
    /// The two sockets of an address: those that are there, or new ones.
    pub async fn at(&mut self, address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
        let left = take(&mut self.datagrams, address, |socket| socket.local_addr());
        let datagrams = match left {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)?
            }
            None => self.kept(bind(address).await?),
        };
        let left = take(&mut self.listeners, address, |socket| socket.local_addr());
        let listener = match left {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)?
            }
            None => self.kept(TcpListener::bind(address).await?),
        };
        Ok((datagrams, listener))
    }

    fn kept<S: AsFd>(&self, socket: S) -> S {
        if let Some(keep) = self.keep
            && let Err(error) = keep(socket.as_fd())
        {
            tracing::warn!(%error, "the resolver's sockets will not outlive this agent");
        }
        socket
    }
}

async fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).await?;
    // Past the host's limit where we may; without it the buffer is as large as the host lets it.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

/// Takes out the socket that has that address.
fn take<S>(
    sockets: &mut Vec<S>,
    address: SocketAddr,
    address_of: impl Fn(&S) -> io::Result<SocketAddr>,
) -> Option<S> {
    let has = |socket: &S| address_of(socket).is_ok_and(|other| other == address);
    let position = sockets.iter().position(has)?;
    Some(sockets.swap_remove(position))
}
