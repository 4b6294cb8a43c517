use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Refused;
use super::*;
use crate::dns::{Zones, absolute};
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
    host_address: impl Fn() -> anyhow::Result<Option<Ipv4Addr>> + Send + Sync + 'static,
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
            Ok(Some(HOST))
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
    assert_eq!(seen.try_iter().count(), 2);
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
        [before.clone(), before]
    );
}

#[test]
fn tasks_come_and_go_while_other_services_are_made_ready() {
    let names = names();
    let (on_its_way, is_on_its_way) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let goes_on = Mutex::new(goes_on);
    let discovery = discovery(&names, move || {
        on_its_way.send(()).unwrap();
        // When nobody tells it any more, it goes on too.
        goes_on.lock().unwrap().recv_timeout(PATIENCE).ok();
        Ok(Some(HOST))
    });
    let (one, two) = (task("one", "f"), task("two", "f"));
    let tasks = Mutex::new(vec![Arc::clone(&one)]);
    let follow = || {
        let tasks = || tasks.lock().unwrap().clone();
        discovery.follow(file("local", &[("db", "f")]), tasks);
    };
    go_on.send(()).unwrap();
    follow();
    is_on_its_way.recv_timeout(PATIENCE).unwrap();
    assert_eq!(find(&names, "db.local"), ["one.db.local."]);
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
    let discovery = discovery(&names, || Ok(Some(HOST)));
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
fn a_task_keeps_its_address_while_the_host_has_none() {
    let names = names();
    let address = Arc::new(Mutex::new(Ok(Some(HOST))));
    let discovery = discovery(&names, {
        let address = Arc::clone(&address);
        move || {
            address
                .lock()
                .unwrap()
                .map_err(|text| anyhow::anyhow!("{text}"))
        }
    });
    let tasks = || vec![task("one", "f")];
    let addresses = || ["one.db.local", "one.web.local"].map(|name| find(&names, name));
    let (one, both) = ([("db", "f")], [("db", "f"), ("web", "f")]);
    discovery.follow(file("local", &one), tasks);
    for none in [Ok(None), Err("netlink")] {
        *address.lock().unwrap() = none;
        // One that is new is there when the address can be told.
        discovery.follow(file("local", &both), tasks);
        assert_eq!(addresses(), [["192.0.2.7"], ["nothing"]]);
        assert_eq!(find(&names, "db.local"), ["one.db.local."]);
    }
    let other = Ipv4Addr::new(192, 0, 2, 8);
    *address.lock().unwrap() = Ok(Some(other));
    discovery.follow(file("local", &both), tasks);
    assert_eq!(addresses(), [["192.0.2.8"], ["192.0.2.8"]]);
}
