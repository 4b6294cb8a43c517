//! The task metadata endpoint, version 4: what a container asks at 169.254.170.2.
//!
//! The network translates port 80 of that address to [`berth_netns::METADATA_PORT`] of the same,
//! where this listens. A caller names itself by the unguessable id in its path, and its address
//! must be that of the task which the id belongs to: an id that leaks is no use elsewhere.
//! Source: "Amazon ECS task metadata endpoint version 4" in the ECS developer guide.

mod documents;

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use axum::Router;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_netns::METADATA_ADDRESS;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::callers::{Caller, Callers};
use crate::engine::Engine;
use crate::task::{Container, Task};
use crate::task_definition::NetworkMode;

/// The most connections of one task at once.
const MOST_CONNECTIONS: usize = 64;

/// Takes the endpoint's address, which the network has put on its bridge.
pub async fn listen() -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((METADATA_ADDRESS, berth_netns::METADATA_PORT));
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening for metadata on {address}"))
}

/// Serves the documents of that engine's tasks.
pub async fn serve(engine: Engine, listener: TcpListener) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/v4/{id}", get(container))
        .route("/v4/{id}/task", get(task))
        .route("/v4/{id}/taskWithTags", get(task))
        .with_state(engine);
    let service = router.into_make_service_with_connect_info::<Caller>();
    Ok(axum::serve(Callers::new(listener, MOST_CONNECTIONS), service).await?)
}

async fn container(
    engine: State<Engine>,
    peer: ConnectInfo<Caller>,
    Path(id): Path<String>,
) -> Response {
    match find(&engine, &id, peer.0.0) {
        Some((task, container)) => document(documents::container(
            &task,
            &container,
            &engine.config().place,
        )),
        None => not_found(format!(
            "V4 container metadata handler: unable to get container ID from request: unable to get docker ID from v3 \
             endpoint ID: {id}"
        )),
    }
}

async fn task(
    engine: State<Engine>,
    peer: ConnectInfo<Caller>,
    Path(id): Path<String>,
) -> Response {
    match find(&engine, &id, peer.0.0) {
        Some((task, _)) => document(documents::task(&task, &engine.config().place)),
        None => not_found(format!(
            "V4 task metadata handler: unable to get task arn from request: unable to get task Arn from v3 endpoint \
             ID: {id}"
        )),
    }
}

/// The container with that endpoint id, if the caller is of its task.
fn find(engine: &Engine, id: &str, caller: IpAddr) -> Option<(Task, Container)> {
    let all = engine.tasks();
    let task = all
        .iter()
        .map(|handle| handle.task())
        .find(|t| t.containers.iter().any(|c| c.endpoint_id == id))?;
    let container = task
        .containers
        .iter()
        .find(|c| c.endpoint_id == id)?
        .clone();
    may_ask(&task, &container, caller).then_some((task, container))
}

/// Whether that address is the container's. Those that have the host's network have none of their own; whoever asks
/// from there is seen to come from the endpoint's own address, from which nobody else can send.
fn may_ask(task: &Task, container: &Container, caller: IpAddr) -> bool {
    match task.interface_of(&container.name) {
        Some(eni) if eni.detached => false,
        Some(eni) => eni
            .attached
            .as_ref()
            .is_some_and(|eni| caller == eni.address),
        None => {
            let on_host = task.network_mode_of(&container.name) == NetworkMode::Host;
            on_host && caller == METADATA_ADDRESS
        }
    }
}

fn document(value: Value) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        value.to_string(),
    )
        .into_response()
}

/// As the ECS agent has it, an error is a JSON string.
fn not_found(message: String) -> Response {
    (
        StatusCode::NOT_FOUND,
        [(header::CONTENT_TYPE, "application/json")],
        json!(message).to_string(),
    )
        .into_response()
}
