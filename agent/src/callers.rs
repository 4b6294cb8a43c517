//! A TCP listener at which nobody holds more than a share of the connections, or one for ever.
//!
//! Containers reach the metadata endpoint, and every user of the host the API's port, before they
//! have proved anything. Each connection is a descriptor of the agent's: without a limit, one task
//! could take them all, and the agent could neither pull nor reach its supervisors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

use crate::shares::{Place, Shares};

/// How long a caller may say nothing. Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// The listener.
pub struct Callers {
    inner: TcpListener,
    open: Shares,
}

impl Callers {
    /// Lets each address have `most` connections at once; a further one is closed.
    pub fn new(inner: TcpListener, most: usize) -> Self {
        Self {
            inner,
            open: Shares::new(most),
        }
    }
}

impl Listener for Callers {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.inner).await;
            if let Some(place) = self.open.take(counted_as(peer.ip())) {
                let connection = Connection {
                    stream,
                    patience: Box::pin(tokio::time::sleep(PATIENCE)),
                    _place: place,
                };
                return (connection, peer);
            }
            tracing::debug!(%peer, "has too many connections open");
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection, which ends when its caller is silent for too long.
pub struct Connection {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    _place: Place,
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            this.patience.as_mut().reset(Instant::now() + PATIENCE);
            return Poll::Ready(result);
        }
        this.patience
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Whose share a caller's is: all of loopback's addresses are one user's of the host.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical().is_loopback() {
        true => Ipv4Addr::LOCALHOST.into(),
        false => address,
    }
}

/// Who is calling.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub IpAddr);

impl Connected<IncomingStream<'_, Callers>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Callers>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn answer(stream: &mut TcpStream) -> String {
        let mut bytes = [0; 12];
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .ok();
        let n = stream.read(&mut bytes).await.unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[tokio::test]
    async fn a_caller_with_too_many_connections_gets_no_more_until_one_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(|| async { "here" });
        tokio::spawn(async move { axum::serve(Callers::new(listener, 2), router).await });
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(answer(&mut held[1]).await, "HTTP/1.1 200");
        let mut further = TcpStream::connect(address).await.unwrap();
        assert_eq!(answer(&mut further).await, "");
        assert_eq!(answer(&mut held[0]).await, "HTTP/1.1 200");
        held.clear();
        // The server learns of the ends in its own time.
        for _ in 0..3_000 {
            let mut next = TcpStream::connect(address).await.unwrap();
            if answer(&mut next).await == "HTTP/1.1 200" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("a connection that ended still counts");
    }

    #[test]
    fn all_of_loopback_is_one_caller() {
        let of = |text: &str| counted_as(text.parse().unwrap());
        for text in ["127.0.0.2", "127.255.0.1", "::1", "::ffff:127.0.0.3"] {
            assert_eq!(of(text), of("127.0.0.1"), "{text}");
        }
        assert_ne!(of("10.231.0.4"), of("10.231.0.5"));
    }
}
