//! A host of a test's own: folders, images, the command, an agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long anything may take before the test has failed: the emulated machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The default subnet.
pub const SUBNET: &str = "subnet-00000000000000001";

/// Folders and processes of one test.
pub struct Host {
    folder: PathBuf,
    agents: Mutex<Vec<Child>>,
}

/// What `berth run` left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The program under test.
pub fn berth_path() -> PathBuf {
    std::env::var_os("BERTH")
        .expect("BERTH names the program under test: run `cargo verify`")
        .into()
}

/// The small image's archive.
pub fn rootfs() -> PathBuf {
    std::env::var_os("BERTH_ROOTFS")
        .expect("BERTH_ROOTFS names the image's archive: run `cargo verify`")
        .into()
}

impl Host {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Not each kernel has id-mapped mounts of what /run is.
        let place = std::env::var_os("BERTH_RIG_DISK").unwrap_or_else(|| "/run".into());
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(&place).join(format!("t{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            agents: Mutex::new(Vec::new()),
        }
    }

    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub fn run_folder(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The command, with this host's folders. Limits are applied as far as this place can.
    pub fn berth(&self, args: &[&str]) -> Command {
        let mut command = Command::new(berth_path());
        command
            .args(args)
            .env("BERTH_ROOT", self.root())
            .env("BERTH_RUN", self.run_folder())
            .env(
                "BERTH_LIMITS",
                if super::has_controllers() {
                    "required"
                } else {
                    "best-effort"
                },
            )
            .env_remove("BERTH_FAILPOINT")
            .stdin(Stdio::null());
        for (name, file) in [
            ("BERTH_NETWORK", self.network_file()),
            ("BERTH_SERVICE_DISCOVERY", self.services_file()),
        ] {
            if file.exists() {
                command.env(name, file);
            }
        }
        command
    }

    /// Has the network be this one, in the words of its file.
    pub fn network(&self, definition: &Value) {
        std::fs::write(self.network_file(), definition.to_string()).unwrap();
    }

    fn network_file(&self) -> PathBuf {
        self.folder.join("network.json")
    }

    /// Has service discovery be this one, in the words of its file. An agent must find one when it starts, to read it
    /// again later.
    pub fn services(&self, definition: &Value) {
        std::fs::write(self.services_file(), definition.to_string()).unwrap();
    }

    pub fn services_file(&self) -> PathBuf {
        self.folder.join("service-discovery.json")
    }

    /// Runs the command; it must succeed.
    pub fn succeed(&self, args: &[&str]) -> String {
        let output = self.berth(args).output().unwrap();
        assert!(
            output.status.success(),
            "berth {args:?}: {}",
            describe(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command; it must fail. Returns what it said.
    pub fn fail(&self, args: &[&str]) -> String {
        let output = self.berth(args).output().unwrap();
        assert!(
            !output.status.success(),
            "berth {args:?} succeeded: {}",
            describe(&output)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Brings the small image, as `box`.
    pub fn image(&self) {
        self.succeed(&[
            "image",
            "import",
            "--name",
            "box",
            rootfs().to_str().unwrap(),
        ]);
    }

    /// A file with that definition.
    pub fn definition_file(&self, definition: &Value) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = self.folder.join(format!(
            "task{}.json",
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::write(&path, definition.to_string()).unwrap();
        path
    }

    /// Runs a definition with `berth run`.
    pub fn run(&self, definition: &Value) -> Ran {
        self.run_with(&[], definition)
    }

    pub fn run_with(&self, options: &[&str], definition: &Value) -> Ran {
        self.ran(self.start_run(options, definition))
    }

    /// Starts `berth run`.
    pub fn start_run(&self, options: &[&str], definition: &Value) -> Child {
        let file = self.definition_file(definition);
        let mut command = self.berth(&["run"]);
        command
            .args(options)
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Waits for `berth run`.
    pub fn ran(&self, child: Child) -> Ran {
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts an agent, and waits until it answers.
    pub fn agent(&self) {
        self.agent_with(&[], None);
    }

    pub fn agent_with(&self, options: &[&str], failpoint: Option<&str>) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("agent.log"))
            .unwrap();
        let mut command = self.berth(&["agent"]);
        command.args(options).stdout(Stdio::null()).stderr(log);
        if let Some(name) = failpoint {
            command.env("BERTH_FAILPOINT", name);
        }
        self.agents.lock().unwrap().push(command.spawn().unwrap());
        self.until("the agent answers", || {
            // An agent that dies at once, at its failpoint, has answered enough.
            let died = self
                .agents
                .lock()
                .unwrap()
                .last_mut()
                .unwrap()
                .try_wait()
                .unwrap()
                .is_some();
            // A connection alone may be one to the agent before: of one that was killed while it started a
            // supervisor, that process has the listener until it executes.
            died || self.try_call("ListClusters", &json!({})).is_ok()
        });
    }

    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// Tells the agent to read its files again.
    pub fn reload_agent(&self) {
        kill(self.agent_pid(), Signal::SIGHUP).unwrap();
    }

    pub fn agent_pid(&self) -> Pid {
        let agents = self.agents.lock().unwrap();
        Pid::from_raw(i32::try_from(agents.last().unwrap().id()).unwrap())
    }

    /// Kills the agent, as an out-of-memory kill would.
    pub fn kill_agent(&self) {
        let mut agents = self.agents.lock().unwrap();
        for mut agent in agents.drain(..) {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Waits until the agent has died by itself.
    pub fn wait_for_agents_death(&self) {
        let mut agents = self.agents.lock().unwrap();
        let end = Instant::now() + PATIENCE;
        for mut agent in agents.drain(..) {
            while agent.try_wait().unwrap().is_none() {
                assert!(Instant::now() < end, "the agent didn't reach its failpoint");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Does an operation of the API over the unix socket.
    pub fn call(&self, operation: &str, input: Value) -> Result<Value, Value> {
        self.try_call(operation, &input).expect("the agent answers")
    }

    /// The same where the agent may die meanwhile.
    pub fn try_call(
        &self,
        operation: &str,
        input: &Value,
    ) -> std::io::Result<Result<Value, Value>> {
        let stream = UnixStream::connect(self.run_folder().join("berth.sock"))?;
        let target = format!("AmazonEC2ContainerServiceV20141113.{operation}");
        let headers = [
            ("Host", "localhost"),
            ("Content-Type", "application/x-amz-json-1.1"),
            ("X-Amz-Target", &target),
        ];
        let (status, body) = http(stream, &headers, &input.to_string())?;
        let value = serde_json::from_str(&body).map_err(std::io::Error::other)?;
        Ok(if status == 200 { Ok(value) } else { Err(value) })
    }

    /// Registers a definition and starts a task of it; returns its ARN.
    pub fn start_task(&self, definition: &Value) -> String {
        let registered = self
            .call("RegisterTaskDefinition", definition.clone())
            .unwrap();
        let name = registered["taskDefinition"]["taskDefinitionArn"].clone();
        let started = self
            .call("RunTask", run_task(name.as_str().unwrap()))
            .unwrap();
        started["tasks"][0]["taskArn"].as_str().unwrap().to_owned()
    }

    pub fn describe(&self, arn: &str) -> Value {
        self.call("DescribeTasks", json!({"tasks": [arn]})).unwrap()["tasks"][0].clone()
    }

    /// Waits for that status, or STOPPED.
    pub fn wait_status(&self, arn: &str, status: &str) -> Value {
        let mut task = Value::Null;
        self.until(&format!("{arn} is {status}"), || {
            task = self.describe(arn);
            [status, "STOPPED"].contains(&task["lastStatus"].as_str().unwrap_or_default())
        });
        assert_eq!(task["lastStatus"], status, "{task}\n{}", self.agent_log());
        task
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < end,
                "waited in vain until {what}\n{}",
                self.agent_log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the agent and undoes what berth made. Returns what should not have been there.
    pub fn clean_up(self) -> String {
        let mut left = String::new();
        for mut agent in self.agents.lock().unwrap().drain(..) {
            kill(
                nix::unistd::Pid::from_raw(agent.id().cast_signed()),
                nix::sys::signal::Signal::SIGTERM,
            )
            .ok();
            agent.wait().unwrap();
        }
        // A test that broke off may have left a task; the next one must not find it.
        for entry in std::fs::read_dir(self.run_folder().join("tasks"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let id = entry.file_name().to_string_lossy().into_owned();
            left.push_str(&format!("task {id}\n"));
            self.berth(&["stop", &id]).output().ok();
        }
        for folder in [
            "run/tasks",
            "run/netns",
            "root/network/addresses/*",
            "root/network/isolated",
            "root/tasks/*/writable",
        ] {
            let pattern = format!("ls -d {}/{folder}/* 2>/dev/null", self.folder.display());
            let found = Command::new("sh").args(["-c", &pattern]).output().unwrap();
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            // An address that was given back rests, and belongs to nobody.
            let found = found.lines().filter(|path| !path.ends_with(".spent"));
            found.for_each(|path| left.push_str(&format!("{path}\n")));
        }
        for entry in std::fs::read_dir(self.root().join("tasks"))
            .into_iter()
            .flatten()
            .flatten()
        {
            for parent in ["berth", "berth-supervisors"] {
                let cgroup = Path::new("/sys/fs/cgroup")
                    .join(parent)
                    .join(entry.file_name());
                if cgroup.exists() {
                    left.push_str(&format!("{}\n", cgroup.display()));
                }
            }
        }
        left.push_str(&firewall_elements());
        let undone = self.berth(&["doctor", "--undo"]).output().unwrap();
        if !undone.status.success() {
            left.push_str(&describe(&undone));
        }
        std::fs::remove_dir_all(&self.folder).ok();
        left
    }
}

/// The input of a RunTask in the default subnet.
pub fn run_task(definition: &str) -> Value {
    json!({
        "taskDefinition": definition,
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": [SUBNET]}},
    })
}

/// A definition of these containers, of the smallest Fargate size.
pub fn definition(containers: Value) -> Value {
    json!({
        "family": "test", "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "requiresCompatibilities": ["FARGATE"], "containerDefinitions": containers,
    })
}

/// A definition of one container that runs a script.
pub fn script(text: &str) -> Value {
    definition(
        json!([{"name": "main", "image": "box", "command": ["sh", "-c", text], "stopTimeout": 2}]),
    )
}

/// One HTTP exchange.
pub fn http(
    mut stream: impl Read + Write,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut request = format!(
        "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("no answer"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Ok((status, body.to_owned()))
}

fn describe(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The addresses of tasks that the firewall still knows. Those of the subnet itself end with 3.
fn firewall_elements() -> String {
    let Ok(output) = Command::new("nft").args(["list", "ruleset"]).output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    words
        .filter(|word| {
            let last = word
                .strip_prefix("10.231.0.")
                .or(word.strip_prefix("10.231.240."))
                .and_then(|n| n.parse::<u8>().ok());
            last.is_some_and(|n| n > 3)
        })
        .map(|word| format!("the firewall knows {word}\n"))
        .collect()
}
