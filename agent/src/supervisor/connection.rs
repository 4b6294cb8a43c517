//! One end of the supervisor's socket: lines of JSON in and out, and descriptors that come along.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// The longest line that is taken; a longer one ends the connection.
const LONGEST: usize = 1 << 20;

/// A connection, from either side.
pub struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// Wraps a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// Sends one message. A peer that doesn't read is given up: the socket's buffer holds far
    /// more than a task has to say.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let line = line_of(message)?;
        self.stream.write_all(&line)
    }

    /// Sends one message with descriptors.
    pub fn send_with(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let line = line_of(message)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(&line)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        self.stream.write_all(line.get(sent..).unwrap_or_default())
    }

    /// Reads what has come. `Ok(false)` when the peer is gone.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        ) {
            Ok(received) => received.bytes,
            Err(error) if error == rustix::io::Errno::AGAIN => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.inbox
            .extend_from_slice(bytes.get(..received).unwrap_or_default());
        if self.inbox.len() > LONGEST || self.descriptors.len() > 8 {
            return Err(io::Error::other(
                "the peer sends more than the protocol has",
            ));
        }
        Ok(received > 0)
    }

    /// The next whole message, if one has come.
    pub fn message<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(end) = self.inbox.iter().position(|&byte| byte == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.inbox.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Whether a whole message has come.
    pub fn has_message(&self) -> bool {
        self.inbox.contains(&b'\n')
    }

    /// The descriptors that have come.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A message as it goes over the socket.
pub fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
