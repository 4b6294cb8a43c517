//! The resolvers that the host asks: `dnsmasq`, and some that misbehave.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};

use crate::client::PATIENCE;
use crate::world::{World, inside};

/// The port that nobody answers on.
const SILENT: u16 = 5399;

/// `dnsmasq` on the host outside, until it is dropped.
///
/// `who.example` is the address that it listens on, `big.example` has a hundred addresses and
/// `text.example` a text; `*.example` is 198.51.100.7, and for what is below `slow.example` it
/// asks somebody who doesn't answer.
pub struct Dnsmasq {
    child: Child,
    log: std::path::PathBuf,
    _silent: UdpSocket,
}

impl Dnsmasq {
    pub fn start(world: &World, address: Ipv4Addr) -> Self {
        let log = world.file(&format!("dnsmasq-{address}.log"));
        let hosts = world.file("hosts");
        let big = (1..=100).map(|n| format!("198.51.100.{n} big.example\n"));
        fs::write(&hosts, big.collect::<String>()).expect("written");
        let args = [
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--no-resolv".to_owned(),
            "--no-hosts".to_owned(),
            "--user=root".to_owned(),
            "--pid-file".to_owned(),
            "--bind-interfaces".to_owned(),
            "--log-queries".to_owned(),
            format!("--log-facility={}", log.display()),
            format!("--listen-address={address}"),
            format!("--addn-hosts={}", hosts.display()),
            format!("--host-record=who.example,{address}"),
            "--address=/example/198.51.100.7".to_owned(),
            "--local=/example/".to_owned(),
            "--txt-record=text.example,hello".to_owned(),
            format!("--server=/slow.example/{address}#{SILENT}"),
        ];
        let (child, silent) = inside(&world.outside, || {
            let silent = UdpSocket::bind((address, SILENT)).expect("bound");
            let mut dnsmasq = Command::new("/usr/sbin/dnsmasq");
            let dnsmasq = dnsmasq.args(args).stdout(Stdio::null());
            (dnsmasq.spawn().expect("dnsmasq runs"), silent)
        });
        let dnsmasq = Self {
            child,
            log,
            _silent: silent,
        };
        let end = Instant::now() + PATIENCE;
        while !dnsmasq.log().contains("started") {
            assert!(Instant::now() < end, "dnsmasq starts");
            thread::sleep(Duration::from_millis(5));
        }
        dnsmasq
    }

    /// What it has been asked.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it ends");
        fs::remove_file(&self.log).ok();
    }
}

/// A resolver of a test's own on the host outside, until it is dropped. It does with each query
/// whatever the test wants.
pub struct Fake {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A query that a fake resolver got.
pub struct Got<'a> {
    pub message: Message,
    pub from: SocketAddr,
    pub socket: &'a UdpSocket,
}

impl Fake {
    pub fn start(
        world: &World,
        address: Ipv4Addr,
        mut act: impl FnMut(Got) + Send + 'static,
    ) -> Self {
        let socket = inside(&world.outside, || UdpSocket::bind((address, 53)));
        let socket = socket.expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let message = Message::from_vec(&buffer[..length]).expect("a query");
                act(Got {
                    message,
                    from,
                    socket: &socket,
                });
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// One that never answers.
    pub fn silent(world: &World, address: Ipv4Addr) -> Self {
        Self::start(world, address, |_| ())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

impl Got<'_> {
    /// The answer with this address, before it is changed or sent.
    pub fn answer(&self, address: Ipv4Addr) -> Message {
        let mut answer = self.message.clone();
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_available = true;
        let name = self.message.queries[0].name().clone();
        let record = Record::from_rdata(name, 60, RData::A(A(address)));
        answer.answers.push(record);
        answer
    }

    /// An answer that only has a code.
    pub fn refusal(&self, code: ResponseCode) -> Message {
        let mut answer = self.message.clone();
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.response_code = code;
        answer
    }

    pub fn send(&self, answer: &Message) {
        let bytes = answer.to_vec().expect("it can be written");
        self.socket.send_to(&bytes, self.from).expect("sent");
    }
}
