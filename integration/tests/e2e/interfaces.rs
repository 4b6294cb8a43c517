//! Interfaces of tasks: prepared ones, none left, and public addresses.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use nix::unistd::Pid;
use serde_json::{Value, json};

use super::crash::supervisor_of;
use super::host::{Host, run_task, script};
use super::{Case, Needs, modes};

pub const CASES: &[Case] = &[
    Case(
        "the_next_task_gets_an_interface_that_was_prepared",
        Needs::Kernel,
        prepared,
    ),
    Case(
        "a_supervisor_has_no_socket_and_no_namespace_of_the_agents",
        Needs::Kernel,
        nothing_is_handed_on,
    ),
    Case(
        "a_subnet_without_a_free_address_is_told_as_ecs_does",
        Needs::Kernel,
        exhausted,
    ),
    Case(
        "a_public_address_leads_to_the_task_that_was_assigned_it",
        Needs::Kernel,
        public_address,
    ),
];

const SUBNET: &str = "subnet-00000000000000007";
const GROUP: &str = "sg-00000000000000002";

fn host_links() -> BTreeSet<String> {
    let listed = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = listed.lines().filter_map(|line| line.split_once(':'));
    let names = names.map(|(name, _)| name.trim().to_owned());
    names.filter(|name| name.starts_with("eni-")).collect()
}

fn detail<'a>(task: &'a Value, name: &str) -> &'a str {
    let details = task["attachments"][0]["details"].as_array().unwrap();
    let found = details.iter().find(|detail| detail["name"] == name);
    found.unwrap()["value"].as_str().unwrap()
}

/// Starts an agent, and waits until it prepares interfaces, too: that begins when it listens for the API.
fn preparing_agent(host: &Host) {
    host.agent();
    let api: SocketAddr = "127.0.0.1:8088".parse().unwrap();
    host.until("the API answers", || modes::get(api).is_some());
}

/// A socket into a prepared interface's namespace, above all: it would lead into another task's.
fn nothing_is_handed_on(host: &Host) {
    host.image();
    preparing_agent(host);
    let agent = host.agent_pid();
    let one = host.start_task(&script("exec sleep 3000"));
    host.wait_status(&one, "RUNNING");
    let is_namespace = |target: &String| target.starts_with("net:");
    host.until("an interface is prepared", || {
        open_in(agent).iter().any(is_namespace)
    });
    let another = host.start_task(&script("exec sleep 3000"));
    host.wait_status(&another, "RUNNING");
    let shared: Vec<String> = open_in(supervisor_of(&another))
        .intersection(&open_in(agent))
        .filter(|target| target.starts_with("socket:") || is_namespace(target))
        .cloned()
        .collect();
    assert!(shared.is_empty(), "{shared:?}");
    for arn in [one, another] {
        host.succeed(&["stop", &arn]);
    }
}

/// What a process has open, by the kernel's names of it.
fn open_in(process: Pid) -> BTreeSet<String> {
    let listing = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let targets = listing
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

fn prepared(host: &Host) {
    host.image();
    preparing_agent(host);
    let sleep = script("trap exit TERM; sleep 9999 & wait");
    let first = host.start_task(&sleep);
    host.wait_status(&first, "RUNNING");
    host.until("others are prepared", || host_links().len() == 9);
    let before = host_links();
    let second = host.start_task(&sleep);
    let task = host.wait_status(&second, "RUNNING");
    let id = detail(&task, "networkInterfaceId");
    let link = format!("eni-{}", &id[id.len() - 11..]);
    assert!(before.contains(&link), "{link}: {before:?}");
    host.until("and another", || host_links().len() == 10);
    // They go with the agent, and the tasks' stay.
    host.kill_agent();
    host.until("they are gone", || host_links().len() == 2);
    host.agent();
    for task in [first, second] {
        host.call("StopTask", json!({"task": task})).unwrap();
        host.wait_status(&task, "STOPPED");
    }
}

fn add(to: &mut Value, members: Value) {
    let members = members.as_object().unwrap().clone();
    to.as_object_mut().unwrap().extend(members);
}

/// RunTask in the subnet; what it answers, or what it refuses with.
fn run_in(host: &Host, definition: &Value, awsvpc: Value, with: Value) -> Value {
    let registered = host
        .call("RegisterTaskDefinition", definition.clone())
        .unwrap();
    let name = registered["taskDefinition"]["taskDefinitionArn"].as_str();
    let mut request = run_task(name.unwrap());
    let configuration = &mut request["networkConfiguration"]["awsvpcConfiguration"];
    *configuration = json!({"subnets": [SUBNET]});
    add(configuration, awsvpc);
    add(&mut request, with);
    host.call("RunTask", request)
        .unwrap_or_else(|refused| refused)
}

fn exhausted(host: &Host) {
    // Sixteen addresses, less the five that every subnet keeps.
    host.network(&json!({
        "Subnets": [{"SubnetId": SUBNET, "CidrBlock": "10.77.0.0/28", "Bridge": "files0"}],
    }));
    host.image();
    host.agent();
    let sleep = script("trap exit TERM; sleep 9999 & wait");
    let mut tasks = Vec::new();
    let mut of_instance = sleep.clone();
    of_instance["requiresCompatibilities"] = json!(["EC2"]);
    let on_instance = |count: u32| json!({"launchType": "EC2", "count": count});
    let started = run_in(host, &sleep, json!({}), json!({"count": 10}));
    // Two for one address: those that have none yet count, too.
    let answer = run_in(host, &of_instance, json!({}), on_instance(2));
    assert_eq!(answer["failures"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["failures"][0]["reason"], "RESOURCE:ENI", "{answer}");
    for task in [&started, &answer].map(|answer| answer["tasks"].as_array().unwrap()) {
        let arns = task.iter().map(|task| task["taskArn"].as_str().unwrap());
        tasks.extend(arns.map(str::to_owned));
    }
    assert_eq!(tasks.len(), 11);
    for task in &tasks {
        host.wait_status(task, "RUNNING");
    }
    let started = run_in(host, &sleep, json!({}), json!({}));
    let full = started["tasks"][0]["taskArn"].as_str().unwrap();
    let task = host.wait_status(full, "STOPPED");
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task}");
    let reason = task["stoppedReason"].as_str().unwrap();
    let expected = format!(
        "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment disabled in \
         subnet '{SUBNET}': InsufficientFreeAddressesInSubnet"
    );
    assert!(reason.starts_with(&expected), "{reason}");
    assert!(reason.contains("stop a task"), "{reason}");
    let answer = run_in(host, &of_instance, json!({}), on_instance(1));
    assert_eq!(answer["tasks"], json!([]), "{answer}");
    assert_eq!(answer["failures"][0]["reason"], "RESOURCE:ENI", "{answer}");
    for task in &tasks {
        host.call("StopTask", json!({"task": task})).unwrap();
    }
    for task in tasks {
        host.wait_status(&task, "STOPPED");
    }
}

fn public_address(host: &Host) {
    let from_everywhere = json!([{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
        "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]);
    host.network(&json!({
        "Subnets": [{"SubnetId": SUBNET, "CidrBlock": "10.77.0.0/24", "Bridge": "files0"}],
        "SecurityGroups": [{"GroupId": GROUP, "IpPermissions": from_everywhere}],
        "PublicIpv4Pool": ["203.0.113.8"],
    }));
    host.image();
    host.agent();
    let public = json!({"assignPublicIp": "ENABLED", "securityGroups": [GROUP]});
    let mut serves = script("httpd -p 80 -h /www; trap exit TERM; sleep 9999 & wait");
    let started = run_in(host, &serves, public.clone(), json!({}));
    let task = started["tasks"][0]["taskArn"].as_str().unwrap();
    host.wait_status(task, "RUNNING");
    // Any way will do: what is sent there goes to the task instead.
    let route = ["route", "add", "203.0.113.8", "dev", "files0"];
    let routed = Command::new("ip").args(route).status().unwrap();
    assert!(routed.success());
    host.until("the address leads to it", || {
        TcpStream::connect("203.0.113.8:80").is_ok()
    });
    let started = run_in(host, &serves, public.clone(), json!({}));
    let second = started["tasks"][0]["taskArn"].as_str().unwrap();
    let stopped = host.wait_status(second, "STOPPED");
    let reason = stopped["stoppedReason"].as_str().unwrap();
    assert!(reason.contains("PublicIpv4Pool"), "{reason}");
    serves["requiresCompatibilities"] = json!(["EC2"]);
    let refused = run_in(host, &serves, public, json!({"launchType": "EC2"}));
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("Assign public IP is not supported for this launch type."),
        "{refused}"
    );
    host.call("StopTask", json!({"task": task})).unwrap();
    host.wait_status(task, "STOPPED");
}
