//! What the agent and a task's supervisor say to each other, and the files between them.
//!
//! A supervisor lives as long as its task and may be older than the agent that talks to it, so
//! everything here carries [`PROTOCOL`] and only ever grows. Each message is one line of JSON on
//! a unix stream socket. The supervisor speaks first ([`Message::Hello`]), then tells the status
//! of every container, then each change; the agent sends [`Request`]s, which are answered by the
//! changes that they cause. A status is on disk before anyone is told.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use berth_netns::{IdRange, PortProtocol};
use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::id::Timestamp;

/// The version of the protocol and of the files. An agent speaks to every version up to its own.
pub const PROTOCOL: u32 = 1;

/// Everything that a supervisor needs to know, written before it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// [`PROTOCOL`] of the agent that wrote it.
    pub protocol: u32,
    /// The task's id.
    pub task: String,
    /// The folder for the containers' logs.
    pub logs: PathBuf,
    /// What to do about limits that can't be applied.
    pub limits: Limits,
    /// CPU units of the whole task: 1,024 are one CPU.
    pub cpu_units: Option<u32>,
    /// Bytes of the whole task.
    pub memory: Option<u64>,
    /// Ports of the host's that lead to the task.
    #[serde(default)]
    pub published: Vec<PublishedPorts>,
    /// The containers, in the order of the definition.
    pub containers: Vec<PlannedContainer>,
}

/// Ports of the host's that lead to one interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishedPorts {
    /// The interface's.
    pub address: Ipv4Addr,
    /// Which lead where.
    pub ports: Vec<Publish>,
}

/// A port of the host's that leads to one of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Publish {
    pub host_port: u16,
    pub container_port: u16,
    #[serde(default = "tcp")]
    pub protocol: PortProtocol,
    /// At each of the host's addresses, not only on its loopback: the network sees to the others.
    #[serde(default)]
    pub everywhere: bool,
}

/// What a plan of before there was a choice means.
fn tcp() -> PortProtocol {
    PortProtocol::Tcp
}

/// One container, with its image resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedContainer {
    /// The container's name.
    pub name: String,
    /// Its place on the network. A plan of before this differed between containers is read for its layers only.
    #[serde(default)]
    pub network: ContainerNetwork,
    /// The image's layers as folders, the lowest first.
    pub layers: Vec<PathBuf>,
    /// The folder for what the container writes.
    pub writable: PathBuf,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// `user`, `user:group`, by name or number; empty is root.
    pub user: String,
    /// Resource limits: name, soft, hard; -1 is no limit.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Whether the root filesystem can't be written.
    pub readonly: bool,
    /// ECS's CPU units, Docker's shares.
    pub cpu_shares: u32,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub memory_reservation: Option<u64>,
    /// The signal that asks it to stop: SIGTERM, or the image's own.
    pub stop_signal: String,
}

/// A container's place on the network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerNetwork {
    /// Which namespace it is in.
    pub namespace: NetworkNamespace,
    /// The ids of the user namespace that owns that, which the container is in too; in the host's without any.
    #[serde(default)]
    pub id_range: Option<IdRange>,
    /// The container's hostname.
    pub hostname: String,
    /// The folder with its `hosts`, `resolv.conf` and `hostname`.
    pub etc: PathBuf,
}

/// The network namespace of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkNamespace {
    /// The one that is mounted there.
    At(PathBuf),
    /// The host's.
    Host,
    /// A new one of the host's, with nothing but loopback; only in plans of before the network made those, too.
    #[default]
    Own,
}

/// What the agent asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Creates and starts a container. One that was started before stays as it is.
    Start {
        /// Its name.
        container: String,
    },
    /// Asks a container to stop, and kills it when the time is over. Said again, it changes nothing.
    Stop {
        /// Its name.
        container: String,
        /// Seconds between the signals.
        timeout: u32,
    },
    /// Runs a program in a container; its descriptors come along with the message.
    Exec(Exec),
    /// Removes what the supervisor made, and ends it. Containers that still run are killed.
    Shutdown,
}

/// A program to run in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container's name.
    pub container: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Whether it gets a terminal of its own. Its other end is sent back with [`Message::ExecStarted`].
    pub terminal: bool,
}

/// What the supervisor tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// The first words on every connection.
    Hello {
        /// [`PROTOCOL`] of the supervisor.
        protocol: u32,
        /// The task's id.
        task: String,
        /// Things that could not be done as asked and were let pass.
        warnings: Vec<String>,
    },
    /// A container's status, whenever it changes.
    Status(Status),
    /// The program of [`Request::Exec`] runs.
    ExecStarted,
    /// The program of [`Request::Exec`] has ended.
    ExecExited {
        /// Its exit code, or 128 plus the signal that ended it.
        code: i32,
    },
    /// The request could not be done.
    Failed {
        /// Why.
        reason: String,
    },
    /// The last words: everything is undone.
    Bye,
}

/// What a supervisor knows of a container; also the content of its status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The container's name.
    pub container: String,
    /// How far it has come.
    pub state: State,
    /// When its program was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// How far a container has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Nobody has asked for it.
    Pending,
    /// Its program runs.
    Running {
        /// Of its first process, on the host.
        pid: i32,
    },
    /// Its program ended.
    Exited {
        /// Its exit code, or 128 plus the signal that ended it.
        code: i32,
        /// Whether the kernel killed it for its memory.
        out_of_memory: bool,
    },
    /// Its program never ran.
    Failed {
        /// ECS's error name and what happened: `CannotStartContainerError: …`.
        reason: String,
    },
}

impl Status {
    /// The status of a container that nobody has asked for.
    pub fn pending(container: &str) -> Self {
        Self {
            container: container.to_owned(),
            state: State::Pending,
            started: None,
            finished: None,
        }
    }
}

/// The names of a supervisor's files, below the task's folder.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// The files of the task with that folder.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The task's folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The [`Plan`].
    pub fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }

    /// The socket on which the supervisor answers. Whether somebody listens there tells whether
    /// it lives: the agent makes the listener, and the supervisor inherits it.
    pub fn socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    /// What the supervisor itself has to say to people.
    pub fn log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// A container's [`Status`]. Absent until the container is first started.
    pub fn status(&self, container: &str) -> PathBuf {
        self.0.join("status").join(format!("{container}.json"))
    }

    /// Where the containers' root filesystems are mounted, in the supervisor's own namespace.
    pub fn rootfs(&self, container: &str) -> PathBuf {
        self.0.join("rootfs").join(container)
    }

    /// Reads a status file; [`Status::pending`] where there is none.
    pub fn read_status(&self, container: &str) -> std::io::Result<Status> {
        match std::fs::read(self.status(container)) {
            Ok(text) => serde_json::from_slice(&text).map_err(std::io::Error::other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Status::pending(container))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a status file, whole or not at all.
    pub fn write_status(&self, status: &Status) -> std::io::Result<()> {
        let path = self.status(&status.container);
        write_whole(&path, &serde_json::to_vec(status)?)
    }
}

/// Writes a file so that a reader sees all of it or the one before, mode 0600. Several may write
/// the same one at once, as tasks do that pull one image.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    write(path, content, |_| Ok(()))
}

/// The same for what must also outlive a power cut.
pub fn write_durable(path: &Path, content: &[u8]) -> std::io::Result<()> {
    write(path, content, std::fs::File::sync_all)
}

fn write(
    path: &Path,
    content: &[u8],
    settle: impl FnOnce(&std::fs::File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_file_name(format!(".new-{}", crate::id::random_128()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(content)
        .and_then(|()| settle(&file))
        .and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        std::fs::remove_file(&new).ok();
    }
    written
}

/// The cgroup of a task, below the root of the hierarchy.
pub fn task_cgroup(task: &str) -> String {
    format!("berth/{task}")
}

/// The cgroup of a task's supervisor: outside the task's, so that the task's out-of-memory kill
/// can't take it.
pub fn supervisor_cgroup(task: &str) -> String {
    format!("berth-supervisors/{task}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_a_network_namespace_of_the_containers_own_making_is_still_read() {
        let of_before = r#"{"namespace": "own", "hostname": "h", "etc": "/run/e"}"#;
        let network: ContainerNetwork = serde_json::from_str(of_before).unwrap();
        assert!(matches!(network.namespace, NetworkNamespace::Own));
        assert_eq!(network.id_range, None);
    }

    #[test]
    fn a_file_can_be_written_by_several_at_once() {
        let folder = std::env::temp_dir().join(format!("berth-whole-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        let write = || (0..500).for_each(|_| write_whole(&path, b"content").unwrap());
        std::thread::scope(|scope| {
            scope.spawn(write);
            scope.spawn(write);
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        let left = std::fs::read_dir(&folder).unwrap().count();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(left, 1);
    }
}
