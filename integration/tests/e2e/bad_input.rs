//! Definitions and requests that can't be done: the error names the field, and nothing is stored.

use serde_json::{Value, json};

use super::host::{Host, SUBNET, definition, run_task, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "a_bad_definition_is_refused_by_its_field_and_not_stored",
        Needs::Kernel,
        definitions,
    ),
    Case(
        "a_run_task_that_can_not_be_is_refused_as_ecs_does",
        Needs::Kernel,
        run_tasks,
    ),
    Case(
        "an_image_that_can_not_be_pulled_fails_the_task",
        Needs::Kernel,
        no_image,
    ),
    Case(
        "a_file_that_is_no_definition_is_an_error",
        Needs::Kernel,
        no_definition,
    ),
];

fn definitions(host: &Host) {
    host.agent();
    let c = |extra: Value| {
        let mut container = json!({"name": "a", "image": "box"});
        container
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        container
    };
    let with = |containers: Value| definition(containers);
    let mut no_family = with(json!([c(json!({}))]));
    no_family.as_object_mut().unwrap().remove("family");
    let mut no_memory = with(json!([c(json!({}))]));
    for member in ["cpu", "memory", "requiresCompatibilities"] {
        no_memory.as_object_mut().unwrap().remove(member);
    }
    let mut odd_size = with(json!([c(json!({}))]));
    odd_size["memory"] = json!("513");
    let on = |name: &str| json!({"dependsOn": [{"containerName": name, "condition": "START"}]});
    let mut second = c(on("a"));
    second["name"] = json!("b");
    let cases = [
        (no_family, "family"),
        (with(json!([])), "containerDefinitions"),
        (
            with(json!([{"name": "a"}])),
            "containerDefinitions[0].image",
        ),
        (
            with(json!([c(json!({})), c(json!({}))])),
            "containerDefinitions[1].name",
        ),
        (with(json!([c(on("b")), second])), "cycle"),
        (with(json!([c(on("z"))])), "dependsOn[0].containerName"),
        (with(json!([c(json!({"memory": 513}))])), "memory"),
        (with(json!([c(json!({"cpu": 257}))])), "cpu"),
        (no_memory, "memory"),
        (odd_size, "No Fargate configuration exists"),
        (
            with(json!([c(json!({"cpu": -1}))])),
            "containerDefinitions[0].cpu",
        ),
        (
            with(json!([c(json!({"memory": 99999999999i64}))])),
            "containerDefinitions[0].memory",
        ),
        (
            with(json!([c(json!({"privileged": true}))])),
            "containerDefinitions[0].privileged",
        ),
    ];
    for (request, field) in cases {
        let error = host
            .call("RegisterTaskDefinition", request.clone())
            .expect_err(field);
        let kind = error["__type"].as_str().unwrap();
        assert!(
            ["ClientException", "InvalidParameterException"].contains(&kind),
            "{error}"
        );
        assert!(
            error["message"].as_str().unwrap().contains(field),
            "{field}: {error}"
        );
    }
    let error = host
        .call("RegisterTaskDefinition", json!({"family": 5}))
        .unwrap_err();
    assert_eq!(error["__type"], "SerializationException");
    let listed = host.call("ListTaskDefinitions", json!({})).unwrap();
    assert_eq!(listed["taskDefinitionArns"], json!([]), "nothing is stored");
}

fn run_tasks(host: &Host) {
    host.agent();
    host.call("RegisterTaskDefinition", script("true")).unwrap();
    let with = |member: &str, value: Value| {
        let mut request = run_task("test");
        request[member] = value;
        request
    };
    let subnet = |id: &str| json!({"awsvpcConfiguration": {"subnets": [id]}});
    let groups = json!({"awsvpcConfiguration": {"subnets": [SUBNET], "securityGroups": ["sg-1"]}});
    let cases = [
        (
            with("cluster", json!("nowhere")),
            "ClusterNotFoundException",
            "Cluster not found",
        ),
        (
            run_task("nothing"),
            "ClientException",
            "TaskDefinition not found",
        ),
        (
            run_task("test:7"),
            "ClientException",
            "TaskDefinition not found",
        ),
        (
            with("networkConfiguration", json!(null)),
            "InvalidParameterException",
            "Network Configuration must be provided",
        ),
        (
            with("networkConfiguration", subnet("subnet-1")),
            "InvalidParameterException",
            "subnet-1",
        ),
        (
            with("networkConfiguration", groups),
            "InvalidParameterException",
            "sg-1",
        ),
        (with("count", json!(11)), "ClientException", "count is 11"),
        (
            with("launchType", json!("MOON")),
            "ClientException",
            "launchType is 'MOON'",
        ),
        (
            with("placementStrategy", json!([{"type": "spread"}])),
            "ClientException",
            "placementStrategy",
        ),
    ];
    for (request, kind, text) in cases {
        let error = host.call("RunTask", request).expect_err(text);
        assert_eq!(error["__type"], kind, "{error}");
        assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    }
    let missing = host.call("StopTask", json!({"task": "0123"})).unwrap_err();
    assert_eq!(
        missing["message"],
        "The referenced task was not found. task is '0123'"
    );
    assert_eq!(
        host.call("ListTasks", json!({})).unwrap()["taskArns"],
        json!([])
    );
}

fn no_image(host: &Host) {
    // Nobody listens there.
    let mut task = script("true");
    task["containerDefinitions"][0]["image"] = json!("127.0.0.1:1/team/app:v1");
    let ran = host.run_with(&["--json"], &task);
    assert_eq!(ran.code, 125, "{ran:?}");
    let task: Value = serde_json::from_str(ran.stdout.trim()).unwrap();
    assert_eq!(task["stopCode"], "TaskFailedToStart", "{task}");
    assert!(
        task["stoppedReason"]
            .as_str()
            .unwrap()
            .starts_with("CannotPullContainerError"),
        "{task}"
    );
    let mut task = script("true");
    task["containerDefinitions"][0]["image"] = json!("No Such Name");
    let ran = host.run(&task);
    assert!(
        ran.stderr
            .contains("CannotPullContainerError: 'No Such Name' is no image name"),
        "{ran:?}"
    );
}

fn no_definition(host: &Host) {
    let path = host.folder().join("x.json");
    let path = path.to_str().unwrap();
    assert!(host.fail(&["run", path]).contains("x.json"));
    std::fs::write(path, "{").unwrap();
    assert!(host.fail(&["run", path]).contains("is no JSON"));
    std::fs::write(path, "{}").unwrap();
    assert!(host.fail(&["run", path]).contains("family is missing"));
}
