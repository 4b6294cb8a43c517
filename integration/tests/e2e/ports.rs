//! Ports of the host's that lead to containers under network mode `bridge`: named, chosen, of a range, and whose they are.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::crash::supervisor_of;
use super::host::{Host, PATIENCE, script};
use super::modes::{
    address_of, ask_from, container, definition, get, host_port_of, inside, metadata,
    metadata_address, server, start, stop, try_start, until_says, until_says_to,
};
use super::network::Outside;
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "a_published_port_is_reached_from_everywhere_and_no_other_is",
        Needs::Kernel,
        reach,
    ),
    Case(
        "a_port_of_another_task_is_a_failure_of_run_task",
        Needs::Kernel,
        port_of_a_task,
    ),
    Case(
        "a_port_of_another_program_fails_the_task",
        Needs::Kernel,
        port_of_a_program,
    ),
    Case(
        "ports_are_chosen_where_the_definition_names_none",
        Needs::Kernel,
        chosen,
    ),
    Case(
        "a_range_of_ports_is_in_one_piece_and_in_order",
        Needs::Kernel,
        range,
    ),
    Case(
        "a_port_of_udp_is_reached_on_loopback_and_from_outside",
        Needs::Kernel,
        datagrams,
    ),
    Case(
        "after_dying_at_each_step_under_bridge_the_task_runs_and_its_ports_lead_to_it",
        Needs::Kernel,
        crashes,
    ),
    Case(
        "bindings_outlive_the_agent",
        Needs::Kernel,
        bindings_outlive,
    ),
];

fn reach(host: &Host) {
    let outside = Outside::new();
    host.image();
    host.agent();
    let published = json!([{"containerPort": 80, "hostPort": 18092}]);
    let second = "httpd -p 81 -h /www";
    let web = container(
        "web",
        published,
        &format!("{second}; echo hello of web > /tmp/index.html; exec httpd -f -p 80 -h /tmp"),
    );
    let arn = start(host, &definition("bridge", json!([web])));
    let task = host.wait_status(&arn, "RUNNING");
    let address = address_of(&task, 0);
    assert_eq!(host_port_of(&task, 0), 18092);
    for at in ["127.0.0.1:18092", "[::1]:18092", "192.168.77.1:18092"] {
        until_says(host, at, "hello of web");
    }
    let from_outside = |url: &str| ask_from(&outside, url);
    until_says_to(host, &outside, "http://192.168.77.1:18092/", "hello of web");
    // With a route there, an outside host is still let in by the published port only.
    let route = "ip route add 10.231.240.0/20 via 192.168.77.1";
    assert!(outside.enter(route).status().unwrap().success());
    assert_eq!(from_outside(&format!("http://{address}:81/")), "");
    let others = [
        start(
            host,
            &definition(
                "bridge",
                json!([container(
                    "main",
                    json!([]),
                    "trap exit TERM; sleep 9999 & wait"
                )]),
            ),
        ),
        host.start_task(&script("trap exit TERM; sleep 9999 & wait")),
    ];
    let answers = [("bridge", Some("hello over localhost\n")), ("awsvpc", None)];
    for (other, (mode, by_address)) in others.iter().zip(answers) {
        host.wait_status(other, "RUNNING");
        let ask = |url: &str| {
            let ask = format!("timeout 3 wget -q -O - {url} 2>/dev/null || true");
            inside(host, other, "main", &ask)
        };
        host.until(&format!("the port answers from {mode}"), || {
            ask("http://192.168.77.1:18092/") == "hello of web\n"
        });
        let by_itself = format!("http://{address}:81/");
        match by_address {
            Some(words) => host.until("it is reached by its address", || ask(&by_itself) == words),
            None => assert_eq!(ask(&by_itself), "", "from {mode}"),
        }
        stop(host, other);
    }
    stop(host, &arn);
    assert_eq!(get("127.0.0.1:18092".parse::<SocketAddr>().unwrap()), None);
    assert_eq!(from_outside("http://192.168.77.1:18092/"), "");
    assert!(TcpListener::bind("0.0.0.0:18092").is_ok());
}

fn port_of_a_task(host: &Host) {
    host.image();
    host.agent();
    let ports = json!([{"containerPort": 80, "hostPort": 18093}]);
    let web = definition("bridge", json!([server("web", 80, ports)]));
    let first = start(host, &web);
    // At once: it has the port before it starts.
    let second = try_start(host, &web);
    assert_eq!(second["tasks"], json!([]), "{second}");
    let failure = &second["failures"][0];
    assert_eq!(failure["reason"], "RESOURCE:PORTS");
    assert!(
        failure["arn"]
            .as_str()
            .unwrap()
            .contains(":container-instance/")
    );
    assert!(failure["detail"].as_str().unwrap().contains("18093/tcp"));
    let ran = host.run(&web);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stderr.contains("RESOURCE:PORTS") && ran.stderr.contains("18093"),
        "{ran:?}"
    );
    // Of as many as are asked for, those that find a place run.
    let ports = json!([{"containerPort": 80, "hostPort": 18094}]);
    let registered = host
        .call(
            "RegisterTaskDefinition",
            definition("bridge", json!([server("web", 80, ports)])),
        )
        .unwrap();
    let name = registered["taskDefinition"]["taskDefinitionArn"].clone();
    let three = json!({"taskDefinition": name, "count": 3});
    let three = host.call("RunTask", three).unwrap();
    let lengths = ["tasks", "failures"].map(|list| three[list].as_array().unwrap().len());
    assert_eq!(lengths, [1, 2], "{three}");
    // The same port of UDP is another.
    let ports = json!([{"containerPort": 80, "hostPort": 18093, "protocol": "udp"}]);
    let datagrams = start(
        host,
        &definition("bridge", json!([server("web", 80, ports)])),
    );
    host.wait_status(&datagrams, "RUNNING");
    host.wait_status(&first, "RUNNING");
    stop(host, &first);
    let fourth = start(host, &web);
    host.wait_status(&fourth, "RUNNING");
    for arn in [
        &fourth,
        &datagrams,
        three["tasks"][0]["taskArn"].as_str().unwrap(),
    ] {
        stop(host, arn);
    }
}

fn port_of_a_program(host: &Host) {
    host.image();
    host.agent();
    let program = TcpListener::bind("127.0.0.1:18095").unwrap();
    let ports = json!([{"containerPort": 80, "hostPort": 18095}]);
    let web = definition(
        "bridge",
        json!([server("other", 80, json!([])), server("web", 80, ports)]),
    );
    let task = host.wait_status(&start(host, &web), "STOPPED");
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task}");
    let reason = task["stoppedReason"].as_str().unwrap();
    let expected = "CannotStartContainerError: container 'web': publishing port 18095";
    assert!(reason.starts_with(expected), "{reason}");
    drop(program);
    let arn = start(host, &web);
    host.wait_status(&arn, "RUNNING");
    stop(host, &arn);
}

fn chosen(host: &Host) {
    host.image();
    host.agent();
    let ports = json!([{"containerPort": 80, "hostPort": 0}]);
    let web = definition("bridge", json!([server("web", 80, ports)]));
    let first = start(host, &web);
    let task = host.wait_status(&first, "RUNNING");
    let port = host_port_of(&task, 0);
    assert!((49_153..=65_535).contains(&port), "{task}");
    until_says(host, &format!("127.0.0.1:{port}"), "hello of web");
    // The next one is a program's, on one address only; the one after it is named by a task.
    let program = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let named = json!([{"containerPort": 80, "hostPort": port + 2}]);
    let named = start(
        host,
        &definition("bridge", json!([server("web", 80, named)])),
    );
    let more: Vec<String> = (0..4).map(|_| start(host, &web)).collect();
    let mut taken = vec![port, port + 1, port + 2];
    for arn in &more {
        let port = host_port_of(&host.wait_status(arn, "RUNNING"), 0);
        assert!(!taken.contains(&port), "{port} twice: {taken:?}");
        until_says(host, &format!("[::1]:{port}"), "hello of web");
        taken.push(port);
    }
    drop(program);
    for arn in more.iter().chain([&first, &named]) {
        stop(host, arn);
    }
    // Who stopped gave its own back, and still tells which it was.
    assert_eq!(host_port_of(&host.describe(&first), 0), port);
    for port in taken {
        TcpListener::bind(("0.0.0.0", port)).unwrap();
    }
}

fn range(host: &Host) {
    host.image();
    host.agent();
    let ports = json!([
        {"containerPortRange": "8080-8082"},
        {"containerPortRange": "9000-9001", "protocol": "udp"},
    ]);
    let serve = "for p in 8080 8081 8082; do mkdir /tmp/$p; echo hello of $p > /tmp/$p/index.html; \
                 httpd -p $p -h /tmp/$p; done; trap exit TERM; sleep 9999 & wait";
    let arn = start(
        host,
        &definition("bridge", json!([container("web", ports, serve)])),
    );
    let task = host.wait_status(&arn, "RUNNING");
    let bindings = &task["containers"][0]["networkBindings"];
    assert_eq!(bindings[0]["containerPortRange"], "8080-8082", "{task}");
    assert_eq!(bindings[1]["containerPortRange"], "9000-9001", "{task}");
    assert_eq!(bindings[1]["protocol"], "udp", "{task}");
    let of = |i: usize| -> Vec<u16> {
        let text = bindings[i]["hostPortRange"].as_str().unwrap();
        text.split('-').map(|port| port.parse().unwrap()).collect()
    };
    let (tcp, udp) = (of(0), of(1));
    assert_eq!((tcp[1] - tcp[0], udp[1] - udp[0]), (2, 1), "{task}");
    for (own, port) in (8080..).zip(tcp[0]..=tcp[1]) {
        until_says(
            host,
            &format!("127.0.0.1:{port}"),
            &format!("hello of {own}"),
        );
    }
    assert!(UdpSocket::bind(("0.0.0.0", udp[1])).is_err());
    let address = metadata_address(host, &arn, "web");
    let document = metadata(host, &arn, "web", &address);
    assert_eq!(document["Ports"].as_array().unwrap().len(), 5, "{document}");
    assert_eq!(document["Ports"][2]["ContainerPort"], 8082, "{document}");
    assert_eq!(document["Ports"][2]["HostPort"], tcp[1], "{document}");
    stop(host, &arn);
}

/// A socket of UDP in another network namespace.
fn socket_in(namespace: PathBuf, address: &'static str) -> UdpSocket {
    let open = move || {
        let namespace = File::open(namespace).unwrap();
        // Of this thread only, which ends here.
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind(address).unwrap()
    };
    std::thread::spawn(open).join().unwrap()
}

/// Asks a server of datagrams; what it says, if it does.
fn ask_datagram(client: &UdpSocket, to: &str) -> Option<String> {
    client.connect(to).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(b"question").unwrap();
    let mut answer = [0; 256];
    let length = client.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn datagrams(host: &Host) {
    let outside = Outside::new();
    host.image();
    host.agent();
    let ports = json!([{"containerPort": 5000, "protocol": "udp"}]);
    let silent = container("main", ports, "trap exit TERM; sleep 9999 & wait");
    let arn = start(host, &definition("bridge", json!([silent])));
    let task = host.wait_status(&arn, "RUNNING");
    let port = host_port_of(&task, 0);
    // The image has no server of datagrams: the test has, inside.
    let name = task["containers"][0]["runtimeId"].as_str().unwrap();
    let namespace = host.run_folder().join("netns").join(name);
    let server = socket_in(namespace, "0.0.0.0:5000");
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let answering = std::thread::spawn(move || {
        let mut question = [0; 256];
        for number in 1..=5 {
            let (_, from) = server.recv_from(&mut question).unwrap();
            server
                .send_to(format!("answer {number}").as_bytes(), from)
                .unwrap();
        }
    });
    let near = |address: &str| UdpSocket::bind(address).unwrap();
    let clients = [
        (near("127.0.0.1:0"), "127.0.0.1"),
        (near("[::1]:0"), "[::1]"),
        (near("0.0.0.0:0"), "192.168.77.1"),
        (socket_in(outside.namespace(), "0.0.0.0:0"), "192.168.77.1"),
    ];
    for (i, (client, address)) in clients.iter().enumerate() {
        let answer = ask_datagram(client, &format!("{address}:{port}"));
        assert_eq!(answer, Some(format!("answer {}", i + 1)), "{address}");
    }
    // Who has asked before goes on from where it was.
    let answer = ask_datagram(&clients[0].0, &format!("127.0.0.1:{port}"));
    assert_eq!(answer.as_deref(), Some("answer 5"));
    answering.join().unwrap();
    drop(clients);
    stop(host, &arn);
    UdpSocket::bind(("0.0.0.0", port)).unwrap();
}

/// How many interfaces of tasks the host has the other ends of.
fn links() -> usize {
    let listed = Command::new("ip").args(["-o", "link"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout)
        .matches(": eni-")
        .count()
}

/// How many interfaces tasks have.
fn interfaces(host: &Host) -> usize {
    let listed = host.succeed(&["network", "ls", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed["interfaces"].as_array().unwrap().len()
}

fn two_servers() -> Value {
    let named = json!([{"containerPort": 80, "hostPort": 18096}]);
    let chosen = json!([{"containerPort": 80}]);
    definition(
        "bridge",
        json!([server("one", 80, named), server("two", 80, chosen)]),
    )
}

fn crashes(_: &Host) {
    for step in [
        "task-recorded",
        "interface-attached",
        "network-attached",
        "files-written",
        "supervisor-spawned",
        "supervisor-connected",
        "network-detached",
    ] {
        let host = Host::new();
        host.image();
        host.agent();
        let registered = host.call("RegisterTaskDefinition", two_servers()).unwrap();
        let name = registered["taskDefinition"]["taskDefinitionArn"].clone();
        host.kill_agent();
        host.agent_with(&[], Some(step));
        let run = json!({"taskDefinition": name});
        if step == "network-detached" {
            let started = host.call("RunTask", run).unwrap();
            let arn = started["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
            host.wait_status(&arn, "RUNNING");
            host.try_call("StopTask", &json!({"task": arn})).ok();
            host.wait_for_agents_death();
            host.agent();
            host.wait_status(&arn, "STOPPED");
        } else {
            host.try_call("RunTask", &run).ok();
            host.wait_for_agents_death();
            host.agent();
            let listed = host.call("ListTasks", json!({})).unwrap();
            let arn = listed["taskArns"][0].as_str().unwrap().to_owned();
            let task = host.wait_status(&arn, "RUNNING");
            until_says(&host, "127.0.0.1:18096", "hello of one");
            let port = host_port_of(&task, 1);
            until_says(&host, &format!("127.0.0.1:{port}"), "hello of two");
            assert_eq!(interfaces(&host), 2, "{step}");
            // The port is still its own.
            let other = host.call("RunTask", run).unwrap();
            assert_eq!(other["failures"][0]["reason"], "RESOURCE:PORTS", "{step}");
            stop(&host, &arn);
        }
        let left = host.clean_up();
        assert!(left.is_empty(), "{step} leaves behind:\n{left}");
    }
}

fn bindings_outlive(host: &Host) {
    host.image();
    host.agent();
    let arn = start(host, &two_servers());
    let before = host.wait_status(&arn, "RUNNING");
    let port = host_port_of(&before, 1);
    host.kill_agent();
    until_says(host, &format!("127.0.0.1:{port}"), "hello of two");
    host.agent();
    let after = host.describe(&arn);
    for member in ["networkBindings", "networkInterfaces"] {
        for i in 0..2 {
            let (one, other) = (&before["containers"][i], &after["containers"][i]);
            assert_eq!(one[member], other[member], "{member}");
        }
    }
    let chosen = json!([{"containerPort": 80}]);
    let another = start(
        host,
        &definition("bridge", json!([server("web", 80, chosen)])),
    );
    let task = host.wait_status(&another, "RUNNING");
    assert_ne!(host_port_of(&task, 0), port);
    until_says(host, &format!("127.0.0.1:{port}"), "hello of two");
    stop(host, &arn);
    // With its supervisor dies who holds the ports; what leads there goes, too.
    kill(supervisor_of(&another), Signal::SIGKILL).unwrap();
    let task = host.wait_status(&another, "STOPPED");
    TcpListener::bind(("0.0.0.0", host_port_of(&task, 0))).unwrap();
    assert_eq!(interfaces(host), 0);
    // With the agent go those that it has prepared.
    host.kill_agent();
    host.until("its link is gone", || links() == 0);
}
