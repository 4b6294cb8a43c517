//! The ECS API as clients that aren't ours see it, and who is let in.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};

use super::host::{Host, http, run_task, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "a_description_registers_again_unchanged",
        Needs::Kernel,
        register_again,
    ),
    Case(
        "definitions_are_listed_and_deregistered",
        Needs::Kernel,
        definitions,
    ),
    Case(
        "clusters_and_the_container_instance_are_described",
        Needs::Kernel,
        clusters,
    ),
    Case(
        "an_unknown_operation_and_a_broken_body_are_said_so",
        Needs::Kernel,
        unknown,
    ),
    Case(
        "requests_that_are_not_signed_or_come_from_elsewhere_are_refused",
        Needs::Kernel,
        refused,
    ),
    Case(
        "an_unprivileged_user_gets_no_connection",
        Needs::Kernel,
        unprivileged,
    ),
    Case(
        "without_authentication_only_loopback_is_served",
        Needs::Kernel,
        no_authentication,
    ),
    Case(
        "options_come_from_flags_environment_and_are_checked",
        Needs::Kernel,
        options,
    ),
    Case("a_stopped_task_tells_its_whole_story", Needs::Kernel, story),
];

fn register_again(host: &Host) {
    host.agent();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/task.json"));
    let example: Value = text.map_or_else(
        |_| script("true"),
        |text| serde_json::from_str(&text).unwrap(),
    );
    host.call("RegisterTaskDefinition", example.clone())
        .unwrap();
    let family = example["family"].as_str().unwrap();
    let describe = |revision: u32| {
        let name = format!("{family}:{revision}");
        host.call("DescribeTaskDefinition", json!({"taskDefinition": name}))
            .unwrap()["taskDefinition"]
            .clone()
    };
    let first = describe(1);
    host.call("RegisterTaskDefinition", first.clone()).unwrap();
    let mut second = describe(2);
    for member in ["revision", "taskDefinitionArn", "registeredAt"] {
        assert!(!first[member].is_null(), "{member} is missing");
        second[member] = first[member].clone();
    }
    assert_eq!(first, second);
}

fn definitions(host: &Host) {
    host.agent();
    for _ in 0..3 {
        host.call("RegisterTaskDefinition", script("true")).unwrap();
    }
    let list = |input: Value| host.call("ListTaskDefinitions", input).unwrap();
    let arn = |revision: u32| {
        format!("arn:aws:ecs:us-east-1:000000000000:task-definition/test:{revision}")
    };
    assert_eq!(
        list(json!({}))["taskDefinitionArns"],
        json!([arn(1), arn(2), arn(3)])
    );
    let page = list(json!({"maxResults": 2, "sort": "DESC"}));
    assert_eq!(page["taskDefinitionArns"], json!([arn(3), arn(2)]));
    let rest = list(json!({"maxResults": 2, "sort": "DESC", "nextToken": page["nextToken"]}));
    assert_eq!(rest, json!({"taskDefinitionArns": [arn(1)]}));
    let gone = host
        .call(
            "DeregisterTaskDefinition",
            json!({"taskDefinition": "test:3"}),
        )
        .unwrap();
    assert_eq!(gone["taskDefinition"]["status"], "INACTIVE");
    assert_eq!(
        list(json!({"status": "INACTIVE"}))["taskDefinitionArns"],
        json!([arn(3)])
    );
    let latest = host
        .call("DescribeTaskDefinition", json!({"taskDefinition": "test"}))
        .unwrap();
    assert_eq!(latest["taskDefinition"]["revision"], 2);
    let error = host.call("RunTask", run_task("test:3")).unwrap_err();
    assert!(
        error["message"].as_str().unwrap().contains("inactive"),
        "{error}"
    );
}

fn clusters(host: &Host) {
    host.agent();
    host.call("CreateCluster", json!({"clusterName": "team"}))
        .unwrap();
    let all = host
        .call(
            "DescribeClusters",
            json!({"clusters": ["default", "team", "lost"]}),
        )
        .unwrap();
    let names: Vec<_> = all["clusters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["clusterName"].clone())
        .collect();
    assert_eq!(names, [json!("default"), json!("team")]);
    assert_eq!(all["failures"][0]["reason"], "MISSING");
    assert_eq!(
        host.call("ListClusters", json!({})).unwrap()["clusterArns"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let listed = host.call("ListContainerInstances", json!({})).unwrap();
    let instance = listed["containerInstanceArns"][0].clone();
    let described = host
        .call(
            "DescribeContainerInstances",
            json!({"containerInstances": [instance]}),
        )
        .unwrap();
    let described = &described["containerInstances"][0];
    assert_eq!(
        (&described["status"], &described["agentConnected"]),
        (&json!("ACTIVE"), &json!(true))
    );
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(
        described["registeredResources"][0]["integerValue"],
        json!(cpus * 1024)
    );
    assert!(
        described["registeredResources"][1]["integerValue"]
            .as_i64()
            .unwrap()
            > 100
    );
}

fn unknown(host: &Host) {
    host.agent();
    assert_eq!(
        host.call("DescribeTheMoon", json!({})).unwrap_err()["__type"],
        "UnknownOperationException"
    );
    for input in [
        json!([]),
        json!("x"),
        json!({"tasks": "x"}),
        json!({"cluster": 1}),
    ] {
        assert_eq!(
            host.call("DescribeTasks", input).unwrap_err()["__type"],
            "SerializationException"
        );
    }
}

fn post(address: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let stream = TcpStream::connect(address).unwrap();
    let target = (
        "X-Amz-Target",
        "AmazonEC2ContainerServiceV20141113.ListClusters",
    );
    let headers: Vec<_> = [target, ("Content-Type", "application/x-amz-json-1.1")]
        .iter()
        .chain(headers)
        .copied()
        .collect();
    http(stream, &headers, "{}").unwrap()
}

fn refused(host: &Host) {
    host.agent();
    host.until("the API listens", || {
        TcpStream::connect("127.0.0.1:8088").is_ok()
    });
    let signature = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/ecs/aws4_request, \
                     SignedHeaders=host;x-amz-date;x-amz-target, Signature=0000";
    let cases: [&[(&str, &str)]; 4] = [
        &[("Host", "127.0.0.1:8088")],
        &[
            ("Host", "127.0.0.1:8088"),
            ("X-Amz-Date", "20260101T000000Z"),
            ("Authorization", signature),
        ],
        &[("Host", "evil.example")],
        &[
            ("Host", "127.0.0.1:8088"),
            ("Origin", "http://evil.example"),
        ],
    ];
    for headers in cases {
        let (status, body) = post("127.0.0.1:8088", headers);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &body["__type"]),
            (400, &json!("UnrecognizedClientException")),
            "{headers:?}: {body}"
        );
    }
    let key = host.succeed(&["credentials"]);
    assert!(
        key.contains("AWS_ACCESS_KEY_ID=BERTH")
            && key.contains("AWS_ENDPOINT_URL=http://127.0.0.1:8088"),
        "{key}"
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(host.root().join("credentials.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn unprivileged(host: &Host) {
    host.agent();
    use std::os::unix::fs::PermissionsExt;
    let socket = host.run_folder().join("berth.sock");
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    // A copy that everybody can run.
    let berth = host.folder().join("berth");
    std::fs::copy(super::host::berth_path(), &berth).unwrap();
    let list_tasks = || {
        let mut command = host.berth(&["ps"]);
        let envs: Vec<_> = command
            .get_envs()
            .map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned)))
            .collect();
        command = Command::new(&berth);
        command.arg("ps");
        for (name, value) in envs {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.uid(65534).gid(65534).output().unwrap()
    };
    let output = list_tasks();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("permission denied"), "{said}");
    // With its doors opened by root the same succeeds: it was they that held.
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&host.run_folder(), 0o711);
    open(&socket, 0o666);
    let output = list_tasks();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn no_authentication(host: &Host) {
    let said = host.fail(&["agent", "--api", "0.0.0.0:8088", "--api-auth", "none"]);
    assert!(said.contains("would be root here"), "{said}");
    host.agent_with(&["--api", "127.0.0.1:8097", "--api-auth", "none"], None);
    let mut answer = (0, String::new());
    host.until("the API listens", || {
        TcpStream::connect("127.0.0.1:8097").is_ok()
    });
    answer.clone_from(&post("127.0.0.1:8097", &[("Host", "127.0.0.1:8097")]));
    assert_eq!(answer.0, 200, "{answer:?}");
    let (status, _) = post("127.0.0.1:8097", &[("Host", "evil.example:8097")]);
    assert_eq!(
        status, 400,
        "a web page that leads here by a name of its own"
    );
}

fn options(host: &Host) {
    assert!(
        host.fail(&["ps", "--account", "12"])
            .contains("account is '12'; it must be twelve digits")
    );
    assert!(
        host.fail(&["ps", "--region", "a b"])
            .contains("region is 'a b'")
    );
    assert!(
        host.fail(&["ps", "--root", "x"])
            .contains("root is 'x'; it must be an absolute path")
    );
    host.agent_with(
        &["--region", "eu-west-1", "--account", "123456789012"],
        None,
    );
    let made = host.call("CreateCluster", json!({})).unwrap();
    assert_eq!(
        made["cluster"]["clusterArn"],
        "arn:aws:ecs:eu-west-1:123456789012:cluster/default"
    );
}

fn story(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("exit 3"));
    let task = host.wait_status(&arn, "STOPPED");
    let members = [
        "taskArn",
        "clusterArn",
        "taskDefinitionArn",
        "group",
        "launchType",
        "desiredStatus",
        "attachments",
        "cpu",
        "memory",
        "createdAt",
        "pullStartedAt",
        "pullStoppedAt",
        "startedAt",
        "stoppingAt",
        "executionStoppedAt",
        "stoppedAt",
        "stopCode",
        "stoppedReason",
        "version",
        "overrides",
        "connectivity",
        "platformVersion",
    ];
    for member in members {
        assert!(!task[member].is_null(), "{member} is missing: {task}");
    }
    let order = [
        "createdAt",
        "pullStartedAt",
        "pullStoppedAt",
        "startedAt",
        "stoppingAt",
        "stoppedAt",
    ];
    let moments: Vec<f64> = order
        .iter()
        .map(|name| task[name].as_f64().unwrap())
        .collect();
    assert!(moments.is_sorted(), "{task}");
    assert_eq!(task["attachments"][0]["status"], "DELETED");
    let container = &task["containers"][0];
    for member in [
        "containerArn",
        "runtimeId",
        "image",
        "imageDigest",
        "exitCode",
        "networkInterfaces",
        "lastStatus",
    ] {
        assert!(!container[member].is_null(), "{member} is missing: {task}");
    }
}
