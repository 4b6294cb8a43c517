//! `berth network`: what it shows of the network, and that what it says of a connection is what becomes of it.

use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use super::host::{Host, run_task, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "it_says_what_becomes_of_a_connection_and_why",
        Needs::Kernel,
        says_what_becomes_of_it,
    ),
    Case(
        "it_shows_subnets_interfaces_and_groups",
        Needs::Kernel,
        shows_what_there_is,
    ),
];

const SUBNET: &str = "subnet-00000000000000007";
const WEB: &str = "sg-00000000000000002";
const FRIEND: &str = "sg-00000000000000003";

/// A server, and one whom its group lets in; the ids of their tasks.
fn server_and_friend(host: &Host) -> [String; 2] {
    let open = json!({"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
        "UserIdGroupPairs": [{"GroupId": FRIEND}]});
    host.network(&json!({
        "Subnets": [{"SubnetId": SUBNET, "CidrBlock": "10.77.0.0/24", "Bridge": "files0"}],
        "SecurityGroups": [{"GroupId": WEB, "IpPermissions": [open]}, {"GroupId": FRIEND}],
    }));
    host.image();
    host.agent();
    let server = "trap 'exit 0' TERM; httpd -p 81 -h /www; httpd -p 80 -h /www; sleep 9999 & wait";
    [
        (WEB, server),
        (FRIEND, "trap 'exit 0' TERM; sleep 9999 & wait"),
    ]
    .map(|(group, program)| {
        let registered = host
            .call("RegisterTaskDefinition", script(program))
            .unwrap();
        let name = registered["taskDefinition"]["taskDefinitionArn"].as_str();
        let mut request = run_task(name.unwrap());
        request["networkConfiguration"]["awsvpcConfiguration"] =
            json!({"subnets": [SUBNET], "securityGroups": [group]});
        let started = host.call("RunTask", request).unwrap();
        let arn = started["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
        host.wait_status(&arn, "RUNNING");
        arn.rsplit('/').next().unwrap().to_owned()
    })
}

fn stop(host: &Host, tasks: &[String]) {
    for task in tasks {
        host.call("StopTask", json!({"task": task})).unwrap();
        host.wait_status(task, "STOPPED");
    }
}

/// The exit code of `check`, and what it says.
fn check(host: &Host, words: &[&str]) -> (i32, String) {
    let output = host
        .berth(&[&["network", "check"], words].concat())
        .output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap_or(-1);
    (code, String::from_utf8_lossy(&said).into_owned())
}

fn says_what_becomes_of_it(host: &Host) {
    let tasks = server_and_friend(host);
    let [server, friend] = [&tasks[0][..12], &tasks[1][..12]];
    let reaches = |address: &str, port: &str| {
        let fetch = format!("timeout 5 wget -q -O - http://{address}:{port}/");
        let exec = ["exec", &tasks[1], "--", "sh", "-c", &fetch];
        host.berth(&exec).output().unwrap().status.success()
    };
    host.until("the server serves", || reaches("10.77.0.4", "80"));
    let (code, said) = check(host, &[friend, server, "80"]);
    assert_eq!(code, 0, "{said}");
    let rule =
        "ingress rule of sg-00000000000000002 lets it pass: tcp 80 from sg-00000000000000003";
    assert!(
        said.contains(rule) && said.ends_with("It passes.\n"),
        "{said}"
    );
    let (code, said) = check(host, &[friend, "10.77.0.4", "81"]);
    assert_eq!((code, reaches("10.77.0.4", "81")), (1, false), "{said}");
    assert!(
        said.contains("no ingress rule of sg-00000000000000002 lets 81/tcp pass"),
        "{said}"
    );
    assert!(
        said.contains(r#"add to IpPermissions of sg-00000000000000002"#),
        "{said}"
    );
    let (code, said) = check(host, &["host", server, "81"]);
    assert_eq!(code, 0, "{said}");
    assert!(TcpStream::connect("10.77.0.4:81").is_ok());
    let (code, said) = check(host, &["outside", server, "80", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["verdict"]), (1, &json!("blocked")), "{said}");
    for (wrong, what) in [
        (
            &["nobody", server, "80"][..],
            "no task begins with 'nobody'",
        ),
        (&["outside", "internet", "80"], "is a task's or the host's"),
        (&[friend, server, "http"], "1 to 65535"),
        (&[friend, server, "80", "-6"], "has no address of IPv6"),
    ] {
        let (code, said) = check(host, wrong);
        assert!(code == 2 && said.contains(what), "{code} {said}");
    }
    // Of a dead agent's tables nobody keeps others.
    host.kill_agent();
    for family in ["inet", "bridge"] {
        let nft = Command::new("nft")
            .args(["delete", "table", family, "berth"])
            .status();
        assert!(nft.unwrap().success());
    }
    let (code, said) = check(host, &[friend, server, "80"]);
    assert_eq!((code, reaches("10.77.0.4", "80")), (1, false), "{said}");
    assert!(
        said.contains("the nftables tables inet berth and bridge berth are gone"),
        "{said}"
    );
    host.agent();
    assert_eq!(check(host, &[friend, server, "80"]).0, 0);
    stop(host, &tasks);
}

fn shows_what_there_is(host: &Host) {
    let tasks = server_and_friend(host);
    let [server, friend] = [tasks[0].as_str(), tasks[1].as_str()];
    let json = |words: &[&str]| -> Value {
        let words = [&["network"], words, &["--json"]].concat();
        serde_json::from_str(&host.succeed(&words)).unwrap()
    };
    let all = json(&["ls"]);
    assert_eq!(all["subnets"][0]["used"], 2, "{all}");
    assert_eq!(all["subnets"][0]["bridge"], "files0");
    let interfaces = all["interfaces"].as_array().unwrap();
    let of_server = interfaces.iter().find(|one| one["task"] == server).unwrap();
    assert_eq!(of_server["addresses"], json!(["10.77.0.4"]), "{all}");
    assert_eq!(of_server["linkState"], "up");
    let table = host.succeed(&["network", "ls"]);
    for word in [
        SUBNET,
        "10.77.0.0/24",
        "249",
        server,
        friend,
        "10.77.0.5",
        FRIEND,
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let one = json(&["inspect", &server[..12]]);
    assert!(
        one["idRange"]["first"].as_u64() >= Some(0x6000_0000),
        "{one}"
    );
    assert_eq!(
        (&one["task"], &one["missingElements"]),
        (&json!(server), &json!([])),
        "{one}"
    );
    let open = one["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["group"] == WEB);
    let open = open.unwrap();
    assert_eq!(
        (&open["rule"], &open["inKernel"]),
        (&json!("tcp 80 from sg-00000000000000003"), &json!(true))
    );
    let group = json(&["inspect", WEB]);
    assert_eq!(group["members"], json!([one["eniId"]]), "{group}");
    let subnet = json(&["inspect", SUBNET]);
    assert_eq!(
        subnet["interfaces"].as_array().map(Vec::len),
        Some(2),
        "{subnet}"
    );
    for name in [SUBNET, WEB, server, one["eniId"].as_str().unwrap()] {
        assert!(!host.succeed(&["network", "inspect", name]).is_empty());
    }
    host.fail(&["network", "inspect", "sg-00000000000000009"]);
    stop(host, &tasks);
    assert_eq!(json(&["ls"])["interfaces"], json!([]));
}
