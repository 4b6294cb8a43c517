//! containerd on the runtime: by `ctr --runc-binary`, and through its CRI plugin as Kubernetes does.

mod client;
mod cri;
mod ctr;
mod image;

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Case;
use crate::place::{self, DATA};
use crate::ran::{Ran, bounded, until};

/// The tests, by what a user does.
pub const CASES: [&[Case<Containerd>]; 2] = [ctr::CASES, cri::CASES];

/// The namespace of what `ctr` does.
const NAMESPACE: &str = "berth-callers";

static DAEMON: Mutex<Option<Child>> = Mutex::new(None);

/// containerd, which has the tests' images.
pub struct Containerd;

/// The one that all tests use; the first of them starts it.
pub fn engine() -> &'static Containerd {
    static ENGINE: OnceLock<Containerd> = OnceLock::new();
    ENGINE.get_or_init(|| {
        *DAEMON.lock().unwrap() = Some(start());
        let containerd = Containerd;
        until("containerd answers", || {
            containerd.does(&["version"]).code == 0
        });
        for namespace in [NAMESPACE, "k8s.io"] {
            let archive = image::archive();
            let words = ["images", "import", &archive];
            Ran::of(&mut containerd.command_in(namespace, &words)).ok();
        }
        containerd
    })
}

fn socket() -> String {
    format!("{DATA}/containerd.sock")
}

fn start() -> Child {
    let config = format!("{DATA}/containerd.toml");
    std::fs::write(&config, configuration()).unwrap();
    network();
    let log = std::fs::File::create(format!("{DATA}/containerd.log")).unwrap();
    let mut containerd = Command::new("containerd");
    containerd
        .args(["--config", &config])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    containerd
        .spawn()
        .expect("containerd, of Debian's containerd")
}

fn configuration() -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let runtime = place::runtime();
    format!(
        r#"version = 2
root = "{DATA}/containerd"
state = "{DATA}/containerd-run"
[grpc]
address = "{DATA}/containerd.sock"
[{cri}]
sandbox_image = "{image}"
stream_server_address = "127.0.0.1"
[{cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{DATA}/cni"
[{cri}.containerd]
default_runtime_name = "berth"
[{cri}.containerd.runtimes.berth]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.berth.options]
BinaryName = "{runtime}"
SystemdCgroup = {systemd}
"#,
        image = image::NAME,
        runtime = runtime.display(),
        systemd = place::cgroup_driver() == "systemd",
    )
}

/// A bridge for pods, with the plugins of Debian's package.
fn network() {
    let folder = format!("{DATA}/cni");
    std::fs::create_dir_all(&folder).unwrap();
    let text = r#"{"cniVersion": "0.4.0", "name": "callers", "plugins": [{
        "type": "bridge", "bridge": "callers0", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": "/run/callers/cni-addresses",
                 "ranges": [[{"subnet": "10.232.0.0/24"}]]}}]}"#;
    std::fs::write(format!("{folder}/10-callers.conflist"), text).unwrap();
}

/// Ends it, if it was started.
pub fn end() {
    let Some(mut daemon) = DAEMON.lock().unwrap().take() else {
        return;
    };
    kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).ok();
    daemon.wait().unwrap();
}

impl Containerd {
    /// A command of `ctr`.
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_in(NAMESPACE, words)
    }

    fn command_in(&self, namespace: &str, words: &[&str]) -> Command {
        let mut command = bounded("ctr");
        command
            .args(["--address", &socket(), "--namespace", namespace])
            .args(words);
        command
    }

    /// Runs a command of `ctr`.
    pub fn does(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(words))
    }
}
