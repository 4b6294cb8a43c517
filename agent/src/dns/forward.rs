//! Asking the host's resolvers what isn't answered here.
//!
//! Each attempt is a socket of its own, so that its port is the kernel's random choice, connected
//! to one resolver, so that the kernel keeps answers of others away; and a number of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, iter, mem};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::host_resolvers::HostResolvers;
use super::message::{Asked, Reply};

/// How long one resolver has for an answer, before the next is asked.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// How long a query takes at most. Clients give up after five seconds (resolv.conf(5)): they shall
/// learn that nobody answers before that.
const PATIENCE: Duration = Duration::from_millis(4500);

/// How long it takes to ask again when nobody is there, as while a resolver restarts.
const PAUSE: Duration = Duration::from_millis(300);

/// The rounds over all resolvers, which is a second of pauses where nobody is there. Silence ends
/// the patience before.
const ROUNDS: usize = 4;

/// How many queries are asked at once, each with a socket; further ones wait for their turn.
const AT_ONCE: usize = 256;

/// The most that is read of a datagram. Ours ask for less.
const DATAGRAM: usize = 4096;

/// Asks the host's resolvers.
#[derive(Debug)]
pub struct Forwarder {
    resolvers: HostResolvers,
    turns: Semaphore,
    /// How many times the first resolver gave no answer, which makes the next one the first.
    silences: AtomicUsize,
}

impl Forwarder {
    /// Asks these.
    pub fn new(resolvers: HostResolvers) -> Self {
        Self {
            resolvers,
            turns: Semaphore::new(AT_ONCE),
            silences: AtomicUsize::new(0),
        }
    }

    /// What the resolvers answer; SERVFAIL where none does.
    pub async fn ask(&self, asked: &Asked) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        let answer = async {
            let _turn = self.turns.acquire().await;
            self.ask_all(asked, deadline).await
        };
        let answer = timeout_at(deadline, answer).await.ok().flatten();
        answer.unwrap_or_else(|| Reply::code(ResponseCode::ServFail))
    }

    /// Asks one after the other until one has an answer. One that can't find out isn't asked
    /// again; what it said stands if no other knows more.
    async fn ask_all(&self, asked: &Asked, deadline: Instant) -> Option<Reply> {
        let mut failed: Vec<(SocketAddr, Reply)> = Vec::new();
        let mut refused = false;
        for _ in 0..ROUNDS {
            if mem::take(&mut refused) {
                sleep(PAUSE).await;
            }
            let resolvers = self.resolvers.now();
            let count = resolvers.0.len();
            let first = self.silences.load(Ordering::Relaxed);
            let in_turn = resolvers.0.iter().cycle().skip(first % count.max(1));
            for (position, resolver) in in_turn.take(count).enumerate() {
                if failed.iter().any(|(other, _)| other == resolver) {
                    continue;
                }
                match exchange(*resolver, asked).await {
                    Ok(reply) if is_failure(reply.code) => failed.push((*resolver, reply)),
                    Ok(reply) => return Some(reply),
                    Err(error) => {
                        refused |= error.kind() != io::ErrorKind::TimedOut;
                        self.note_silence(first, position);
                    }
                }
            }
            if failed.len() >= count || Instant::now() + PAUSE >= deadline {
                break;
            }
        }
        failed.into_iter().next().map(|(_, reply)| reply)
    }

    /// Lets later queries begin with the next resolver, once for all that found the first silent.
    fn note_silence(&self, first: usize, position: usize) {
        if position == 0 {
            let next = first.wrapping_add(1);
            let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
            self.silences.compare_exchange(first, next, set, read).ok();
        }
    }
}

/// A resolver that says this may know less than the next one.
fn is_failure(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

/// Asks one resolver: by datagram, then over TCP for what doesn't fit one.
async fn exchange(resolver: SocketAddr, asked: &Asked) -> io::Result<Reply> {
    let mut answer = timeout(ATTEMPT, by_datagram(resolver, asked, true)).await??;
    if knows_no_edns(&answer) {
        answer = timeout(ATTEMPT, by_datagram(resolver, asked, false)).await??;
    }
    if answer.metadata.truncation
        && let Ok(Ok(whole)) = timeout(ATTEMPT, over_tcp(resolver, asked)).await
    {
        answer = whole;
    }
    Ok(Reply {
        code: answer.metadata.response_code,
        authoritative: false,
        authentic_data: answer.metadata.authentic_data,
        // Where TCP fails, a part is more than nothing.
        truncated: answer.metadata.truncation,
        answers: answer.answers,
        authorities: answer.authorities,
        additionals: answer.additionals,
    })
}

async fn by_datagram(resolver: SocketAddr, asked: &Asked, edns: bool) -> io::Result<Message> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let (id, query) = query(asked, edns)?;
    socket.send(&query).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if let Some(answer) = answer_to(asked, id, bytes) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, asked: &Asked) -> io::Result<Message> {
    let (id, query) = query(asked, true)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    let framed: Vec<u8> = length.to_be_bytes().into_iter().chain(query).collect();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut bytes: Vec<u8> = iter::repeat_n(0, length.into()).collect();
    stream.read_exact(&mut bytes).await?;
    let answer = answer_to(asked, id, &bytes);
    answer.ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The query for a resolver, and the number that its answer must have.
fn query(asked: &Asked, edns: bool) -> io::Result<(u16, Vec<u8>)> {
    let [a, b, ..] = getrandom::u32().map_err(io::Error::other)?.to_ne_bytes();
    let id = u16::from_ne_bytes([a, b]);
    let query = asked.to_upstream(id, edns);
    let query = query.ok_or_else(|| io::Error::other("the question can't be put"))?;
    Ok((id, query))
}

/// The answer in these bytes, if it is one to our question. Who can't read a question may leave it
/// out of the answer.
fn answer_to(asked: &Asked, id: u16, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let ours = message.metadata.id == id && message.metadata.message_type == MessageType::Response;
    let same_question = match message.queries.as_slice() {
        [] => knows_no_edns(&message),
        [question] => *question == asked.question,
        _ => false,
    };
    (ours && same_question).then_some(message)
}

/// What an old server says of EDNS (RFC 6891, section 7).
fn knows_no_edns(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
}
