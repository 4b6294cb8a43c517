//! The definitions that ECS refuses, each with the member that its message must name.

use serde_json::{Value, json};

use super::super::{LaunchType, NetworkMode, TaskDefinition};
use crate::error::{ApiError, Code};
use crate::id::Place;

fn fargate() -> Value {
    json!({
        "family": "web",
        "networkMode": "awsvpc",
        "cpu": "256",
        "memory": "512",
        "requiresCompatibilities": ["FARGATE"],
        "containerDefinitions": [
            {"name": "app", "image": "busybox", "cpu": 64, "memory": 128,
             "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}]},
            {"name": "init", "image": "busybox", "essential": false}
        ]
    })
}

/// The error of `fargate()` with the member at `pointer` replaced, or removed by `Null`.
fn refusal(pointer: &str, value: Value) -> ApiError {
    let mut request = fargate();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    request
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .insert(name.to_owned(), value.clone());
    match TaskDefinition::from_request(request) {
        Err(error) => error,
        Ok(_) => panic!("{pointer} = {value} was accepted"),
    }
}

#[test]
fn a_fargate_definition_is_accepted_and_compatible_with_both_launch_types() {
    let definition = TaskDefinition::from_request(fargate()).unwrap();
    assert_eq!(
        definition.compatibilities,
        [LaunchType::Ec2, LaunchType::Fargate]
    );
    assert_eq!(definition.default_launch_type(), LaunchType::Fargate);
}

#[test]
fn each_mistake_is_a_client_exception_that_names_the_member() {
    let app = "/containerDefinitions/0";
    let cases = [
        ("/family", json!(null), "family is missing"),
        ("/family", json!("a b"), "family is 'a b'"),
        (
            "/containerDefinitions",
            json!([]),
            "containerDefinitions is missing",
        ),
        (
            "/containerDefinitions/0/image",
            json!(""),
            "containerDefinitions[0].image is missing",
        ),
        (
            "/containerDefinitions/0/name",
            json!("init"),
            "containerDefinitions[1].name is 'init', which an earlier",
        ),
        (
            "/containerDefinitions/0/essential",
            json!(false),
            "no container has 'essential' true",
        ),
        (
            "/containerDefinitions/1/essential",
            json!(true),
            "dependsOn[0].condition waits for the exit of 'init'",
        ),
        (
            "/containerDefinitions/0/memory",
            json!(1024),
            "containerDefinitions[0].memory is 1024",
        ),
        (
            "/containerDefinitions/1/memory",
            json!(500),
            "adds up to 628",
        ),
        ("/containerDefinitions/1/cpu", json!(200), "adds up to 264"),
        (
            "/containerDefinitions/0/cpu",
            json!(-1),
            "containerDefinitions[0].cpu is -1",
        ),
        (
            "/containerDefinitions/0/memory",
            json!(u64::MAX),
            "containerDefinitions[0].memory is 18446744073709551615",
        ),
        (
            "/containerDefinitions/0/memory",
            json!(5),
            "containerDefinitions[0].memory is 5",
        ),
        (
            "/containerDefinitions/0/memoryReservation",
            json!(256),
            "memoryReservation is 256",
        ),
        (
            "/containerDefinitions/0/stopTimeout",
            json!(121),
            "stopTimeout is 121",
        ),
        (
            "/containerDefinitions/0/workingDirectory",
            json!("srv"),
            "workingDirectory is 'srv'",
        ),
        (
            "/containerDefinitions/0/portMappings",
            json!([{"containerPort": 80, "hostPort": 81}]),
            "hostPort is 81",
        ),
        (
            "/containerDefinitions/0/portMappings",
            json!([{"containerPort": 70000}]),
            "containerPort is 70000",
        ),
        (
            "/containerDefinitions/0/ulimits",
            json!([{"name": "nofiles"}]),
            "ulimits[0].name is 'nofiles'",
        ),
        (
            "/containerDefinitions/0/ulimits",
            json!([{"name": "nofile", "softLimit": -1, "hardLimit": 10}]),
            "ulimits[0].softLimit is -1",
        ),
        (
            "/containerDefinitions/0/privileged",
            json!(true),
            "containerDefinitions[0].privileged is not supported",
        ),
        (
            "/containerDefinitions/0/colour",
            json!("blue"),
            "containerDefinitions[0].colour is not supported",
        ),
        (
            "/containerDefinitions/0/hostname",
            json!("web"),
            "hostname is not supported on container when networkMode=awsvpc.",
        ),
        (
            "/containerDefinitions/0/extraHosts",
            json!([{"hostname": "db", "ipAddress": "10.0.0.9"}]),
            "Extra hosts are not supported on container when networkMode=awsvpc.",
        ),
        (
            "/containerDefinitions/1/dnsServers",
            json!(["9.9.9.9"]),
            "DNS servers are not supported on container when networkMode=awsvpc. Remove containerDefinitions[1].dnsServers.",
        ),
        (
            "/containerDefinitions/0/dnsSearchDomains",
            json!(["example.com"]),
            "DNS search domains are not supported on container when networkMode=awsvpc.",
        ),
        (
            "/containerDefinitions/0/disableNetworking",
            json!(true),
            "Disable Networking is not supported on container when networkMode=awsvpc.",
        ),
        (
            "/containerDefinitions/0/links",
            json!(["db"]),
            "Links are not supported when networkMode=awsvpc.",
        ),
        (
            "/containerDefinitions/0/environment",
            json!([{"name": "A=B"}]),
            "environment[0].name is 'A=B'",
        ),
        (
            "/containerDefinitions/0/logConfiguration",
            json!({"logDriver": "splunk"}),
            "logDriver is 'splunk'",
        ),
        ("/networkMode", json!("nat"), "networkMode is 'nat'"),
        (
            "/networkMode",
            json!("bridge"),
            "Fargate only supports network mode \u{2018}awsvpc\u{2019}. networkMode is 'bridge'",
        ),
        ("/networkMode", json!(null), "networkMode is 'bridge'"),
        (
            "/cpu",
            json!("300"),
            "No Fargate configuration exists for given values",
        ),
        ("/cpu", json!("lots"), "cpu is 'lots'"),
        ("/cpu", json!("-256"), "cpu is '-256'"),
        (
            "/memory",
            json!(null),
            "Fargate requires task definition to have memory",
        ),
        (
            "/volumes",
            json!([{"name": "data"}]),
            "volumes is not supported",
        ),
    ];
    for (pointer, value, expected) in cases {
        let error = refusal(pointer, value);
        assert_eq!(error.code, Code::Client, "{pointer}: {error}");
        assert!(error.message.contains(expected), "{pointer}: {error}");
    }
    let missing = refusal(
        &format!("{app}/dependsOn"),
        json!([{"containerName": "db", "condition": "START"}]),
    );
    assert!(
        missing
            .message
            .contains("containerName is 'db', which is no container"),
        "{missing}"
    );
    let cycle = refusal(
        "/containerDefinitions/1/dependsOn",
        json!([{"containerName": "app", "condition": "START"}]),
    );
    assert!(cycle.message.contains("cycle among: app, init"), "{cycle}");
}

#[test]
fn a_wrong_type_is_a_serialization_exception() {
    assert_eq!(refusal("/family", json!(3)).code, Code::Serialization);
    assert_eq!(
        refusal("/containerDefinitions", json!("x")).code,
        Code::Serialization
    );
    assert_eq!(
        refusal("/containerDefinitions/0/cpu", json!("64")).code,
        Code::Serialization
    );
}

#[test]
fn without_any_memory_ec2_refuses() {
    let mut request = fargate();
    for member in ["cpu", "memory", "requiresCompatibilities"] {
        request.as_object_mut().unwrap().remove(member);
    }
    let error = TaskDefinition::from_request(request).unwrap_err();
    assert!(
        error
            .message
            .contains("container 'init'. At least one of 'memory'"),
        "{error}"
    );
}

#[test]
fn a_description_registers_again_and_is_described_the_same() {
    let place = Place {
        region: "us-east-1".into(),
        account: "000000000000".into(),
    };
    let first = TaskDefinition::from_request(fargate()).unwrap();
    let described = first.describe(&place).unwrap();
    let mut second = TaskDefinition::from_request(described).unwrap();
    second.registered_at = first.registered_at;
    assert_eq!(second, first);
}

/// `fargate()` for EC2 only, in a network mode.
fn ec2(mode: &str, port_mappings: [Value; 2]) -> Result<TaskDefinition, ApiError> {
    let mut request = fargate();
    request["requiresCompatibilities"] = json!(["EC2"]);
    request["networkMode"] = json!(mode);
    for (i, mappings) in port_mappings.into_iter().enumerate() {
        request["containerDefinitions"][i]["portMappings"] = mappings;
    }
    TaskDefinition::from_request(request)
}

#[test]
fn without_a_network_mode_it_is_bridge_and_runs_on_ec2_only() {
    let definition = ec2("", [json!([{"containerPort": 80}]), json!([])]).unwrap();
    assert_eq!(definition.network_mode, NetworkMode::Bridge);
    assert_eq!(definition.compatibilities, [LaunchType::Ec2]);
    assert_eq!(definition.default_launch_type(), LaunchType::Ec2);
}

#[test]
fn two_containers_of_a_task_can_not_have_the_same_port_of_the_hosts() {
    let same = |protocol: &str| {
        let port =
            |protocol: &str| json!([{"containerPort": 80, "hostPort": 80, "protocol": protocol}]);
        [port("tcp"), port(protocol)]
    };
    for mode in ["bridge", "host"] {
        assert!(ec2(mode, same("udp")).is_ok());
        let error = ec2(mode, same("tcp")).unwrap_err();
        assert!(
            error.message.contains("[1].portMappings[0].hostPort is 80"),
            "{error}"
        );
    }
    let chosen = json!([{"containerPort": 80}]);
    assert!(ec2("bridge", [chosen.clone(), chosen]).is_ok());
}

#[test]
fn a_task_has_as_many_ports_as_its_supervisor_has_sockets() {
    let range = |text: &str| json!([{"containerPortRange": text}]);
    assert!(ec2("bridge", [range("1-64"), range("1-64")]).is_ok());
    let error = ec2("bridge", [range("1-64"), range("1-65")]).unwrap_err();
    assert!(error.message.contains("add up to 129 ports"), "{error}");
    assert!(ec2("awsvpc", [range("1-64"), range("100-1000")]).is_ok());
}

#[test]
fn what_a_network_mode_does_not_have_is_refused() {
    let error = ec2("none", [json!([{"containerPort": 80}]), json!([])]).unwrap_err();
    assert!(
        error
            .message
            .starts_with("Port mappings are not supported when networkMode=none."),
        "{error}"
    );
    for mode in ["host", "none"] {
        let mut request = fargate();
        request["requiresCompatibilities"] = json!([]);
        request["networkMode"] = json!(mode);
        request["containerDefinitions"][0]["links"] = json!(["init"]);
        let error = TaskDefinition::from_request(request).unwrap_err();
        let expected = format!("Links are not supported when networkMode={mode}.");
        assert!(error.message.starts_with(&expected), "{error}");
    }
}
