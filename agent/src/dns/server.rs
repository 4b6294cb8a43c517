//! The resolver's sockets: UDP and TCP at the address of each subnet's resolver, from the start of
//! the agent to its end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::serve::Listener;
use hickory_proto::op::ResponseCode;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::forward::Forwarder;
use super::host_resolvers::HostResolvers;
use super::local::{self, Decision};
use super::message::{Asked, Reply, Request};
use super::names::Names;
use super::sockets::Sockets;
use crate::callers::Callers;
use crate::shares::Shares;

/// The resolver's port.
pub const PORT: u16 = 53;

/// The queries of one task that others are asked at once. Further ones are dropped, and come again:
/// clients repeat what gets no answer.
const MOST_QUERIES: usize = 64;

/// The TCP connections of one task.
const MOST_CONNECTIONS: usize = 16;

/// The TCP connections of all tasks: each is a descriptor, which the agent needs for more than this.
const ALL_CONNECTIONS: usize = 256;

/// How long a TCP connection may be silent, and how long its client may take to read an answer.
const SILENCE: Duration = Duration::from_secs(10);

/// How long to wait after a socket failed. It is kept: another one would lose what is in it.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Where the resolver is, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of each subnet's resolver.
    pub addresses: Vec<IpAddr>,
    /// The port: 53, but in tests.
    pub port: u16,
    /// Who is answered: the subnets' ranges. The firewall lets nobody else here, and this holds
    /// where it doesn't.
    pub clients: Vec<IpNet>,
    /// The file with the host's own resolvers.
    pub host_resolvers: PathBuf,
}

/// The resolver, with its sockets bound and nothing read from them yet.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    service: Arc<Service>,
}

#[derive(Debug)]
struct Service {
    names: Arc<Names>,
    forwarder: Forwarder,
    clients: Vec<IpNet>,
    queries: Shares,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Takes the addresses, exactly: a socket of all addresses would answer from another one than
    /// it was asked at. What is asked meanwhile waits for [`Server::serve`].
    pub async fn bind(
        settings: Settings,
        names: Arc<Names>,
        mut left: Sockets,
    ) -> anyhow::Result<Self> {
        let mut sockets = Vec::new();
        for ip in &settings.addresses {
            let address = SocketAddr::new(*ip, settings.port);
            let bound = left.at(address).await;
            sockets.push(bound.with_context(|| {
                format!(
                    "listening for the tasks' DNS queries on {address}; a DNS server of the host that has port {} of \
                     all addresses must leave this one",
                    settings.port
                )
            })?);
        }
        let resolvers = HostResolvers::new(settings.host_resolvers, settings.addresses);
        let service = Service {
            names,
            forwarder: Forwarder::new(resolvers),
            clients: settings.clients,
            queries: Shares::new(MOST_QUERIES),
            connections: Arc::new(Semaphore::new(ALL_CONNECTIONS)),
        };
        Ok(Self {
            sockets,
            service: Arc::new(service),
        })
    }

    /// Answers, to the end of the process.
    pub async fn serve(self) {
        let mut loops = JoinSet::new();
        for (datagrams, connections) in self.sockets {
            let service = Arc::clone(&self.service);
            loops.spawn(Arc::clone(&service).serve_datagrams(Arc::new(datagrams)));
            loops.spawn(service.serve_connections(connections));
        }
        loops.join_all().await;
    }
}

impl Service {
    async fn serve_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "receiving DNS queries");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            if self.admits(from.ip()) {
                let bytes = buffer.get(..length).unwrap_or_default();
                self.take_datagram(&socket, bytes, from).await;
            }
        }
    }

    /// Answers a datagram: at once, or when others have been asked.
    async fn take_datagram(
        self: &Arc<Self>,
        socket: &Arc<UdpSocket>,
        bytes: &[u8],
        from: SocketAddr,
    ) {
        let asked = match Request::read(bytes) {
            Request::Asked(asked) => asked,
            Request::Refused(answer) => return send(socket, &answer, from).await,
            Request::Ignored => return,
        };
        let limit = asked.datagram_limit();
        match local::decide(&asked, &self.names) {
            Decision::Answer(reply) => send(socket, &asked.answer(&reply, limit), from).await,
            Decision::Forward => {
                let Some(place) = self.queries.take(from.ip()) else {
                    tracing::debug!(%from, "asks too much at once");
                    return;
                };
                let (service, socket) = (Arc::clone(self), Arc::clone(socket));
                tokio::spawn(async move {
                    let reply = service.forwarder.ask(&asked).await;
                    send(&socket, &asked.answer(&reply, limit), from).await;
                    drop(place);
                });
            }
        }
    }

    async fn serve_connections(self: Arc<Self>, listener: TcpListener) {
        let mut callers = Callers::new(listener, MOST_CONNECTIONS);
        loop {
            let (connection, from) = callers.accept().await;
            let place = Arc::clone(&self.connections).try_acquire_owned();
            if let Ok(place) = place
                && self.admits(from.ip())
            {
                let service = Arc::clone(&self);
                tokio::spawn(async move {
                    // How it ended is the client's business.
                    service.converse(connection, from.ip()).await.ok();
                    drop(place);
                });
            }
        }
    }

    /// Answers the queries of a connection one by one, until its client ends it or is silent.
    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        from: IpAddr,
    ) -> io::Result<()> {
        let mut query = Vec::new();
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                query.resize(length.into(), 0);
                stream.read_exact(&mut query).await
            };
            timeout(SILENCE, read).await??;
            let answer = match Request::read(&query) {
                Request::Asked(asked) => asked.answer(&self.resolve(&asked, from).await, u16::MAX),
                Request::Refused(answer) => answer,
                Request::Ignored => return Ok(()),
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            // In one piece: the client may wait for a second segment that comes late.
            let framed: Vec<u8> = length.to_be_bytes().into_iter().chain(answer).collect();
            timeout(SILENCE, stream.write_all(&framed)).await??;
        }
    }

    async fn resolve(&self, asked: &Asked, from: IpAddr) -> Reply {
        match local::decide(asked, &self.names) {
            Decision::Answer(reply) => reply,
            Decision::Forward => match self.queries.take(from) {
                Some(_place) => self.forwarder.ask(asked).await,
                None => Reply::code(ResponseCode::ServFail),
            },
        }
    }

    /// The tasks, and the host itself.
    fn admits(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.clients.iter().any(|range| range.contains(&address))
    }
}

/// Sends an answer from the address that was asked. Who can't be reached asks again.
async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, %error, "sending a DNS answer");
    }
}
