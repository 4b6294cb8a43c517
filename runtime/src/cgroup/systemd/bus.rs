//! A connection to systemd: to its private socket, or over a D-Bus daemon.
//!
//! A client of our own, since six calls are all that is needed. The crates for D-Bus bring an async
//! runtime and threads (zbus), a C library (dbus), or older versions of what is here already (rustbus);
//! a container's start would wait for what they set up.

use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use thiserror::Error as ThisError;

use super::message::{self, Call, Incoming};
use super::place::{Address, Manager, Place, places};
use super::value::Value;

/// How long one conversation may take: a host that starts hundreds of units at once takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why talking to systemd failed.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum BusError {
    /// Nobody answers at any of the places.
    #[error("connect to systemd: {tried}")]
    Connect {
        /// Each place with what came of it.
        tried: String,
    },
    /// The connection broke.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The other side doesn't speak D-Bus as specified.
    #[error("{doing}: systemd's answer is not in D-Bus's form")]
    Form {
        /// What was being done.
        doing: &'static str,
    },
    /// It took too long.
    #[error("{doing}: no answer within {} s: systemd is busy or stuck", PATIENCE.as_secs())]
    Timeout {
        /// What was being done.
        doing: &'static str,
    },
    /// systemd refused.
    #[error("{doing}: {text} ({name})")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The error's name.
        name: String,
        /// Its text.
        text: String,
    },
}

impl BusError {
    pub(super) fn is_named(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Signals that came while a reply was waited for.
    signals: VecDeque<(String, Vec<u8>)>,
    deadline: Instant,
}

impl Connection {
    /// Connects to the first place that answers.
    pub(super) fn open(manager: Manager) -> Result<Self, BusError> {
        let mut tried = Vec::new();
        for place in places(manager) {
            match Self::at(&place) {
                Ok(connection) => return Ok(connection),
                Err(error) => tried.push(format!("{place:?}: {error}")),
            }
        }
        if tried.is_empty() {
            tried.push("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set".to_owned());
        }
        Err(BusError::Connect {
            tried: tried.join("; "),
        })
    }

    fn at(place: &Place) -> Result<Self, BusError> {
        let connect = || match place {
            Place::Private(path) | Place::Bus(Address::Path(path)) => UnixStream::connect(path),
            Place::Bus(Address::Abstract(name)) => {
                UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
            }
        };
        let stream = connect().map_err(|source| BusError::Io {
            doing: "connect",
            source,
        })?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            serial: 0,
            signals: VecDeque::new(),
            deadline: Instant::now() + PATIENCE,
        };
        connection.authenticate()?;
        if let Place::Bus(_) = place {
            connection.join_bus()?;
        }
        Ok(connection)
    }

    /// We are who the kernel says; no name is given, since in a user namespace ours is another than the
    /// one that the other side sees.
    fn authenticate(&mut self) -> Result<(), BusError> {
        const DOING: &str = "authenticate to systemd";
        self.write(DOING, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = self.read_line(DOING)?;
            match line.split(' ').next() {
                Some("OK") => return Ok(()),
                Some("DATA") => {}
                _ => {
                    return Err(BusError::Refused {
                        doing: DOING,
                        name: "REJECTED".to_owned(),
                        text: line,
                    });
                }
            }
        }
    }

    fn read_line(&mut self, doing: &'static str) -> Result<String, BusError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.read_exact(doing, &mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// A daemon gives out names, and passes on only the signals that are asked for.
    fn join_bus(&mut self) -> Result<(), BusError> {
        let call = |member, arguments| Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            arguments,
        };
        self.call("say hello to the bus", &call("Hello", vec![]))?;
        let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        let rule = vec![Value::text(rule)];
        self.call("ask the bus for signals", &call("AddMatch", rule))?;
        self.manager_call("ask systemd for signals", "Subscribe", vec![])?;
        Ok(())
    }

    /// Calls a method of systemd's manager.
    pub(super) fn manager_call(
        &mut self,
        doing: &'static str,
        member: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Vec<u8>, BusError> {
        let call = Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member,
            arguments,
        };
        self.call(doing, &call)
    }

    /// Makes a call and waits for its reply, whose body it returns.
    fn call(&mut self, doing: &'static str, call: &Call) -> Result<Vec<u8>, BusError> {
        self.serial += 1;
        let serial = self.serial;
        self.write(doing, &call.marshal(serial))?;
        loop {
            match self.receive(doing)? {
                Incoming::Return { to, body } if to == serial => return Ok(body),
                Incoming::Error { to, name, text } if to == serial => {
                    return Err(BusError::Refused { doing, name, text });
                }
                Incoming::Signal { member, body } => self.signals.push_back((member, body)),
                _ => {}
            }
        }
    }

    /// The next signal of this name.
    pub(super) fn signal(&mut self, doing: &'static str, name: &str) -> Result<Vec<u8>, BusError> {
        while let Some((member, body)) = self.signals.pop_front() {
            if member == name {
                return Ok(body);
            }
        }
        loop {
            match self.receive(doing)? {
                Incoming::Signal { member, body } if member == name => return Ok(body),
                _ => {}
            }
        }
    }

    fn receive(&mut self, doing: &'static str) -> Result<Incoming, BusError> {
        let malformed = || BusError::Form { doing };
        let mut bytes = vec![0; message::FIXED];
        self.read_exact(doing, &mut bytes)?;
        let length = message::length(&bytes).ok_or_else(malformed)?;
        bytes.resize(length, 0);
        let rest = bytes.get_mut(message::FIXED..).ok_or_else(malformed)?;
        self.read_exact(doing, rest)?;
        message::parse(&bytes).ok_or_else(malformed)
    }

    fn write(&mut self, doing: &'static str, bytes: &[u8]) -> Result<(), BusError> {
        let left = self.time_left(doing)?;
        let stream = self.stream.get_mut();
        let written = stream.set_write_timeout(Some(left));
        written
            .and_then(|()| stream.write_all(bytes))
            .map_err(|error| io_error(doing, error))
    }

    fn read_exact(&mut self, doing: &'static str, bytes: &mut [u8]) -> Result<(), BusError> {
        // What has come already takes no call of the kernel's.
        if self.stream.buffer().len() < bytes.len() {
            let left = self.time_left(doing)?;
            let set = self.stream.get_ref().set_read_timeout(Some(left));
            set.map_err(|error| io_error(doing, error))?;
        }
        let read = self.stream.read_exact(bytes);
        read.map_err(|error| io_error(doing, error))
    }

    fn time_left(&self, doing: &'static str) -> Result<Duration, BusError> {
        let left = self.deadline.checked_duration_since(Instant::now());
        left.filter(|left| !left.is_zero())
            .ok_or(BusError::Timeout { doing })
    }
}

fn io_error(doing: &'static str, source: std::io::Error) -> BusError {
    match source.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => BusError::Timeout { doing },
        _ => BusError::Io { doing, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to a peer that has said something already.
    fn connection(said: &[u8]) -> (Connection, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        let connection = Connection {
            stream: BufReader::new(ours),
            serial: 0,
            signals: VecDeque::new(),
            deadline: Instant::now() + Duration::from_secs(60),
        };
        (connection, theirs)
    }

    #[test]
    fn a_peer_that_hangs_up_or_rejects_us_or_talks_nonsense_is_an_error() {
        let (mut gone, peer) = connection(b"");
        drop(peer);
        assert!(matches!(gone.authenticate(), Err(BusError::Io { .. })));
        let (mut rejected, _peer) = connection(b"REJECTED EXTERNAL\r\n");
        let error = rejected.authenticate().unwrap_err();
        assert!(error.to_string().contains("REJECTED"), "{error}");
        let (mut confused, _peer) = connection(&[0xff; 64]);
        let received = confused.receive("test");
        assert!(matches!(received, Err(BusError::Form { .. })));
    }

    #[test]
    fn a_handshake_may_be_followed_by_a_message_at_once() {
        let call = Call {
            destination: "a.b",
            path: "/a",
            interface: "a.b",
            member: "Hi",
            arguments: vec![],
        };
        let mut said = b"DATA\r\nOK 1234\r\n".to_vec();
        said.extend(call.marshal(1));
        let (mut connection, _peer) = connection(&said);
        connection.authenticate().unwrap();
        assert_eq!(connection.receive("test").unwrap(), Incoming::Other);
    }

    #[test]
    fn a_peer_that_says_nothing_is_not_waited_for_forever() {
        let (mut silent, _peer) = connection(b"");
        silent.deadline = Instant::now() + Duration::from_millis(200);
        let heard = silent.signal("test", "x");
        assert!(matches!(heard, Err(BusError::Timeout { doing: "test" })));
    }
}
