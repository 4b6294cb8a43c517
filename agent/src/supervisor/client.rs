//! The agent's end of a supervisor's socket.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::connection::line_of;
use super::protocol::{Files, Message, PROTOCOL, Request};

/// A connection to a supervisor that lives.
pub struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    /// Things that could not be done as asked and were let pass.
    pub warnings: Vec<String>,
}

impl Client {
    /// Connects. `Ok(None)` where no supervisor lives.
    pub async fn connect(files: &Files) -> io::Result<Option<Self>> {
        let stream = match UnixStream::connect(files.socket()).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (reader, writer) = stream.into_split();
        let mut client = Self {
            lines: BufReader::new(reader).lines(),
            writer,
            warnings: Vec::new(),
        };
        match client.next().await? {
            Some(Message::Hello {
                protocol, warnings, ..
            }) if protocol <= PROTOCOL => {
                client.warnings = warnings;
                Ok(Some(client))
            }
            Some(Message::Hello { protocol, .. }) => Err(io::Error::other(format!(
                "the task's supervisor speaks protocol {protocol}, newer than this agent's {PROTOCOL}; use the newer berth"
            ))),
            // It died while it started: its log says why.
            None => Ok(None),
            Some(other) => Err(io::Error::other(format!(
                "the supervisor began with {other:?}"
            ))),
        }
    }

    /// The next message; `None` when the supervisor is gone.
    pub async fn next(&mut self) -> io::Result<Option<Message>> {
        match self.lines.next_line().await {
            Ok(Some(line)) => Ok(Some(serde_json::from_str(&line)?)),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for something. A supervisor that is gone says so by [`Client::next`].
    pub async fn send(&mut self, request: &Request) -> io::Result<()> {
        let line = line_of(request)?;
        match self.writer.write_all(&line).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}
