use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use hickory_proto::rr::RData;
use serde_json::{Value, json};

use super::super::Refused;
use super::*;
use crate::dns::{Known, Zones, absolute};
use crate::task::{NetworkBinding, StopCode};
use crate::task_definition::{PortRange, Protocol, TaskDefinition};

const PATIENCE: Duration = Duration::from_secs(60);

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// A task of a family that runs under `host`, with a container and its port.
fn task(id: &str, family: &str) -> Arc<Handle> {
    let definition = TaskDefinition::from_request(json!({
        "family": family, "networkMode": "host", "memory": "64",
        "containerDefinitions": [{"name": "c", "image": "i", "portMappings": [{"containerPort": 80}]}],
    }));
    let mut task = Task::running(id, definition.unwrap());
    task.containers[0].bindings = vec![NetworkBinding {
        container: PortRange::one(80),
        host: PortRange::one(80),
        protocol: Protocol::Tcp,
    }];
    Handle::new(task)
}

fn stop(handle: &Handle) {
    let stop = |task: &mut Task| task.want_stop(StopCode::UserInitiated, "enough");
    let stored = handle.change(Refused::Leave, stop, |_| Ok::<_, ()>(()));
    stored.unwrap();
}

/// A file with these services, each with its family, in a namespace.
fn file(namespace: &str, services: &[(&str, &str)]) -> ServiceDiscovery {
    let service = |(name, family): &(&str, &str)| {
        json!({
            "name": name, "family": family, "containerName": "c", "containerPort": 80,
            "dnsConfig": {"dnsRecords": [{"type": "SRV", "ttl": 10}]},
        })
    };
    let services: Vec<Value> = services.iter().map(service).collect();
    let file = json!({"namespaces": [{"name": namespace, "services": services}]});
    let zones = Zones::new("ec2.internal", &[]).unwrap();
    ServiceDiscovery::parse(file.to_string().as_bytes(), &zones).unwrap()
}

fn names() -> Arc<Names> {
    let zones = Zones::new("ec2.internal", &[]).unwrap();
    Arc::new(Names::new(zones))
}

fn discovery(
    names: &Arc<Names>,
    host_address: impl Fn() -> Option<Ipv4Addr> + Send + Sync + 'static,
) -> Discovery {
    Discovery {
        current: Mutex::default(),
        names: Arc::clone(names),
        boot_id: "boot".to_owned(),
        host_address: Box::new(host_address),
    }
}

/// What a name leads to: targets of SRV records and addresses, in order; how it is told that there are none.
fn find(names: &Names, name: &str) -> Vec<String> {
    let records = match names.find(&absolute(name).unwrap()) {
        Known::Records(_, records) => records,
        Known::Nothing(_) => return vec!["nothing".to_owned()],
        Known::Elsewhere => return vec!["elsewhere".to_owned()],
    };
    let text = |record: &Record| match &record.data {
        RData::SRV(srv) => srv.target.to_string(),
        other => other.to_string(),
    };
    let mut all: Vec<String> = records.iter().map(text).collect();
    all.sort_unstable();
    all
}

#[test]
fn other_services_take_effect_in_one_step() {
    let names = names();
    let looks = ["db.a", "web.a", "db.b", "web.b"];
    let (saw, seen) = mpsc::channel();
    // While the names of one task are made, those of the other are made already, or never.
    let discovery = discovery(&names, {
        let names = Arc::clone(&names);
        move || {
            saw.send(looks.map(|name| find(&names, name))).unwrap();
            Some(HOST)
        }
    });
    let tasks = || [task("one", "f"), task("two", "g")].to_vec();
    let as_it_is = || looks.map(|name| find(&names, name));
    discovery.follow(file("a", &[("db", "f"), ("web", "g")]), tasks);
    let before = as_it_is();
    assert_eq!(
        before,
        [
            vec!["one.db.a."],
            vec!["two.web.a."],
            vec!["elsewhere"],
            vec!["elsewhere"],
        ]
    );
    // Where the host is, is asked once more for each task at the end.
    assert_eq!(seen.try_iter().count(), 4);
    discovery.follow(file("b", &[("db", "g"), ("web", "f")]), tasks);
    assert_eq!(
        as_it_is(),
        [
            vec!["elsewhere"],
            vec!["elsewhere"],
            vec!["two.db.b."],
            vec!["one.web.b."],
        ]
    );
    assert_eq!(
        seen.try_iter().collect::<Vec<_>>(),
        [(); 4].map(|()| before.clone())
    );
}

#[test]
fn tasks_come_and_go_while_other_services_are_made_ready() {
    let names = names();
    let (on_its_way, is_on_its_way) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let goes_on: Mutex<mpsc::Receiver<()>> = Mutex::new(goes_on);
    // When this many have been asked for.
    let held_up = Arc::new(AtomicUsize::new(0));
    let discovery = discovery(&names, {
        let held_up = Arc::clone(&held_up);
        let count_down = |count: usize| count.checked_sub(1);
        move || {
            if held_up.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down) == Ok(1) {
                on_its_way.send(()).unwrap();
                // Nobody sends anything: it goes on when the other end is gone.
                goes_on.lock().unwrap().recv_timeout(PATIENCE).ok();
            }
            Some(HOST)
        }
    });
    let (one, two) = (task("one", "f"), task("two", "f"));
    // It is in no service, and the one before is read by then.
    let other = task("other", "g");
    let tasks = Mutex::new(vec![Arc::clone(&one), other]);
    let follow = || {
        let tasks = || tasks.lock().unwrap().clone();
        discovery.follow(file("local", &[("db", "f")]), tasks);
    };
    follow();
    assert_eq!(find(&names, "db.local"), ["one.db.local."]);
    held_up.store(2, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let follows = scope.spawn(follow);
        is_on_its_way.recv_timeout(PATIENCE).unwrap();
        stop(&one);
        discovery.register(&one);
        assert_eq!(find(&names, "db.local"), ["nothing"]);
        tasks.lock().unwrap().push(two);
        drop(go_on);
        follows.join().unwrap();
    });
    assert_eq!(find(&names, "db.local"), ["two.db.local."]);
    assert_eq!(find(&names, "one.db.local"), ["nothing"]);
}

#[test]
fn what_has_changed_is_looked_at_once_more_when_nobody_can_change_it() {
    let names = names();
    let discovery = discovery(&names, || Some(HOST));
    let looks = Mutex::new(Vec::new());
    let tasks = || {
        let is_held = discovery.current.try_lock().is_err();
        looks.lock().unwrap().push(is_held);
        vec![task("one", "f")]
    };
    discovery.follow(file("local", &[("db", "f")]), tasks);
    assert_eq!(*looks.lock().unwrap(), [false, true]);
}

#[test]
fn a_task_is_registered_where_the_host_is_also_when_it_moves_while_names_are_made() {
    let names = names();
    let other = Ipv4Addr::new(192, 0, 2, 8);
    let (host, known) = watch::channel(None);
    let discovery = discovery(&names, move || *known.borrow());
    let task = task("one", "f");
    let db = || file("local", &[("db", "f")]);
    discovery.follow(db(), || vec![Arc::clone(&task)]);
    assert_eq!(find(&names, "db.local"), ["nothing"]);
    host.send_replace(Some(HOST));
    discovery.register(&task);
    assert_eq!(find(&names, "one.db.local"), ["192.0.2.7"]);
    assert_eq!(find(&names, "db.local"), ["one.db.local."]);
    // Between the names' making and their taking effect, whoever follows the host is done with this task.
    let moves = || {
        if discovery.current.try_lock().is_err() {
            host.send_replace(Some(other));
        }
        vec![Arc::clone(&task)]
    };
    discovery.follow(db(), moves);
    assert_eq!(find(&names, "one.db.local"), ["192.0.2.8"]);
}
