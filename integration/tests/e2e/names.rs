//! The names by which a task's containers find themselves, other tasks and the world outside.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};

use super::host::{Host, definition, script};
use super::{Case, Needs, modes};

pub const CASES: &[Case] = &[
    Case(
        "the_files_of_etc_are_as_ecs_writes_them",
        Needs::Kernel,
        files,
    ),
    Case(
        "tasks_find_one_another_while_they_run",
        Needs::Kernel,
        one_another,
    ),
    Case(
        "a_name_outside_is_asked_of_the_hosts_resolver_on_its_loopback",
        Needs::Kernel,
        outside,
    ),
    Case(
        "names_are_there_again_after_the_agent_was_killed",
        Needs::Kernel,
        killed,
    ),
    Case(
        "what_ecs_refuses_under_awsvpc_is_refused_in_its_words",
        Needs::Kernel,
        refused,
    ),
];

fn files(host: &Host) {
    host.image();
    let tell = "cat /etc/hosts /etc/hostname /etc/resolv.conf; hostname";
    let ran = host.run(&definition(json!([
        {"name": "main", "image": "box", "command": ["sh", "-c", format!(
            "{tell}; wget -q -O - $ECS_CONTAINER_METADATA_URI_V4"
        )]},
    ])));
    let expected = "127.0.0.1 localhost\n10.231.0.4 ip-10-231-0-4.ec2.internal\n\
                    ip-10-231-0-4.ec2.internal\n\
                    nameserver 10.231.0.2\nsearch ec2.internal\n\
                    ip-10-231-0-4.ec2.internal\n";
    let (told, metadata) = ran.stdout.split_at(expected.len().min(ran.stdout.len()));
    assert_eq!(told, expected, "{ran:?}");
    let metadata: Value = serde_json::from_str(metadata).unwrap_or_else(|_| panic!("{ran:?}"));
    let network = &metadata["Networks"][0];
    assert_eq!(network["PrivateDNSName"], "ip-10-231-0-4.ec2.internal");
    assert_eq!(network["DomainNameServers"], json!(["10.231.0.2"]));
    assert_eq!(network["DomainNameSearchList"], json!(["ec2.internal"]));
}

/// The name of a task's interface, as DescribeTasks tells it.
fn name_of(task: &Value) -> String {
    let details = task["attachments"][0]["details"].as_array().unwrap();
    let detail = details
        .iter()
        .find(|detail| detail["name"] == "privateDnsName");
    detail.unwrap()["value"].as_str().unwrap().to_owned()
}

/// What `nslookup` says in a task whose only container is `main`.
pub fn look_up(host: &Host, task: &str, what: &str) -> String {
    look_up_in(host, task, "main", what)
}

/// What `nslookup` in a container says, once somebody answers: it has a patience of its own, which is short.
pub fn look_up_in(host: &Host, task: &str, container: &str, what: &str) -> String {
    let mut said = String::new();
    host.until(&format!("somebody answers {what}"), || {
        said = ask_once(host, task, container, what);
        !said.contains("connection timed out")
    });
    said
}

/// What `nslookup` in a container says, be it that nobody answers.
pub fn ask_once(host: &Host, task: &str, container: &str, what: &str) -> String {
    let ask = format!("nslookup {what} 2>&1; true");
    modes::inside(host, task, container, &ask)
}

fn one_another(host: &Host) {
    host.image();
    host.agent();
    let server = host.start_task(&script(
        "httpd -p 80 -h /www; trap exit TERM; sleep 9999 & wait",
    ));
    let name = name_of(&host.wait_status(&server, "RUNNING"));
    let asking = host.start_task(&script("trap exit TERM; sleep 9999 & wait"));
    host.wait_status(&asking, "RUNNING");
    let found = look_up(host, &asking, &name);
    assert!(
        found.contains("10.231.0.2:53") && found.contains("Address: 10.231.0.4"),
        "{found}"
    );
    // By the search domain, and by the C library too.
    let short = look_up(host, &asking, "ip-10-231-0-4");
    assert!(short.contains("Address: 10.231.0.4"), "{short}");
    let read = "timeout 5 wget -q -O - http://ip-10-231-0-4/ || true";
    host.until("it is read", || {
        modes::inside(host, &asking, "main", read) == "hello over localhost\n"
    });
    let back = look_up(host, &asking, "-type=ptr 4.0.231.10.in-addr.arpa");
    assert!(back.contains(&format!("name = {name}")), "{back}");
    host.succeed(&["stop", &server]);
    host.wait_status(&server, "STOPPED");
    let gone = look_up(host, &asking, &name);
    assert!(gone.contains("NXDOMAIN"), "{gone}");
    host.succeed(&["stop", &asking]);
    host.wait_status(&asking, "STOPPED");
}

/// A resolver that answers that every name has the address 198.51.100.7; until it is dropped.
pub struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    pub fn start(socket: UdpSocket) -> Self {
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut query = [0; 512];
                let Ok((length, from)) = socket.recv_from(&mut query) else {
                    continue;
                };
                socket.send_to(&answer(&query[..length]), from).unwrap();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One on the host's loopback, and the file that has the host ask it; until it is dropped.
struct HostsResolver {
    _answering: Answering,
}

const RESOLV_CONF: &str = "/etc/resolv.conf";

impl HostsResolver {
    fn start(host: &Host) -> Self {
        let answering = Answering::start(UdpSocket::bind("127.0.0.53:53").unwrap());
        let file = host.folder().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
        // The machine of the rig has no such file to be covered.
        if !Path::new(RESOLV_CONF).exists() {
            std::fs::write(RESOLV_CONF, "").unwrap();
        }
        let none = None::<&str>;
        mount(Some(&file), RESOLV_CONF, none, MsFlags::MS_BIND, none).unwrap();
        Self {
            _answering: answering,
        }
    }
}

impl Drop for HostsResolver {
    fn drop(&mut self) {
        umount(RESOLV_CONF).unwrap();
    }
}

/// The query's header and question, as an answer with one record.
fn answer(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut answer = query[..end].to_vec();
    // An answer, recursion there; one question and one record.
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    // The question's name, type A, class IN, a minute, four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    answer
}

fn outside(host: &Host) {
    let _resolver = HostsResolver::start(host);
    host.image();
    let ran = host.run(&script(
        "for name in www.example.com ip-10-231-0-99.ec2.internal; do \
         for i in $(seq 20); do nslookup -type=a $name > /tmp/said 2>&1; \
         grep -q 'connection timed out' /tmp/said || break; done; cat /tmp/said; done",
    ));
    let addresses = ran.stdout.matches("Address: 198.51.100.7").count();
    assert_eq!(addresses, 1, "{ran:?}");
    assert!(ran.stdout.contains("NXDOMAIN"), "{ran:?}");
}

fn killed(host: &Host) {
    host.image();
    host.agent();
    let task = host.start_task(&script("trap exit TERM; sleep 9999 & wait"));
    let name = name_of(&host.wait_status(&task, "RUNNING"));
    for _ in 0..3 {
        host.kill_agent();
        host.agent();
        let found = look_up(host, &task, &name);
        assert!(found.contains("Address: 10.231.0.4"), "{found}");
    }
    host.succeed(&["stop", &task]);
    host.wait_status(&task, "STOPPED");
}

fn refused(host: &Host) {
    host.agent();
    for (member, value, words) in [
        (
            "hostname",
            json!("web"),
            "hostname is not supported on container when networkMode=awsvpc.",
        ),
        (
            "dnsServers",
            json!(["9.9.9.9"]),
            "DNS servers are not supported on container when networkMode=awsvpc.",
        ),
        (
            "extraHosts",
            json!([{"hostname": "db", "ipAddress": "10.0.0.9"}]),
            "Extra hosts are not supported on container when networkMode=awsvpc.",
        ),
    ] {
        let mut task = script("true");
        task["containerDefinitions"][0][member] = value;
        let error = host.call("RegisterTaskDefinition", task).unwrap_err();
        assert_eq!(error["__type"], "ClientException", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(words), "{message}");
    }
}
