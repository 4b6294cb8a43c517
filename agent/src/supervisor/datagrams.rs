//! Published ports of UDP: datagrams to a port of the host's loopback go on to the task, its answers back.
//!
//! As with TCP ([`super::forward`]) the bound sockets also keep the port reserved. What comes to the host's other
//! addresses, the network leads past here. Datagrams have no end: each sender has a socket of its own, by which the
//! task tells it from others, until it has been silent for a while or more come than there is room for.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::forward::reserve_udp;
use super::protocol::Publish;

/// The senders that are remembered at once. With one more, the one that has been silent for longest is forgotten.
const MOST_SENDERS: usize = 64;

/// How long a sender is remembered after its last datagram or answer: as Docker's proxy has it.
const SILENCE: Duration = Duration::from_secs(90);

/// How many datagrams are moved before others have their turn.
const BURST: usize = 64;

/// As large as a datagram can be.
const LARGEST: usize = 64 << 10;

/// The ports of UDP that lead to a task, and who has sent to them lately.
pub struct Datagrams {
    ports: Vec<Port>,
    senders: Vec<Sender>,
    buffer: Vec<u8>,
}

struct Port {
    socket: UdpSocket,
    target: SocketAddrV4,
}

struct Sender {
    /// Where it sends to: one of the ports.
    port: usize,
    address: SocketAddr,
    /// What it sends goes on from here, and answers come back here.
    socket: UdpSocket,
    last: Instant,
}

/// Where datagrams have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// To one of the ports.
    Port(usize),
    /// From the task, for this sender to that port.
    Answer(usize, SocketAddr),
}

impl Datagrams {
    /// None yet.
    pub fn new() -> Self {
        Self {
            ports: Vec::new(),
            senders: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Takes a port in both families, where the host has IPv6.
    pub fn bind(&mut self, publish: &Publish, task: Ipv4Addr) -> anyhow::Result<()> {
        let target = SocketAddrV4::new(task, publish.container_port);
        for socket in reserve_udp(publish)? {
            socket.set_nonblocking(true)?;
            self.ports.push(Port { socket, target });
        }
        Ok(())
    }

    /// What to wait for.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        let ports = self.ports.iter().enumerate();
        let ports = ports.map(|(i, port)| (Source::Port(i), port.socket.as_fd()));
        let senders = self.senders.iter().map(|sender| {
            let source = Source::Answer(sender.port, sender.address);
            (source, sender.socket.as_fd())
        });
        ports.chain(senders)
    }

    /// Moves on what has come there. What can't be moved is lost, as datagrams may be.
    pub fn pump(&mut self, source: Source) {
        // A task without such ports pays for no buffer.
        self.buffer.resize(LARGEST, 0);
        for _ in 0..BURST {
            let moved = match source {
                Source::Port(i) => self.forward(i),
                Source::Answer(i, address) => self.answer(i, address),
            };
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Such as of a port that nobody listens on in the task: told once, and then over.
                Err(_) | Ok(()) => {}
            }
        }
    }

    fn forward(&mut self, i: usize) -> io::Result<()> {
        let port = self.ports.get(i).ok_or(io::ErrorKind::WouldBlock)?;
        let (length, from) = port.socket.recv_from(&mut self.buffer)?;
        // What the network should have led elsewhere is not for us to let in.
        if !from.ip().is_loopback() {
            return Ok(());
        }
        let target = port.target;
        let at = match self.find(i, from) {
            Some(at) => at,
            None => self.remember(i, from, target)?,
        };
        if let Some(sender) = self.senders.get_mut(at) {
            sender.last = Instant::now();
            let datagram = self.buffer.get(..length).unwrap_or_default();
            lose_if_full(sender.socket.send(datagram))?;
        }
        Ok(())
    }

    fn answer(&mut self, i: usize, address: SocketAddr) -> io::Result<()> {
        let at = self.find(i, address).ok_or(io::ErrorKind::WouldBlock)?;
        let sender = self.senders.get_mut(at).ok_or(io::ErrorKind::WouldBlock)?;
        let (length, from) = sender.socket.recv_from(&mut self.buffer)?;
        // What came before the socket was connected may be anybody's.
        if sender.socket.peer_addr()? != from {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        sender.last = Instant::now();
        if let Some(port) = self.ports.get(i) {
            let datagram = self.buffer.get(..length).unwrap_or_default();
            lose_if_full(port.socket.send_to(datagram, address))?;
        }
        Ok(())
    }

    fn find(&self, port: usize, address: SocketAddr) -> Option<usize> {
        let is_it = |sender: &Sender| sender.port == port && sender.address == address;
        self.senders.iter().position(is_it)
    }

    /// Makes room for a sender, and its socket.
    fn remember(
        &mut self,
        port: usize,
        address: SocketAddr,
        target: SocketAddrV4,
    ) -> io::Result<usize> {
        self.senders
            .retain(|sender| sender.last.elapsed() < SILENCE);
        if self.senders.len() >= MOST_SENDERS {
            let ages = self.senders.iter().enumerate();
            let oldest = ages.min_by_key(|(_, sender)| sender.last);
            if let Some((oldest, _)) = oldest {
                self.senders.swap_remove(oldest);
            }
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(target)?;
        self.senders.push(Sender {
            port,
            address,
            socket,
            last: Instant::now(),
        });
        Ok(self.senders.len() - 1)
    }
}

/// A socket that can't take a datagram now isn't one from which nothing comes.
fn lose_if_full(sent: io::Result<usize>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use berth_netns::PortProtocol;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Datagrams from a free port of loopback to a server of the test's; the port, and the server.
    fn world() -> (Datagrams, u16, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let free = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let publish = Publish {
            host_port: free.port(),
            container_port: server.local_addr().unwrap().port(),
            protocol: PortProtocol::Udp,
            everywhere: false,
        };
        let mut datagrams = Datagrams::new();
        datagrams.bind(&publish, Ipv4Addr::LOCALHOST).unwrap();
        (datagrams, free.port(), server)
    }

    /// Waits until one of them has something; which have.
    fn wait(fds: &[BorrowedFd<'_>]) -> Vec<bool> {
        let fds = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> = fds.collect();
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        assert!(poll(&mut fds, patience).unwrap() > 0, "nothing comes");
        fds.iter().map(|fd| fd.any().unwrap()).collect()
    }

    /// Moves what has come, as the event loop does.
    fn turn(datagrams: &mut Datagrams) {
        let (sources, fds): (Vec<Source>, Vec<_>) = datagrams.sources().unzip();
        let all = sources.into_iter().zip(wait(&fds));
        let ready: Vec<Source> = all
            .filter_map(|(source, has)| has.then_some(source))
            .collect();
        ready.into_iter().for_each(|source| datagrams.pump(source));
    }

    /// Does so until something has come to this socket.
    fn carry(datagrams: &mut Datagrams, to: &UdpSocket) {
        let has_come = |datagrams: &Datagrams| {
            let fds = datagrams.sources().map(|(_, fd)| fd);
            let fds: Vec<_> = fds.chain([to.as_fd()]).collect();
            wait(&fds).pop().unwrap()
        };
        while !has_come(datagrams) {
            turn(datagrams);
        }
    }

    fn client(port: u16, family: &str) -> UdpSocket {
        let client = UdpSocket::bind((family, 0)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect((family, port)).unwrap();
        client
    }

    #[test]
    fn each_sender_gets_the_answers_to_its_own_questions() {
        let (mut datagrams, port, server) = world();
        let clients = ["127.0.0.1", "::1", "127.0.0.1"].map(|family| client(port, family));
        let mut buffer = [0; 16];
        for (i, client) in (0u8..).zip(&clients) {
            client.send(&[i]).unwrap();
            carry(&mut datagrams, &server);
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], [i]);
            server.send_to(&[i, i], from).unwrap();
        }
        for (i, client) in (0u8..).zip(&clients) {
            carry(&mut datagrams, client);
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], [i, i]);
        }
    }

    #[test]
    fn there_is_room_for_so_many_senders_and_the_longest_silent_one_makes_it() {
        let (mut datagrams, port, _server) = world();
        let clients: Vec<UdpSocket> = (0..=MOST_SENDERS)
            .map(|_| client(port, "127.0.0.1"))
            .collect();
        for client in &clients {
            client.send(b"x").unwrap();
            turn(&mut datagrams);
        }
        assert_eq!(datagrams.senders.len(), MOST_SENDERS);
        let is_known = |client: &UdpSocket| {
            let address = client.local_addr().unwrap();
            let mut senders = datagrams.senders.iter();
            senders.any(|sender| sender.address == address)
        };
        assert!(!is_known(&clients[0]));
        assert!(clients[1..].iter().all(is_known));
    }

    #[test]
    fn a_task_where_nobody_listens_is_no_trouble_to_later_senders() {
        let (mut datagrams, port, server) = world();
        let address = server.local_addr().unwrap();
        drop(server);
        let client = client(port, "127.0.0.1");
        client.send(b"lost").unwrap();
        turn(&mut datagrams);
        turn(&mut datagrams);
        let server = UdpSocket::bind(address).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(b"found").unwrap();
        carry(&mut datagrams, &server);
        let mut buffer = [0; 16];
        let (length, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"found");
    }
}
