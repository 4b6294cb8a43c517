//! A connection to the system's D-Bus, for one short conversation.
//!
//! A client of our own, since there are three calls to make, of strings alone, and only where firewalld is. The crates
//! for D-Bus bring an async runtime, which this crate has none of (zbus; and 1.3 MB of a static program, beside tokio),
//! or a C library (dbus).
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::message::{Call, FIXED, Reply, Start};

/// Where the system's bus listens.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// Why a conversation over D-Bus failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// There is no bus, or the connection broke.
    #[error("{doing} {SOCKET}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The other side doesn't speak D-Bus as specified.
    #[error("what came over {SOCKET} is not in D-Bus's form")]
    Form,
    /// It took too long.
    #[error("no answer to {member} in time: it is busy or stuck")]
    Timeout {
        /// The method that was called.
        member: String,
    },
    /// It was refused.
    #[error("{member}: {text} ({name})")]
    Refused {
        /// The method that was called.
        member: String,
        /// The error's name.
        name: String,
        /// Its text.
        text: String,
    },
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// When patience with all that is done over it ends.
    deadline: Instant,
    /// What is being called.
    member: String,
}

impl Bus {
    /// Connects, for a conversation that ends before the deadline.
    pub(super) fn open(deadline: Instant) -> Result<Self, BusError> {
        let mut bus = Self {
            stream: connected(deadline)?,
            serial: 0,
            deadline,
            member: "AUTH".to_owned(),
        };
        bus.authenticate()?;
        bus.call(&Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            arguments: &[],
        })?;
        Ok(bus)
    }

    /// Makes a call and waits for its reply: the text that it begins with.
    pub(super) fn call(&mut self, call: &Call<'_>) -> Result<String, BusError> {
        call.member.clone_into(&mut self.member);
        self.serial += 1;
        let serial = self.serial;
        self.write(&call.marshal(serial))?;
        loop {
            match self.next(serial)? {
                Some(Reply::Return(text)) => return Ok(text),
                Some(Reply::Error { name, text }) => {
                    let member = self.member.clone();
                    return Err(BusError::Refused { member, name, text });
                }
                Some(Reply::Malformed) => return Err(BusError::Form),
                None => {}
            }
        }
    }

    /// We are who the kernel says.
    fn authenticate(&mut self) -> Result<(), BusError> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = self.read_line()?;
            match line.split(' ').next() {
                Some("OK") => return Ok(()),
                Some("DATA") => {}
                _ => {
                    return Err(BusError::Refused {
                        member: self.member.clone(),
                        name: "REJECTED".to_owned(),
                        text: line,
                    });
                }
            }
        }
    }

    fn read_line(&mut self) -> Result<String, BusError> {
        const LONGEST: usize = 1024;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < LONGEST {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Reads a message, whatever it is: each user of the machine may send us signals.
    fn next(&mut self, serial: u32) -> Result<Option<Reply>, BusError> {
        let mut fixed = [0; FIXED];
        self.read(&mut fixed)?;
        let start = Start::read(&fixed).ok_or(BusError::Form)?;
        if !start.may_be_reply() {
            self.discard(start.rest)?;
            return Ok(None);
        }
        let mut rest = vec![0; start.rest];
        self.read(&mut rest)?;
        Ok(start.reply(&rest, serial))
    }

    fn discard(&mut self, mut length: usize) -> Result<(), BusError> {
        const PIECE: usize = 1 << 14;
        let mut buffer = [0; PIECE];
        while length > 0 {
            let (piece, _) = buffer.split_at_mut(length.min(PIECE));
            self.read(piece)?;
            length -= piece.len();
        }
        Ok(())
    }

    /// Reads until the buffer is full; each byte may come late, but all of them before the deadline.
    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), BusError> {
        const DOING: &str = "read from";
        while !buffer.is_empty() {
            let patience = self.patience()?;
            let read = self.stream.set_read_timeout(Some(patience));
            match read.and_then(|()| self.stream.read(buffer)) {
                Ok(0) => return Err(self.failed(DOING, ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = buffer.split_at_mut(count).1,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(DOING, error)),
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        let patience = self.patience()?;
        let written = self.stream.set_write_timeout(Some(patience));
        written
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(|error| self.failed("write to", error))
    }

    fn patience(&self) -> Result<Duration, BusError> {
        let member = self.member.clone();
        left(self.deadline).ok_or(BusError::Timeout { member })
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> BusError {
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => BusError::Timeout {
                member: self.member.clone(),
            },
            _ => BusError::Io { doing, source },
        }
    }
}

/// How long it is until then, if it is at all. No patience would mean endless patience.
fn left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (left >= Duration::from_millis(1)).then_some(left)
}

/// A bus that takes no more connections makes us wait, but not for ever.
fn connected(deadline: Instant) -> Result<UnixStream, BusError> {
    let connected = || -> io::Result<UnixStream> {
        let patience = left(deadline).ok_or(ErrorKind::TimedOut)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let patience = TimeVal::new(
            patience.as_secs().cast_signed(),
            patience.subsec_micros().into(),
        );
        setsockopt(&fd, SendTimeout, &patience)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(SOCKET)?)?;
        Ok(fd.into())
    };
    connected().map_err(|source| BusError::Io {
        doing: "connect to",
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const CALL: Call<'_> = Call {
        destination: "a.b",
        path: "/a",
        interface: "a.b",
        member: "Hi",
        arguments: &[],
    };

    /// What the call, of number 1, comes to after this was sent to us.
    fn called(sent: Vec<u8>) -> Result<String, BusError> {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        let mut bus = Bus {
            stream,
            serial: 0,
            deadline: Instant::now() + Duration::from_secs(90),
            member: String::new(),
        };
        let sender = thread::spawn(move || {
            theirs.write_all(&sent).ok();
            theirs
        });
        let called = bus.call(&CALL);
        drop(bus);
        sender.join().unwrap();
        called
    }

    const RETURN: &[u8] =
        b"l\x02\x01\x01\x07\0\0\0\x09\0\0\0\x10\0\0\0\x08\x01g\0\x01s\0\0\x05\x01u\0\x01\0\0\0\x02\0\0\0hi\0";

    #[test]
    fn signals_of_others_however_odd_are_passed_over() {
        let big_endian =
            b"B\x04\x01\x01\0\0\0\x05\0\0\0\x09\0\0\0\x08\x08\x01g\0\x01y\0\0abcde".to_vec();
        let unknown_field = b"l\x04\x01\x01\0\0\0\0\x09\0\0\0\x08\0\0\0\x0b\x02ai\0\0\0\0".to_vec();
        let mut long = b"l\x04\x01\x01\x03\0\x30\0\x09\0\0\0\0\0\0\0".to_vec();
        long.resize(FIXED + 0x30_0003, b'l');
        for odd in [big_endian, unknown_field, long] {
            let sent = [&odd, RETURN].concat();
            assert_eq!(called(sent).unwrap(), "hi", "{:?}", &odd[..FIXED]);
        }
    }

    #[test]
    fn what_is_no_message_or_a_broken_reply_ends_it() {
        let not_a_message = [0; FIXED].to_vec();
        let mut broken = RETURN.to_vec();
        broken[32] = 9;
        for sent in [not_a_message, broken] {
            assert!(matches!(called(sent), Err(BusError::Form)));
        }
    }
}
