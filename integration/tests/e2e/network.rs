//! What a task's containers reach over the network, and who reaches them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::host::{Host, run_task, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case("a_container_reads_its_metadata", Needs::Kernel, metadata),
    Case(
        "another_tasks_metadata_is_not_answered",
        Needs::Kernel,
        foreign_metadata,
    ),
    Case(
        "port_80_of_all_addresses_works_beside_the_endpoint",
        Needs::Kernel,
        port_80,
    ),
    Case(
        "there_is_no_route_to_instance_metadata",
        Needs::Kernel,
        no_instance_metadata,
    ),
    Case(
        "a_host_outside_is_reached_through_masquerading",
        Needs::Kernel,
        outside,
    ),
    Case(
        "a_published_port_is_on_loopback_in_both_families",
        Needs::Kernel,
        publish,
    ),
    Case(
        "a_port_published_to_everyone_is_at_the_hosts_addresses",
        Needs::Kernel,
        publish_to_everyone,
    ),
    Case(
        "a_port_that_is_taken_fails_the_task",
        Needs::Kernel,
        port_taken,
    ),
    Case(
        "security_groups_decide_who_reaches_a_task",
        Needs::Kernel,
        security_groups,
    ),
    Case(
        "a_flush_of_the_ruleset_opens_nothing",
        Needs::Kernel,
        flushed_ruleset,
    ),
    Case(
        "a_task_reaches_neither_the_api_nor_its_socket",
        Needs::Kernel,
        no_api,
    ),
];

fn metadata(host: &Host) {
    host.image();
    let ran = host.run(&script(
        // The agent may hear a moment after it that the container runs.
        "i=0; while [ $i -lt 900 ] && ! wget -q -O - $ECS_CONTAINER_METADATA_URI_V4 | grep -q '\"KnownStatus\":\"RUNNING\"'; \
         do sleep 0.1; i=$((i+1)); done; \
         wget -q -O - $ECS_CONTAINER_METADATA_URI_V4; echo; wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task; echo; \
         wget -q -O - http://169.254.170.2/v4/0000 || echo refused; hostname -i; grep eth0 /proc/net/if_inet6",
    ));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let container: Value = serde_json::from_str(lines[0]).unwrap_or_else(|_| panic!("{ran:?}"));
    let task: Value = serde_json::from_str(lines[1]).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!(container["Name"], "main");
    assert_eq!(container["KnownStatus"], "RUNNING");
    assert_eq!(
        container["Networks"][0]["IPv4Addresses"][0],
        lines[3].trim()
    );
    let ipv6 = container["Networks"][0]["IPv6Addresses"][0].as_str();
    let ipv6: Ipv6Addr = ipv6
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{container}"));
    let digits: String = ipv6
        .octets()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(lines[4].starts_with(&digits), "{ran:?}");
    for member in [
        "DockerId",
        "DockerName",
        "Image",
        "ImageID",
        "Labels",
        "DesiredStatus",
        "Limits",
        "CreatedAt",
        "StartedAt",
        "Type",
        "ContainerARN",
    ] {
        assert!(
            !container[member].is_null(),
            "{member} is missing: {container}"
        );
    }
    assert_eq!(task["Family"], "test");
    assert_eq!(task["Limits"], json!({"CPU": 0.25, "Memory": 512}));
    assert_eq!(task["LaunchType"], "FARGATE");
    assert_eq!(task["Containers"][0]["DockerId"], container["DockerId"]);
    for member in [
        "Cluster",
        "TaskARN",
        "Revision",
        "DesiredStatus",
        "KnownStatus",
        "AvailabilityZone",
        "PullStartedAt",
    ] {
        assert!(!task[member].is_null(), "{member} is missing: {task}");
    }
    assert_eq!(lines[2], "refused", "{ran:?}");
}

fn foreign_metadata(host: &Host) {
    host.image();
    host.agent();
    let first = host.start_task(&script(
        "echo $ECS_CONTAINER_METADATA_URI_V4; trap exit TERM; sleep 9999 & wait",
    ));
    host.wait_status(&first, "RUNNING");
    let mut address = String::new();
    host.until("the first task says its address", || {
        address = host.succeed(&["logs", &first]).trim().to_owned();
        address.starts_with("http://169.254.170.2/v4/")
    });
    let second = host.start_task(&script(&format!(
        "wget -q -O - {address} && echo read || echo refused"
    )));
    host.wait_status(&second, "STOPPED");
    assert_eq!(
        host.succeed(&["logs", &second]).lines().last(),
        Some("refused")
    );
    host.succeed(&["stop", &first]);
}

fn port_80(host: &Host) {
    host.image();
    let ran = host.run(&script(
        "httpd -p 0.0.0.0:80 -h /www; wget -q -O - http://127.0.0.1/; wget -q -O - http://$(hostname -i)/; \
         wget -q -O - $ECS_CONTAINER_METADATA_URI_V4 | cut -c 1-10",
    ));
    assert_eq!(
        ran.stdout, "hello over localhost\nhello over localhost\n{\"DockerId\n",
        "{ran:?}"
    );
}

fn no_instance_metadata(host: &Host) {
    host.image();
    let ran = host.run(&script(
        "nc -w 2 169.254.169.254 80 < /dev/null 2>&1 && echo reached; ip route show table all | grep 169.254.169.254; \
         ip route del blackhole 169.254.169.254 2>/dev/null; nc -w 2 169.254.169.254 80 < /dev/null && echo reached; true",
    ));
    assert!(!ran.stdout.contains("reached"), "{ran:?}");
    assert!(ran.stdout.contains("blackhole 169.254.169.254"), "{ran:?}");
}

/// A host of its own network namespace, on the other end of a link.
pub struct Outside(Child);

impl Outside {
    pub fn new() -> Self {
        let child = Command::new("unshare")
            .args(["-n", "sleep", "9999"])
            .spawn()
            .unwrap();
        let outside = Self(child);
        let pid = outside.0.id().to_string();
        // The namespace is there when the program runs.
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
            == std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        ip(&[
            "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", &pid,
        ]);
        ip(&["addr", "add", "192.168.77.1/24", "dev", "up0"]);
        ip(&["link", "set", "up0", "up"]);
        for command in [
            "ip addr add 192.168.77.2/24 dev out0",
            "ip link set out0 up",
            "ip link set lo up",
        ] {
            assert!(
                outside.enter(command).status().unwrap().success(),
                "{command}"
            );
        }
        outside
    }

    /// Its network namespace.
    pub fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// A datagram socket of the outside host's.
    pub fn socket(&self, address: &'static str) -> UdpSocket {
        let namespace = File::open(self.namespace()).unwrap();
        let open = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            UdpSocket::bind(address).unwrap()
        };
        std::thread::spawn(open).join().unwrap()
    }

    /// A command in the outside host. It has no route back to tasks.
    pub fn enter(&self, command: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.0.id().to_string(), "-n", "sh", "-c", command]);
        nsenter
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        Command::new("ip")
            .args(["link", "del", "up0"])
            .status()
            .ok();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ip(args: &[&str]) {
    assert!(
        Command::new("ip").args(args).status().unwrap().success(),
        "ip {args:?}"
    );
}

fn outside(host: &Host) {
    host.image();
    let outside = Outside::new();
    let busybox = std::env::var("BERTH_BUSYBOX").unwrap_or_else(|_| "/bin/busybox".into());
    let mut server = outside
        .enter(&format!("exec {busybox} nc -l -p 7000 -e {busybox} sh -c 'echo greetings; {busybox} netstat -tn'"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let ran = host.run(&script("for i in $(seq 300); do nc 192.168.77.2 7000 < /dev/null && exit 0; sleep 0.2; done; exit 1"));
    server.kill().ok();
    server.wait().unwrap();
    assert_eq!(
        (ran.code, ran.stdout.lines().next()),
        (0, Some("greetings")),
        "{ran:?}"
    );
    // What the outside host lists of its own connections.
    assert!(
        ran.stdout.contains("192.168.77.1:"),
        "it sees the host's address, not the task's: {ran:?}"
    );
    assert!(
        !ran.stdout.contains("10.231.0."),
        "it sees the host's address, not the task's: {ran:?}"
    );
}

fn publish(host: &Host) {
    host.image();
    let task = script("httpd -p 80 -h /www; trap exit TERM; sleep 9999 & wait");
    let child = host.start_run(&["-p", "18080:80"], &task);
    for address in ["127.0.0.1:18080", "[::1]:18080"] {
        let mut answer = String::new();
        host.until("the port answers", || {
            let Ok(mut stream) = TcpStream::connect(address) else {
                return false;
            };
            answer.clear();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.contains("hello over localhost")
        });
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    host.ran(child);
}

fn publish_to_everyone(host: &Host) {
    const ADDRESS: &str = "192.0.2.77";
    let on_loopback = |verb: &str| {
        let mut ip = Command::new("ip");
        ip.args(["addr", verb, &format!("{ADDRESS}/32"), "dev", "lo"]);
        assert!(ip.status().unwrap().success());
    };
    host.image();
    on_loopback("add");
    let task = script("httpd -p 80 -h /www; trap exit TERM; sleep 9999 & wait");
    let child = host.start_run(&["-p", "*:18083:80", "-p", "*:18083:53/udp"], &task);
    for address in [ADDRESS, "127.0.0.1"] {
        host.until("the port answers", || {
            let Ok(mut stream) = TcpStream::connect((address, 18083)) else {
                return false;
            };
            let mut answer = String::new();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.contains("hello over localhost")
        });
    }
    // It is nobody else's meanwhile.
    assert!(std::net::TcpListener::bind("0.0.0.0:18083").is_err());
    assert!(std::net::UdpSocket::bind("0.0.0.0:18083").is_err());
    let second = host.run_with(&["-p", "*:18083:80"], &script("true"));
    assert_eq!(second.code, 125, "{second:?}");
    assert!(second.stderr.contains("18083"), "{second:?}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    host.ran(child);
    assert!(TcpStream::connect((ADDRESS, 18083)).is_err());
    on_loopback("del");
}

fn port_taken(host: &Host) {
    host.image();
    let _listener = std::net::TcpListener::bind("127.0.0.1:18081").unwrap();
    let ran = host.run_with(&["-p", "18081:80"], &script("true"));
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("publishing port 18081"), "{ran:?}");
    let tasks = std::fs::read_dir(host.folder().join("root/tasks")).unwrap();
    for task in tasks {
        let logs = std::fs::read_dir(task.unwrap().path().join("logs")).unwrap();
        assert_eq!(logs.count(), 0, "a container was started: {ran:?}");
    }
    let ran = host.run_with(&["-p", "x:80"], &script("true"));
    assert!(
        ran.stderr.contains("'x:80' is no port to publish"),
        "{ran:?}"
    );
}

fn no_api(host: &Host) {
    host.image();
    host.agent_with(&["--api", "0.0.0.0:8099"], None);
    // From the host it is there, at the address that the task then tries.
    host.until("the API listens", || {
        TcpStream::connect("10.231.0.1:8099").is_ok()
    });
    let arn = host.start_task(&script(
        "for a in 127.0.0.1 10.231.0.1 169.254.170.2; do nc -w 2 $a 8099 < /dev/null && echo reached $a; done; \
         find / -name '*.sock' 2>/dev/null; echo end",
    ));
    host.wait_status(&arn, "STOPPED");
    assert_eq!(
        host.succeed(&["logs", &arn])
            .lines()
            .filter(|line| !line.contains("nc:"))
            .collect::<Vec<_>>(),
        ["end"]
    );
}

/// Starts a task of the definition in a subnet of the host's file and in this group.
fn start_in(host: &Host, group: &str, definition: &Value) -> String {
    let registered = host
        .call("RegisterTaskDefinition", definition.clone())
        .unwrap();
    let name = registered["taskDefinition"]["taskDefinitionArn"].as_str();
    let mut request = run_task(name.unwrap());
    request["networkConfiguration"]["awsvpcConfiguration"] =
        json!({"subnets": [FILES_SUBNET], "securityGroups": [group]});
    let started = host.call("RunTask", request).unwrap();
    started["tasks"][0]["taskArn"].as_str().unwrap().to_owned()
}

const FILES_SUBNET: &str = "subnet-00000000000000007";

/// Before Linux 6.9 anybody can remove the tables, and the agent puts them back.
fn flushed_ruleset(host: &Host) {
    let nft = |words: &[&str]| Command::new("nft").args(words).output().unwrap();
    host.image();
    host.agent();
    let server = host.start_task(&script(
        "httpd -p 80 -h /www; trap exit TERM; sleep 9999 & wait",
    ));
    let task = host.wait_status(&server, "RUNNING");
    let address = task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"].as_str();
    let address = address.unwrap();
    assert!(nft(&["flush", "ruleset"]).status.success());
    host.until("both tables are there", || {
        let tables = nft(&["list", "tables"]).stdout;
        String::from_utf8_lossy(&tables).matches("berth").count() == 2
    });
    let _listener = std::net::TcpListener::bind("0.0.0.0:9999").unwrap();
    let asks = script(&format!(
        "i=0; until timeout 3 wget -q -O - http://{address}/; do [ $i -lt 100 ] || exit 8; i=$((i+1)); done; timeout 3 nc 10.231.0.1 9999 < /dev/null && exit 9; exit 0"
    ));
    let task = host.wait_status(&host.start_task(&asks), "STOPPED");
    assert_eq!(task["containers"][0]["exitCode"], 0, "{task}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let is_kept = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    let log = host.agent_log();
    assert_eq!(log.contains("they are back"), !is_kept, "{log}");
    host.succeed(&["stop", &server]);
}

fn security_groups(host: &Host) {
    let (web, friend, stranger) = (
        "sg-00000000000000002",
        "sg-00000000000000003",
        "sg-00000000000000004",
    );
    let open = json!({"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
        "UserIdGroupPairs": [{"GroupId": friend}]});
    host.network(&json!({
        "Subnets": [{"SubnetId": FILES_SUBNET, "CidrBlock": "10.77.0.0/24", "Bridge": "files0"}],
        "SecurityGroups": [
            {"GroupId": web, "GroupName": "web", "IpPermissions": [open]},
            {"GroupId": friend},
            {"GroupId": stranger},
        ],
    }));
    host.image();
    host.agent();
    let server = script("httpd -p 80 -h /www; echo serving; trap exit TERM; sleep 9999 & wait");
    let server = start_in(host, web, &server);
    let task = host.wait_status(&server, "RUNNING");
    let address = task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"].as_str();
    assert_eq!(address, Some("10.77.0.4"), "{task}");
    // It may take a moment to serve; who is let in gets there in the end.
    let may = script(
        "i=0; while [ $i -lt 100 ]; do timeout 3 wget -q -O - http://10.77.0.4/ && exit 0; i=$((i+1)); done; exit 9",
    );
    let may_not = script("timeout 3 wget -q -O - http://10.77.0.4/ && exit 0; exit 9");
    let asks = |group: &str, asks: &Value, code: i32| {
        let task = host.wait_status(&start_in(host, group, asks), "STOPPED");
        assert_eq!(task["containers"][0]["exitCode"], code, "{group}: {task}");
    };
    asks(friend, &may, 0);
    asks(stranger, &may_not, 9);
    // The file changes, and the group that was let in is not any more; the other one is.
    let network = |group: &str| {
        json!({
            "Subnets": [{"SubnetId": FILES_SUBNET, "CidrBlock": "10.77.0.0/24", "Bridge": "files0"}],
            "SecurityGroups": [
                {"GroupId": web, "GroupName": "web", "IpPermissions": [
                    {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [{"GroupId": group}]},
                ]},
                {"GroupId": friend},
                {"GroupId": stranger},
            ],
        })
    };
    host.network(&network("sg-0000000000000000x"));
    host.reload_agent();
    host.until("the log says what is wrong", || {
        host.agent_log().contains("sg-0000000000000000x")
    });
    host.network(&network(stranger));
    host.reload_agent();
    host.until("the groups are as the file has them", || {
        host.agent_log().contains("groups=5")
    });
    asks(friend, &may_not, 9);
    asks(stranger, &may, 0);
    assert!(!host.agent_log().contains("other subnets"));
    host.call("StopTask", json!({"task": server})).unwrap();
    host.wait_status(&server, "STOPPED");
}
