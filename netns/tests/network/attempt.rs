//! Connections, and what becomes of them.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socket};

use crate::world::{PATIENCE, briefly};

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    Yes,
    Refused,
    /// No answer: dropped on the way.
    Silence,
    /// The sender itself has no way there.
    NoRoute,
}

/// A connection that has begun, in the namespace where it was asked for. To be compared with what is to become of it:
/// an answer is waited for with patience, silence briefly.
pub struct Attempt {
    begun: Instant,
    socket: io::Result<TcpStream>,
    reached: OnceCell<Reached>,
}

impl Attempt {
    fn begin(address: SocketAddr) -> Self {
        let begun = Instant::now();
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, None).expect("a socket");
        let socket =
            match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
                Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
                Err(errno) => Err(errno.into()),
            };
        Self {
            begun,
            socket,
            reached: OnceCell::new(),
        }
    }

    /// What becomes of it in that time after its begin. The first outcome is kept.
    pub fn within(&self, patience: Duration) -> Reached {
        *self.reached.get_or_init(|| {
            let outcome = match &self.socket {
                Ok(socket) => answer(socket, self.begun + patience),
                Err(error) => Err(error.kind()),
            };
            match outcome {
                Ok(()) => Reached::Yes,
                Err(io::ErrorKind::ConnectionRefused) => Reached::Refused,
                Err(io::ErrorKind::TimedOut) => Reached::Silence,
                Err(_) => Reached::NoRoute,
            }
        })
    }
}

/// Waits until the kernel knows whether it is connected.
fn answer(socket: &TcpStream, deadline: Instant) -> Result<(), io::ErrorKind> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = PollTimeout::try_from(left).expect("not for ever");
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut sockets, left).expect("waited") {
        0 => Err(io::ErrorKind::TimedOut),
        _ => match socket.take_error().expect("asked") {
            Some(error) => Err(error.kind()),
            None => Ok(()),
        },
    }
}

impl PartialEq<Reached> for Attempt {
    fn eq(&self, expected: &Reached) -> bool {
        let patience = match expected {
            Reached::Silence => briefly(),
            _ => PATIENCE,
        };
        self.within(patience) == *expected
    }
}

/// As what became of it.
impl fmt::Debug for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.within(briefly()).fmt(formatter)
    }
}

/// Connects from the calling thread's namespace.
pub fn connect(address: impl Into<IpAddr>, port: u16) -> Attempt {
    Attempt::begin(SocketAddr::new(address.into(), port))
}

/// How long after an outcome that isn't the right one it is tried again.
const BETWEEN: Duration = Duration::from_millis(5);

/// Connects until that becomes of it, each time with more patience.
pub fn reaches_at_last(address: impl Into<IpAddr>, port: u16, expected: Reached) {
    let (address, deadline) = (address.into(), Instant::now() + PATIENCE);
    let mut patience = briefly();
    while connect(address, port).within(patience) != expected {
        assert!(Instant::now() < deadline, "{address} {port}: {expected:?}");
        patience = (patience * 2).min(PATIENCE);
        thread::sleep(BETWEEN);
    }
}
