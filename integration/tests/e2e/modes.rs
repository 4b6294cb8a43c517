//! The network modes of EC2: `bridge`, with ports of the host's that lead to a container, `host` and `none`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::host::{Host, run_task};
use super::names::look_up_in;
use super::network::Outside;
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "under_none_each_container_has_a_loopback_of_its_own_and_nothing_else",
        Needs::Kernel,
        none,
    ),
    Case(
        "under_host_a_containers_network_is_the_hosts",
        Needs::Kernel,
        on_host,
    ),
    Case(
        "metadata_under_host_is_for_who_has_the_hosts_network",
        Needs::Kernel,
        host_metadata,
    ),
    Case(
        "under_bridge_each_container_has_its_own_address_and_localhost",
        Needs::Kernel,
        own_localhost,
    ),
    Case(
        "metadata_under_bridge_is_for_the_container_itself",
        Needs::Kernel,
        bridge_metadata,
    ),
    Case(
        "each_mode_has_its_own_rules_for_run_task",
        Needs::Kernel,
        rules,
    ),
    Case(
        "where_the_host_has_their_range_containers_are_in_the_first_subnet",
        Needs::Kernel,
        range_of_the_host,
    ),
    Case("run_and_ps_know_every_mode", Needs::Kernel, command_line),
];

/// A definition for EC2.
pub fn definition(mode: &str, containers: Value) -> Value {
    json!({
        "family": "modes", "networkMode": mode, "memory": "256", "containerDefinitions": containers,
    })
}

/// A container that runs a script.
pub fn container(name: &str, port_mappings: Value, text: &str) -> Value {
    json!({
        "name": name, "image": "box", "portMappings": port_mappings, "stopTimeout": 2,
        "command": ["sh", "-c", text],
    })
}

/// A container with a web server on this port, and no end.
pub fn server(name: &str, port: u16, port_mappings: Value) -> Value {
    let serve = format!(
        "echo hello of {name} > /tmp/index.html; httpd -f -p {port} -h /tmp & trap exit TERM; wait"
    );
    container(name, port_mappings, &serve)
}

/// RunTask without a network configuration.
pub fn start(host: &Host, definition: &Value) -> String {
    let started = try_start(host, definition);
    let arn = started["tasks"][0]["taskArn"].as_str();
    arn.unwrap_or_else(|| panic!("{started}")).to_owned()
}

pub fn try_start(host: &Host, definition: &Value) -> Value {
    let registered = host
        .call("RegisterTaskDefinition", definition.clone())
        .unwrap();
    let name = registered["taskDefinition"]["taskDefinitionArn"].clone();
    host.call("RunTask", json!({"taskDefinition": name}))
        .unwrap()
}

pub fn stop(host: &Host, arn: &str) {
    host.succeed(&["stop", arn]);
    host.wait_status(arn, "STOPPED");
}

/// What a web server says; nothing where none answers.
pub fn get(address: impl Into<SocketAddr>) -> Option<String> {
    let patience = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address.into(), patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().last().map(str::to_owned)
}

/// Waits until a web server says this.
pub fn until_says(host: &Host, address: &str, words: &str) {
    let address: SocketAddr = address.parse().unwrap();
    host.until(&format!("{address} says '{words}'"), || {
        get(address).as_deref() == Some(words)
    });
}

/// Waits until an outside host is told this by a web server.
pub fn until_says_to(host: &Host, outside: &Outside, url: &str, words: &str) {
    host.until(&format!("{url} says '{words}' to the outside"), || {
        ask_from(outside, url) == format!("{words}\n")
    });
}

/// What a web server says to an outside host; nothing where none answers.
pub fn ask_from(outside: &Outside, url: &str) -> String {
    let busybox = std::env::var("BERTH_BUSYBOX").unwrap_or_else(|_| "/bin/busybox".into());
    let ask = format!("exec {busybox} timeout 3 {busybox} wget -q -O - {url}");
    let asked = outside.enter(&ask).output().unwrap();
    String::from_utf8_lossy(&asked.stdout).into_owned()
}

pub fn address_of(task: &Value, container: usize) -> String {
    let interface = &task["containers"][container]["networkInterfaces"][0];
    let address = interface["privateIpv4Address"].as_str();
    address.unwrap_or_else(|| panic!("{task}")).to_owned()
}

/// The only port of the host's that leads to a container.
pub fn host_port_of(task: &Value, container: usize) -> u16 {
    let bindings = task["containers"][container]["networkBindings"].as_array();
    let [binding] = bindings.unwrap().as_slice() else {
        panic!("{task}")
    };
    binding["hostPort"].as_u64().unwrap().try_into().unwrap()
}

/// Runs a script in a container.
pub fn inside(host: &Host, task: &str, container: &str, text: &str) -> String {
    host.succeed(&[
        "exec",
        "--container",
        container,
        task,
        "--",
        "sh",
        "-c",
        text,
    ])
}

fn none(host: &Host) {
    host.image();
    host.agent();
    let looks = "ls /sys/class/net; env | grep -c ECS_CONTAINER; nc -w 1 169.254.170.2 80 < /dev/null 2>/dev/null && echo reached; \
                 cat /etc/resolv.conf; wget -q -O - http://127.0.0.1/ 2>/dev/null || echo nothing here; trap exit TERM; sleep 9999 & wait";
    let arn = start(
        host,
        &definition(
            "none",
            json!([
                server("server", 80, json!([])),
                container("looking", json!([]), looks),
            ]),
        ),
    );
    let task = host.wait_status(&arn, "RUNNING");
    host.until("the container has looked", || {
        host.succeed(&["logs", &arn, "looking"])
            .contains("nothing here")
    });
    assert_eq!(
        host.succeed(&["logs", &arn, "looking"]),
        "lo\n0\nnothing here\n"
    );
    // A loopback of its own works, below 1024 too and for anybody.
    host.until("the server serves itself", || {
        inside(
            host,
            &arn,
            "server",
            "wget -q -O - http://127.0.0.1/ || true",
        ) == "hello of server\n"
    });
    assert_eq!(task["attachments"], json!([]));
    for container in task["containers"].as_array().unwrap() {
        assert_eq!(container["networkInterfaces"], json!([]), "{task}");
        assert_eq!(container["networkBindings"], json!([]), "{task}");
    }
    stop(host, &arn);
}

fn on_host(host: &Host) {
    let outside = Outside::new();
    host.image();
    host.agent();
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let web = server("web", 18090, json!([{"containerPort": 18090}]));
    let one = definition("host", json!([web]));
    let arn = start(host, &one);
    let task = host.wait_status(&arn, "RUNNING");
    assert_eq!(
        task["containers"][0]["networkBindings"],
        json!([{"bindIP": "0.0.0.0", "containerPort": 18090, "hostPort": 18090, "protocol": "tcp"}])
    );
    assert_eq!(task["containers"][0]["networkInterfaces"], json!([]));
    assert_eq!(task["attachments"], json!([]));
    until_says(host, "127.0.0.1:18090", "hello of web");
    until_says_to(host, &outside, "http://192.168.77.1:18090/", "hello of web");
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let seen = inside(host, &arn, "web", "readlink /proc/self/ns/net; hostname");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(seen, format!("{}\n{name}", own.display()));
    // Copies of the host's files, which it can write; the kernel's switches it can't.
    assert_eq!(inside(host, &arn, "web", "cat /etc/hosts"), hosts);
    inside(host, &arn, "web", "echo 192.0.2.1 other >> /etc/hosts");
    let after = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert_eq!(after, hosts);
    let forwarding = "(echo 0 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo refused";
    assert_eq!(inside(host, &arn, "web", forwarding), "refused\n");
    let links = "(ip link add x0 type veth peer name x1) 2>/dev/null || echo refused";
    assert_eq!(inside(host, &arn, "web", links), "refused\n");
    // The port is its own until it has stopped.
    let second = try_start(host, &one);
    assert_eq!(
        second["failures"][0]["reason"], "RESOURCE:PORTS",
        "{second}"
    );
    stop(host, &arn);
    let third = start(host, &one);
    host.wait_status(&third, "RUNNING");
    stop(host, &third);
}

/// Reads the metadata of this address in a container.
pub fn metadata(host: &Host, task: &str, container: &str, address: &str) -> Value {
    let mut document = None;
    host.until(&format!("{address} answers"), || {
        document = ask_metadata(host, task, container, address);
        document.is_some()
    });
    document.unwrap()
}

/// Asks once; nothing where that isn't answered.
fn ask_metadata(host: &Host, task: &str, container: &str, address: &str) -> Option<Value> {
    let ask = format!("timeout 5 wget -q -O - {address} || true");
    serde_json::from_str(&inside(host, task, container, &ask)).ok()
}

pub fn metadata_address(host: &Host, task: &str, container: &str) -> String {
    let address = inside(host, task, container, "echo $ECS_CONTAINER_METADATA_URI_V4");
    address.trim().to_owned()
}

fn host_metadata(host: &Host) {
    host.image();
    host.agent();
    let sleeping = |mode: &str| {
        let ports = json!([{"containerPort": 18099, "protocol": "udp"}]);
        definition(
            mode,
            json!([container(
                "main",
                ports,
                "trap exit TERM; sleep 9999 & wait"
            )]),
        )
    };
    let on_host = start(host, &sleeping("host"));
    host.wait_status(&on_host, "RUNNING");
    let on_bridge = start(host, &sleeping("bridge"));
    host.wait_status(&on_bridge, "RUNNING");
    let address = metadata_address(host, &on_host, "main");
    let document = metadata(host, &on_host, "main", &address);
    assert_eq!(document["Networks"], json!([{"NetworkMode": "host"}]));
    assert_eq!(
        document["Ports"],
        json!([{"ContainerPort": 18099, "HostPort": 18099, "Protocol": "udp", "HostIp": "0.0.0.0"}])
    );
    assert_eq!(ask_metadata(host, &on_bridge, "main", &address), None);
    // And the other way round: an id is of no use from the host's network.
    let address = metadata_address(host, &on_bridge, "main");
    metadata(host, &on_bridge, "main", &address);
    assert_eq!(ask_metadata(host, &on_host, "main", &address), None);
    stop(host, &on_host);
    stop(host, &on_bridge);
}

fn own_localhost(host: &Host) {
    host.image();
    host.agent();
    let arn = start(
        host,
        // Without a mode it is bridge; both listen on the same port.
        &definition(
            "",
            json!([server("one", 80, json!([])), server("two", 80, json!([]))]),
        ),
    );
    let task = host.wait_status(&arn, "RUNNING");
    let (one, two) = (address_of(&task, 0), address_of(&task, 1));
    assert_ne!(one, two, "{task}");
    assert_eq!(task["attachments"], json!([]));
    let ask = |from: &str, whom: &str| {
        let ask = format!("timeout 5 wget -q -O - http://{whom}/ || true");
        inside(host, &arn, from, &ask)
    };
    for (from, own, other, answer) in [
        ("one", &one, &two, "hello of two\n"),
        ("two", &two, &one, "hello of one\n"),
    ] {
        let until = |whom: &str, answer: &str| {
            host.until(&format!("{whom} answers"), || ask(from, whom) == answer);
        };
        until(other, answer);
        let of_itself = format!("hello of {from}\n");
        until("127.0.0.1", &of_itself);
        until(own, &of_itself);
        let name = inside(host, &arn, from, "hostname; hostname -i");
        let dashed = own.replace('.', "-");
        assert_eq!(name, format!("ip-{dashed}.ec2.internal\n{own}\n"));
        until(&format!("ip-{dashed}.ec2.internal"), &of_itself);
    }
    // From another task's resolver too.
    let name = format!("ip-{}.ec2.internal", two.replace('.', "-"));
    let found = look_up_in(host, &arn, "one", &name);
    assert!(found.contains(&format!("Address: {two}")), "{found}");
    stop(host, &arn);
}

fn bridge_metadata(host: &Host) {
    host.image();
    host.agent();
    let ports = json!([{"containerPort": 80, "hostPort": 18091}]);
    let arn = start(
        host,
        &definition(
            "bridge",
            json!([
                container("one", ports, "trap exit TERM; sleep 9999 & wait"),
                container("two", json!([]), "trap exit TERM; sleep 9999 & wait"),
            ]),
        ),
    );
    let task = host.wait_status(&arn, "RUNNING");
    let address = metadata_address(host, &arn, "one");
    let document = metadata(host, &arn, "one", &address);
    assert_eq!(document["Name"], "one");
    assert_eq!(document["Networks"][0]["NetworkMode"], "bridge");
    assert_eq!(
        document["Networks"][0]["IPv4Addresses"],
        json!([address_of(&task, 0)])
    );
    assert_eq!(
        document["Ports"],
        json!([{"ContainerPort": 80, "HostPort": 18091, "Protocol": "tcp", "HostIp": "0.0.0.0"}])
    );
    let whole = metadata(host, &arn, "one", &format!("{address}/task"));
    assert_eq!(
        whole["Containers"][1]["Networks"][0]["IPv4Addresses"],
        json!([address_of(&task, 1)])
    );
    assert_eq!(ask_metadata(host, &arn, "two", &address), None);
    stop(host, &arn);
}

fn rules(host: &Host) {
    host.agent();
    let refuse = |mode: &str, change: Value, expected: &str| {
        let definition = definition(mode, json!([container("main", json!([]), "true")]));
        let registered = host.call("RegisterTaskDefinition", definition).unwrap();
        let name = registered["taskDefinition"]["taskDefinitionArn"].as_str();
        let mut request = json!({"taskDefinition": name});
        request
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let error = host.call("RunTask", request).unwrap_err();
        assert_eq!(error["__type"], "InvalidParameterException", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(expected), "{mode}: {message}");
    };
    let network = json!({"networkConfiguration": run_task("x")["networkConfiguration"]});
    for mode in ["", "bridge", "host", "none"] {
        let expected =
            "Network Configuration is not valid for the given networkMode of this task definition.";
        refuse(mode, network.clone(), expected);
        let expected = "Task definition does not support launch_type FARGATE.";
        refuse(mode, json!({"launchType": "FARGATE"}), expected);
    }
    let published = json!({"tags": [{"key": "berth:publish", "value": "18097:80"}]});
    refuse(
        "bridge",
        published,
        "tags: berth:publish: ports are published so under",
    );
    let expected = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
    refuse("awsvpc", json!({}), expected);
}

/// An agent that nobody asks for bridge mode starts there all the same.
fn range_of_the_host(host: &Host) {
    let route = |verb: &str| {
        let words = ["route", verb, "10.231.240.0/20", "dev", "lo"];
        let status = Command::new("ip").args(words).status().unwrap();
        assert!(status.success());
    };
    route("add");
    host.image();
    host.agent();
    let mapping = json!([{"containerPort": 80}]);
    let arn = start(
        host,
        &definition("bridge", json!([server("web", 80, mapping)])),
    );
    let task = host.wait_status(&arn, "RUNNING");
    assert!(address_of(&task, 0).starts_with("10.231.0."), "{task}");
    until_says(
        host,
        &format!("127.0.0.1:{}", host_port_of(&task, 0)),
        "hello of web",
    );
    assert!(host.agent_log().contains("10.231.240.0/20"));
    stop(host, &arn);
    route("del");
}

fn command_line(host: &Host) {
    host.image();
    for mode in ["bridge", "host", "none"] {
        let ran = host.run(&definition(
            mode,
            json!([container("main", json!([]), "echo in $0; exit 7")]),
        ));
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (7, "in sh\n"),
            "{mode}: {ran:?}"
        );
    }
    let ran = host.run_with(
        &["-p", "18097:80"],
        &definition("bridge", json!([container("main", json!([]), "true")])),
    );
    assert!(ran.stderr.contains("portMappings say"), "{ran:?}");
    host.agent();
    let ports = json!([{"containerPort": 80, "hostPort": 18097}]);
    let arn = start(
        host,
        &definition(
            "bridge",
            json!([server("web", 80, ports), server("more", 80, json!([]))]),
        ),
    );
    let task = host.wait_status(&arn, "RUNNING");
    let listed = host.succeed(&["ps"]);
    let addresses = format!("{},{}", address_of(&task, 0), address_of(&task, 1));
    assert!(listed.contains(&addresses), "{listed}");
    assert!(
        listed.contains("web (running) 0.0.0.0:18097->80/tcp, more (running)"),
        "{listed}"
    );
    stop(host, &arn);
}
