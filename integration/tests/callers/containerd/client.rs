//! A small client of containerd's CRI plugin: the calls that Kubernetes' kubelet makes for a pod.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec, LinuxContainerConfig,
    LinuxContainerResources, LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig,
    PodSandboxMetadata, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest,
};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use super::image::NAME;
use super::socket;
use crate::place::{self, DATA, SLICE};
use crate::ran::until;

/// How long a call may take: the emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// A pod, which is removed with this value.
pub struct Pod {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
    config: PodSandboxConfig,
    pub id: String,
}

/// Does a call and waits for its answer.
macro_rules! call {
    ($pod:expr, $method:ident, $message:expr) => {{
        let mut request = Request::new($message);
        request.set_timeout(PATIENCE);
        let mut client = $pod.client.clone();
        $pod.runtime
            .block_on(async move { client.$method(request).await })
            .map(tonic::Response::into_inner)
    }};
}

impl Pod {
    /// Runs a pod with a network of its own.
    pub fn run(name: &str, linux: LinuxPodSandboxConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(connect());
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "callers".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: format!("{DATA}/pods"),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent().into(),
                ..linux
            }),
            ..Default::default()
        };
        let mut pod = Self {
            runtime,
            client,
            config: config.clone(),
            id: String::new(),
        };
        let message = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: "berth".into(),
        };
        let answer = call!(pod, run_pod_sandbox, message);
        pod.id = answer.expect("a pod").pod_sandbox_id;
        pod
    }

    /// Creates a container; its id.
    pub fn create(&self, name: &str, args: &[&str], linux: LinuxContainerConfig) -> String {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: NAME.into(),
                ..Default::default()
            }),
            command: args.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(own_processes(linux)),
            ..Default::default()
        };
        let message = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = call!(self, create_container, message);
        answer.expect("a container").container_id
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Result<(), Status> {
        let container_id = id.to_owned();
        call!(
            self,
            start_container,
            StartContainerRequest { container_id }
        )
        .map(drop)
    }

    /// Creates a container and starts it; its id.
    pub fn started(&self, name: &str, args: &[&str], linux: LinuxContainerConfig) -> String {
        let id = self.create(name, args, linux);
        self.start(&id).expect("a container that starts");
        id
    }

    /// Runs a process in a container.
    pub fn exec(&self, id: &str, args: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
        let message = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: args.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        };
        call!(self, exec_sync, message)
    }

    /// What a process in a container prints; it must succeed.
    pub fn said(&self, id: &str, args: &[&str]) -> String {
        let answer = self.exec(id, args, 60).expect("an answer");
        assert_eq!(answer.exit_code, 0, "{answer:?}");
        String::from_utf8_lossy(&answer.stdout)
            .trim_end()
            .to_owned()
    }

    pub fn status(&self, id: &str) -> ContainerStatus {
        let message = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = call!(self, container_status, message);
        answer.expect("a status").status.expect("a status")
    }

    pub fn until_exited(&self, id: &str) -> ContainerStatus {
        until("the container has exited", || {
            self.status(id).state() == ContainerState::ContainerExited
        });
        self.status(id)
    }

    pub fn update(&self, id: &str, linux: LinuxContainerResources) {
        let message = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        call!(self, update_container_resources, message).expect("an update");
    }

    pub fn stop(&self, id: &str, timeout: i64) {
        let container_id = id.to_owned();
        let message = StopContainerRequest {
            container_id,
            timeout,
        };
        call!(self, stop_container, message).expect("a stop");
    }

    pub fn remove(&self, id: &str) {
        let container_id = id.to_owned();
        call!(
            self,
            remove_container,
            RemoveContainerRequest { container_id }
        )
        .expect("a removal");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // If this fails, the checker finds what is left.
        let stop = StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        call!(self, stop_pod_sandbox, stop).ok();
        let remove = RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        call!(self, remove_pod_sandbox, remove).ok();
    }
}

/// A container sees only its own processes, as the kubelet has it where a pod doesn't say otherwise.
fn own_processes(mut linux: LinuxContainerConfig) -> LinuxContainerConfig {
    let security = linux.security_context.get_or_insert_default();
    let namespaces = security.namespace_options.get_or_insert_default();
    namespaces.pid = NamespaceMode::Container.into();
    linux
}

/// The address is of no account: the connection is a unix socket.
async fn connect() -> RuntimeServiceClient<Channel> {
    let connector = service_fn(|_: Uri| async {
        let stream = UnixStream::connect(socket()).await?;
        Ok::<_, std::io::Error>(TokioIo::new(stream))
    });
    let endpoint = Endpoint::from_static("http://cri");
    let channel = endpoint.connect_with_connector(connector).await;
    RuntimeServiceClient::new(channel.expect("containerd's socket"))
}

fn cgroup_parent() -> &'static str {
    match place::cgroup_driver() {
        "systemd" => SLICE,
        _ => "/berth-callers/pods",
    }
}
