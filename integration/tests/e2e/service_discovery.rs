//! Service discovery: names that lead to the tasks of a service while they run.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::host::{Host, PATIENCE, definition, script};
use super::names::{ask_once, look_up};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "a_service_leads_to_those_of_its_tasks_that_run",
        Needs::Kernel,
        tasks_that_run,
    ),
    Case(
        "a_task_is_gone_before_its_containers_are_told_to_stop",
        Needs::Kernel,
        before_it_stops,
    ),
    Case(
        "nobody_is_told_of_no_task_while_the_agent_is_killed_and_started",
        Needs::Kernel,
        killed,
    ),
    Case(
        "at_sighup_services_come_and_go_and_a_wrong_file_changes_nothing",
        Needs::Kernel,
        reload,
    ),
    Case(
        "a_file_that_is_wrong_is_told_at_the_start",
        Needs::Kernel,
        wrong_file,
    ),
    Case(
        "a_service_is_answered_without_an_agent_too",
        Needs::Kernel,
        without_agent,
    ),
];

/// A file with one namespace, `local`.
pub fn local(services: Value) -> Value {
    json!({"namespaces": [{"name": "local", "services": services}]})
}

/// The service `db` of the family `db`, with all types of records.
fn db() -> Value {
    let records = ["A", "AAAA", "SRV"].map(|kind| json!({"type": kind, "ttl": 10}));
    json!({
        "name": "db", "family": "db", "port": 5432, "dnsConfig": {"dnsRecords": records},
    })
}

/// A task of a family that does nothing, and ends when it is told to.
pub fn idle(family: &str) -> Value {
    of_family(family, script("trap exit TERM; sleep 9999 & wait"))
}

pub fn of_family(family: &str, mut definition: Value) -> Value {
    definition["family"] = json!(family);
    definition
}

pub fn start(host: &Host, definition: &Value) -> String {
    let task = host.start_task(definition);
    host.wait_status(&task, "RUNNING");
    task
}

fn stop(host: &Host, task: &str) {
    host.succeed(&["stop", task]);
    host.wait_status(task, "STOPPED");
}

/// The last part of a task's ARN.
pub fn id(task: &str) -> &str {
    task.rsplit('/').next().unwrap()
}

/// The addresses that an answer of `nslookup` has, in order; without that of the resolver, which is told with its port.
pub fn addresses(said: &str) -> Vec<&str> {
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("Address: "));
    let mut all: Vec<&str> = lines.filter(|address| !address.ends_with(":53")).collect();
    all.sort_unstable();
    all
}

/// The addresses of the service `db`, as a task finds them.
fn find(host: &Host, task: &str, kind: &str) -> String {
    look_up(host, task, &format!("-type={kind} db.local"))
}

fn tasks_that_run(host: &Host) {
    host.services(&local(json!([db()])));
    host.image();
    host.agent();
    let asking = start(host, &idle("api"));
    assert!(find(host, &asking, "a").contains("NXDOMAIN"));
    let [first, second] = [(); 2].map(|()| start(host, &idle("db")));
    let found = find(host, &asking, "a");
    assert_eq!(addresses(&found), ["10.231.0.5", "10.231.0.6"], "{found}");
    let found = find(host, &asking, "aaaa");
    let both = ["fd62:6572:7468::5", "fd62:6572:7468::6"];
    assert_eq!(addresses(&found), both, "{found}");
    let found = find(host, &asking, "srv");
    for task in [&first, &second] {
        let target = format!("service = 1 1 5432 {}.db.local", id(task));
        assert!(found.contains(&target), "{found}");
    }
    let target = format!("-type=a {}.db.local", id(&second));
    let found = look_up(host, &asking, &target);
    assert_eq!(addresses(&found), ["10.231.0.6"], "{found}");
    // They are the others' too, and by the C library.
    let ping = "ping -c 1 -w 60 db.local > /dev/null && echo reached";
    let reached = host.succeed(&["exec", &first, "--", "sh", "-c", ping]);
    assert_eq!(reached, "reached\n");
    stop(host, &first);
    let found = find(host, &asking, "a");
    assert_eq!(addresses(&found), ["10.231.0.6"], "{found}");
    assert!(!find(host, &asking, "srv").contains(id(&first)));
    stop(host, &second);
    for what in ["-type=a db.local", "-type=srv db.local", &target] {
        let found = look_up(host, &asking, what);
        assert!(found.contains("NXDOMAIN"), "{what}: {found}");
    }
    stop(host, &asking);
}

/// What a container looks up when it is told to stop, until somebody answers.
const LOOKS_WHEN_TOLD: &str = "\
    look() { while nslookup -type=a db.local > /tmp/said 2>&1; grep -q 'timed out' /tmp/said; do :; done; }; \
    trap 'echo told; look; cat /tmp/said; exit' TERM; echo ready; sleep 9999 & wait";

/// Starts a task that has such a container, and waits until that one would hear.
fn start_looking(host: &Host, definition: &Value) -> String {
    let task = start(host, definition);
    host.until("it would hear", || {
        host.succeed(&["logs", id(&task)]).contains("ready")
    });
    task
}

/// A container that ends when a file is there, not before who makes it has ended.
const ENDS_WHEN_TOLD: &str = "until [ -e /tmp/end ]; do sleep 0.1; done; sleep 0.5";

fn before_it_stops(host: &Host) {
    host.services(&local(json!([db()])));
    host.image();
    host.agent();
    let other = start(host, &idle("db"));
    let mut definition_of_one = script(LOOKS_WHEN_TOLD);
    definition_of_one["containerDefinitions"][0]["stopTimeout"] = json!(60);
    let looks = start_looking(host, &of_family("db", definition_of_one));
    let found = find(host, &other, "a");
    assert_eq!(addresses(&found), ["10.231.0.4", "10.231.0.5"], "{found}");
    stop(host, &looks);
    let log = host.succeed(&["logs", id(&looks)]);
    assert!(log.contains("told"), "{log}");
    assert!(log.contains("Address: 10.231.0.4"), "{log}");
    assert!(!log.contains("10.231.0.5"), "{log}");
    // The same where one of its containers ends by itself, and takes the others with it.
    let containers = json!([
        {"name": "main", "image": "box", "command": ["sh", "-c", ENDS_WHEN_TOLD]},
        {"name": "looks", "image": "box", "command": ["sh", "-c", LOOKS_WHEN_TOLD], "stopTimeout": 60},
    ]);
    let ends = start_looking(host, &of_family("db", definition(containers)));
    let found = find(host, &other, "a");
    assert_eq!(addresses(&found), ["10.231.0.4", "10.231.0.6"], "{found}");
    host.succeed(&[
        "exec",
        "--container",
        "main",
        &ends,
        "--",
        "touch",
        "/tmp/end",
    ]);
    host.wait_status(&ends, "STOPPED");
    let log = host.succeed(&["logs", id(&ends)]);
    assert!(log.contains("Address: 10.231.0.4"), "{log}");
    assert!(!log.contains("10.231.0.6"), "{log}");
    stop(host, &other);
}

/// A query for the A records of `db.local`.
const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x02db\x05local\0\0\x01\0\x01";

/// Asks for `db.local` all the time, until it is told to stop, or its test has failed. What is answered: each time the code and the number of
/// records. `count` is how many answers there are so far.
fn ask_all_the_time(stop: &AtomicBool, count: &AtomicUsize) -> Vec<(u8, u8)> {
    let mut answers = Vec::new();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // It is asked again after this; the answer counts however late it is.
    let patience = Duration::from_millis(100);
    socket.set_read_timeout(Some(patience)).unwrap();
    let end = Instant::now() + 5 * PATIENCE;
    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
        let mut answer = [0; 512];
        // While no agent is there, nobody answers.
        let asked = socket
            .connect("10.231.0.2:53")
            .and_then(|()| socket.send(QUERY))
            .and_then(|_| socket.recv(&mut answer));
        if asked.is_ok_and(|length| length > 12) {
            answers.push((answer[3] & 0xf, answer[7]));
            count.store(answers.len(), Ordering::Relaxed);
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    answers
}

fn killed(host: &Host) {
    host.services(&local(json!([db()])));
    host.image();
    host.agent();
    let asking = start(host, &idle("api"));
    let task = start(host, &idle("db"));
    let stop_asking = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let answers = std::thread::scope(|scope| {
        let asks = scope.spawn(|| ask_all_the_time(&stop_asking, &count));
        for _ in 0..5 {
            host.kill_agent();
            host.agent();
            let found = find(host, &asking, "a");
            assert_eq!(addresses(&found), ["10.231.0.5"], "{found}");
            let before = count.load(Ordering::Relaxed);
            host.until("twenty more answers", || {
                count.load(Ordering::Relaxed) >= before + 20
            });
        }
        stop_asking.store(true, Ordering::Relaxed);
        asks.join().unwrap()
    });
    let wrong = answers.iter().find(|answer| **answer != (0, 1));
    assert_eq!(wrong, None, "the code and the number of records");
    // What comes to its end while nobody watches is gone, too.
    host.kill_agent();
    let end = ["exec", &task, "--", "sh", "-c", "kill -TERM 1"];
    host.berth(&end).output().unwrap();
    host.agent();
    host.wait_status(&task, "STOPPED");
    assert!(find(host, &asking, "a").contains("NXDOMAIN"));
    stop(host, &asking);
}

/// Has the agent read another file, until it says these words.
pub fn read_again(host: &Host, file: &Value, words: &str) {
    let before = host.agent_log().matches(words).count();
    host.services(file);
    host.reload_agent();
    host.until(words, || host.agent_log().matches(words).count() > before);
}

fn reload(host: &Host) {
    host.services(&json!({}));
    host.image();
    host.agent();
    let task = start(host, &idle("db"));
    let reload = |file: &Value, words: &str| read_again(host, file, words);
    reload(&local(json!([db()])), "services=1");
    let found = find(host, &task, "a");
    assert_eq!(addresses(&found), ["10.231.0.4"], "{found}");
    let mut wrong = db();
    wrong["dnsConfig"]["routingPolicy"] = json!("RANDOM");
    let words = "service discovery stays as it is: the file of service discovery";
    reload(&local(json!([wrong])), words);
    let says = "routingPolicy is 'RANDOM'; it must be MULTIVALUE or WEIGHTED";
    assert!(host.agent_log().contains(says), "{}", host.agent_log());
    let found = find(host, &task, "a");
    assert_eq!(addresses(&found), ["10.231.0.4"], "{found}");
    let mut other = db();
    other["name"] = json!("other");
    reload(&local(json!([other])), "services=1");
    assert!(find(host, &task, "a").contains("NXDOMAIN"));
    let found = look_up(host, &task, "-type=a other.local");
    assert_eq!(addresses(&found), ["10.231.0.4"], "{found}");
    // Without the namespace, others are asked.
    reload(&json!({}), "services=0");
    let found = ask_once(host, &task, "main", "-type=a other.local");
    assert!(!found.contains("10.231.0.4\n"), "{found}");
    stop(host, &task);
}

fn wrong_file(host: &Host) {
    host.image();
    let file = host.definition_file(&script("true"));
    // The engine is an agent's too, and this one ends where it finds nothing wrong.
    let run = ["run", file.to_str().unwrap()];
    let mut wrong = db();
    wrong["containerPort"] = json!(0);
    host.services(&local(json!([wrong])));
    let words = format!(
        "the file of service discovery {}: namespaces[0].services[0].containerPort is 0; it must be between 1 and 65535",
        host.services_file().display()
    );
    let said = host.fail(&run);
    assert!(said.contains(&words), "{said}");
    let mut taken = local(json!([]));
    taken["namespaces"][0]["name"] = json!("ec2.internal");
    host.services(&taken);
    let said = host.fail(&run);
    assert!(said.contains("outside the zone ec2.internal"), "{said}");
}

fn without_agent(host: &Host) {
    host.services(&local(json!([db()])));
    host.image();
    let looks = "for i in $(seq 600); do nslookup -type=a db.local | grep '^Address: 10' && exit 0; sleep 0.1; done; exit 9";
    let ran = host.run(&of_family("db", script(looks)));
    assert_eq!(ran.stdout, "Address: 10.231.0.4\n", "{ran:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
}
