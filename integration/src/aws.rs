//! The AWS CLI against an agent in the virtual machine, over a forwarded port: what a user of ECS
//! types, with the answers that they rely on.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::payload::Payload;
use crate::tally::{Outcome, Tally};
use crate::vm::{Boot, Vm};
use crate::{say, vm, workspace};

/// Runs the test and notes it.
pub fn test(berth: &Path, rootfs: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    say("the AWS CLI with an agent in the virtual machine");
    let outcome = match run(berth, rootfs) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            println!("the AWS CLI: {error:#}");
            Outcome::Failed
        }
    };
    let name = "aws::registers_runs_waits_describes_stops_and_registers_again";
    println!(
        "test {name} ... {}",
        if outcome == Outcome::Passed {
            "ok"
        } else {
            "FAILED"
        }
    );
    tally.note(name.to_owned(), outcome);
    Ok(())
}

/// How long the agent may take to be there, and to end, in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(480);

const START: &str = r#"
berth image import --name berth-demo /rootfs.tar || exit 1
berth agent --api 0.0.0.0:8088 &
agent=$!
while ! [ -e /var/lib/berth/credentials.json ]; do sleep 0.2; done
echo "RIG-KEY $(berth credentials --process)"
read answer
kill $agent
wait $agent
"#;

fn run(berth: &Path, rootfs: &Path) -> anyhow::Result<()> {
    let kernel = vm::kernel()?;
    let payload = Payload::new("aws", &kernel)?;
    vm::add_init(&payload)?;
    payload.program(berth, "bin/berth")?;
    payload.file(rootfs, "rootfs.tar")?;
    payload.script("start", START)?;
    let payload = payload.pack()?;
    // Free now; taken by qemu a moment later.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut vm = Vm::boot(&Boot {
        payload: &payload,
        forward: Some((port, 8088)),
        system: None,
    })?;
    let key = vm.until(PATIENCE, |line| {
        println!("{line}");
        line.strip_prefix("RIG-KEY ").map(str::to_owned)
    })?;
    let key: Value = serde_json::from_str(&key).context("the agent's key")?;
    let aws = Aws { port, key };
    aws.wait_for_agent()?;
    aws.walk()?;
    vm.type_line("done")?;
    let code = vm.finish(PATIENCE, |line| println!("{line}"))?;
    ensure!(code == 0, "the agent ended with {code}");
    Ok(())
}

struct Aws {
    port: u16,
    key: Value,
}

impl Aws {
    fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let text = |name: &str| {
            self.key
                .get(name)
                .and_then(Value::as_str)
                .context("the key has a part missing")
        };
        // Debian's, whatever else of that name is in the path.
        let mut command = Command::new("/usr/bin/aws");
        command
            .arg("--endpoint-url")
            .arg(format!("http://127.0.0.1:{}", self.port))
            .args(["--region", "us-east-1", "--output", "json", "ecs"])
            .args(args)
            .env("AWS_ACCESS_KEY_ID", text("AccessKeyId")?)
            .env("AWS_SECRET_ACCESS_KEY", text("SecretAccessKey")?)
            .env("AWS_MAX_ATTEMPTS", "1")
            .env_remove("AWS_ENDPOINT_URL");
        Ok(command)
    }

    /// Runs `aws ecs …`, and returns its answer.
    fn ecs(&self, args: &[&str]) -> anyhow::Result<Value> {
        println!("$ aws ecs {}", args.join(" "));
        let output = self
            .command(args)?
            .output()
            .context("running aws (package awscli)")?;
        if !output.status.success() {
            bail!(
                "aws ecs {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        if output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the answer of aws ecs {}", args.join(" ")))
    }

    fn wait_for_agent(&self) -> anyhow::Result<()> {
        let mut last = None;
        for _ in 0..20 {
            match self.ecs(&["list-clusters"]) {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(()), Err)
    }

    fn walk(&self) -> anyhow::Result<()> {
        let definition = example()?;
        let registered = self.ecs(&[
            "register-task-definition",
            "--cli-input-json",
            &definition.to_string(),
        ])?;
        expect(&registered, "/taskDefinition/status", "ACTIVE")?;
        let network = "awsvpcConfiguration={subnets=[subnet-00000000000000001]}";
        let started = self.ecs(&[
            "run-task",
            "--task-definition",
            "hello",
            "--launch-type",
            "FARGATE",
            "--network-configuration",
            network,
        ])?;
        let arn = text(&started, "/tasks/0/taskArn")?.to_owned();
        self.ecs(&["wait", "tasks-running", "--tasks", &arn])?;
        self.describe_running(&arn)?;
        self.ecs(&["stop-task", "--task", &arn, "--reason", "enough"])?;
        self.ecs(&["wait", "tasks-stopped", "--tasks", &arn])?;
        let described = self.ecs(&["describe-tasks", "--tasks", &arn])?;
        expect(&described, "/tasks/0/lastStatus", "STOPPED")?;
        expect(&described, "/tasks/0/stopCode", "UserInitiated")?;
        expect(&described, "/tasks/0/stoppedReason", "enough")?;
        for container in described
            .pointer("/tasks/0/containers")
            .and_then(Value::as_array)
            .context("containers")?
        {
            ensure!(
                container.get("exitCode").is_some_and(Value::is_i64),
                "no exit code: {container}"
            );
        }
        self.register_again(&definition)?;
        self.published_port()?;
        self.wrong_key()
    }

    fn describe_running(&self, arn: &str) -> anyhow::Result<()> {
        let described = self.ecs(&["describe-tasks", "--tasks", arn])?;
        expect(&described, "/tasks/0/lastStatus", "RUNNING")?;
        expect(&described, "/tasks/0/launchType", "FARGATE")?;
        expect(
            &described,
            "/tasks/0/attachments/0/type",
            "ElasticNetworkInterface",
        )?;
        expect(&described, "/tasks/0/attachments/0/status", "ATTACHED")?;
        let details = described
            .pointer("/tasks/0/attachments/0/details")
            .and_then(Value::as_array)
            .context("details")?;
        let address = details
            .iter()
            .find(|detail| detail.get("name").and_then(Value::as_str) == Some("privateIPv4Address"))
            .and_then(|detail| detail.get("value")?.as_str())
            .context("the attachment has no address")?;
        ensure!(
            address.parse::<std::net::Ipv4Addr>().is_ok(),
            "the address is '{address}'"
        );
        for i in 0..2 {
            expect(
                &described,
                &format!("/tasks/0/containers/{i}/lastStatus"),
                "RUNNING",
            )?;
            let interface =
                format!("/tasks/0/containers/{i}/networkInterfaces/0/privateIpv4Address");
            expect(&described, &interface, address)?;
        }
        Ok(())
    }

    /// A task of EC2's default network mode tells which port of the host's leads to it, and nobody else gets one
    /// that it has.
    fn published_port(&self) -> anyhow::Result<()> {
        let register = |port: &str| {
            self.ecs(&[
                "register-task-definition",
                "--family",
                "published",
                "--memory",
                "64",
                "--container-definitions",
                &format!(
                    r#"[{{"name": "web", "image": "berth-demo", "command": ["sleep", "9999"], "stopTimeout": 1,
                         "portMappings": [{{"containerPort": 80, "hostPort": {port}}}]}}]"#
                ),
            ])
        };
        let run = || self.ecs(&["run-task", "--task-definition", "published"]);
        register("0")?;
        let first = text(&run()?, "/tasks/0/taskArn")?.to_owned();
        self.ecs(&["wait", "tasks-running", "--tasks", &first])?;
        let described = self.ecs(&["describe-tasks", "--tasks", &first])?;
        let binding = described.pointer("/tasks/0/containers/0/networkBindings/0");
        let binding = binding.context("no port leads to the container")?;
        expect(binding, "/bindIP", "0.0.0.0")?;
        expect(binding, "/protocol", "tcp")?;
        let port = binding.get("hostPort").and_then(Value::as_u64);
        let port = port.context("no port of the host's")?;
        ensure!((49_153..=65_535).contains(&port), "it is {port}");
        register(&port.to_string())?;
        expect(&run()?, "/failures/0/reason", "RESOURCE:PORTS")?;
        self.ecs(&["stop-task", "--task", &first])?;
        self.ecs(&["wait", "tasks-stopped", "--tasks", &first])?;
        Ok(())
    }

    /// What DescribeTaskDefinition gives can be registered again, and is described the same. The
    /// CLI itself refuses the members that only a description has.
    fn register_again(&self, first: &Value) -> anyhow::Result<()> {
        let description = |name: &str| -> anyhow::Result<Value> {
            let answer = self.ecs(&["describe-task-definition", "--task-definition", name])?;
            let mut value = answer
                .get("taskDefinition")
                .cloned()
                .context("the answer has a definition")?;
            let only = [
                "taskDefinitionArn",
                "revision",
                "status",
                "compatibilities",
                "registeredAt",
            ];
            if let Some(map) = value.as_object_mut() {
                only.iter().for_each(|name| drop(map.remove(*name)));
            }
            Ok(value)
        };
        let described = description("hello:1")?;
        ensure!(
            described.get("family") == first.get("family"),
            "another family: {described}"
        );
        self.ecs(&[
            "register-task-definition",
            "--cli-input-json",
            &described.to_string(),
        ])?;
        let again = description("hello:2")?;
        ensure!(
            again == described,
            "described differently:\n{described}\n{again}"
        );
        Ok(())
    }

    fn wrong_key(&self) -> anyhow::Result<()> {
        let mut key = self.key.clone();
        if let Some(map) = key.as_object_mut() {
            map.insert("SecretAccessKey".into(), "wrong".into());
        }
        let error = Aws {
            port: self.port,
            key,
        }
        .ecs(&["list-clusters"]);
        let said = format!("{:#}", error.err().context("a wrong key was let in")?);
        ensure!(
            said.contains("UnrecognizedClientException"),
            "it said: {said}"
        );
        Ok(())
    }
}

/// The demonstration's definition, with a container that runs until it is stopped.
fn example() -> anyhow::Result<Value> {
    let path = workspace().join("integration/demo/task.json");
    let mut definition: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let command = definition
        .pointer_mut("/containerDefinitions/1/command")
        .context("the example's command")?;
    *command = serde_json::json!([
        "sh",
        "-c",
        "trap 'exit 5' TERM; while true; do sleep 0.2; done"
    ]);
    Ok(definition)
}

fn text<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("{pointer} is missing in {value}"))
}

fn expect(value: &Value, pointer: &str, expected: &str) -> anyhow::Result<()> {
    let found = text(value, pointer)?;
    ensure!(
        found == expected,
        "{pointer} is '{found}', not '{expected}', in {value}"
    );
    Ok(())
}
