//! Asking the resolver: with `dig`, and byte by byte.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use berth_agent::dns::PORT;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::world::{RESOLVER, Task, output};

/// How long an answer may take on a busy machine, where it is not the time that is tested.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `dig` says of one try.
#[derive(Debug)]
pub struct Dug {
    pub status: String,
    pub flags: Vec<String>,
    /// The records of the answer, a line each, without the name.
    pub answers: Vec<String>,
    pub text: String,
}

/// Asks once, from inside a task.
pub fn dig(task: &Task, args: &[&str]) -> Dug {
    let fixed = ["@10.231.0.2", "+tries=1", "+time=60", "+nocookie"];
    let args = [&fixed, args].concat();
    read(task.inside(|| output("dig", &args)))
}

fn read(text: String) -> Dug {
    let after = |mark: &str| {
        let rest = text.split_once(mark).map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split([',', ';']).next())
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let answers = text
        .lines()
        .skip_while(|line| *line != ";; ANSWER SECTION:");
    let answers = answers.skip(1).take_while(|line| !line.is_empty());
    let without_name = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        words.join(" ")
    };
    Dug {
        status: after("status:"),
        flags: after(";; flags:")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        answers: answers.map(without_name).collect(),
        text,
    }
}

impl Dug {
    #[track_caller]
    pub fn is(&self, status: &str, answers: &[&str]) {
        assert_eq!(
            (self.status.as_str(), self.answers.clone()),
            (status, answers.iter().map(|a| (*a).to_owned()).collect()),
            "{}",
            self.text
        );
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|other| other == flag)
    }
}

/// A question for the resolver.
pub fn query(id: u16, name: &str, wanted: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    message.queries.push(Query::query(name, wanted));
    message.to_vec().expect("it can be written")
}

/// A socket of a task, for the resolver.
pub fn socket(task: &Task) -> UdpSocket {
    socket_to(task, RESOLVER)
}

/// A socket of a task that takes answers of this address only.
pub fn socket_to(task: &Task, resolver: Ipv4Addr) -> UdpSocket {
    task.inside(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
        socket.connect((resolver, PORT)).expect("a way there");
        socket
    })
}

/// A connection of a task to the resolver.
pub fn connection(task: &Task) -> TcpStream {
    task.inside(|| TcpStream::connect((RESOLVER, PORT)).expect("connected"))
}

/// Asks on a connection; nothing where it has ended.
pub fn ask(stream: &mut TcpStream, name: &str) -> Option<Message> {
    let query = query(9, name, RecordType::A);
    let length = u16::try_from(query.len()).expect("short").to_be_bytes();
    stream.write_all(&[&length[..], &query].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).ok()?;
    Message::from_vec(&answer).ok()
}

/// The next answer, until the moment comes.
pub fn answer(socket: &UdpSocket, until: Instant) -> Option<Message> {
    let left = until.saturating_duration_since(Instant::now());
    socket
        .set_read_timeout(Some(left.max(Duration::from_millis(1))))
        .expect("a timeout");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).expect("a message"))
}

/// The addresses in an answer.
pub fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |data: &RData| match data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    let answers = message.answers.iter();
    answers.filter_map(|record| address(&record.data)).collect()
}
