//! Our own command's end of the API: an agent's unix socket, or the engine in this process.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::server::WAIT;
use super::{Api, TARGET};
use crate::error::{ApiError, Code};

/// Somebody who answers the ECS API.
pub enum Client {
    /// An agent.
    Agent(PathBuf),
    /// The engine in this process.
    Here(Api),
}

impl Client {
    /// The agent that listens on that socket, if one does.
    pub async fn of_agent(socket: &Path) -> anyhow::Result<Option<Self>> {
        match UnixStream::connect(socket).await {
            Ok(_) => Ok(Some(Self::Agent(socket.to_owned()))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        // It was ending: nobody has taken the connection.
                        | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!(
                    "{}: permission denied; the API is root's: use sudo",
                    socket.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("connecting to {}", socket.display())),
        }
    }

    /// Does one operation.
    pub async fn call(&self, operation: &str, input: Value) -> anyhow::Result<Value> {
        match self {
            Self::Here(api) => {
                let (api, operation) = (api.clone(), operation.to_owned());
                Ok(tokio::task::spawn_blocking(move || api.call(&operation, input)).await??)
            }
            Self::Agent(socket) => post(socket, operation, &input, None).await,
        }
    }

    /// The task, once its version is no longer `version`.
    pub async fn changed(&self, task: &str, cluster: &str, version: u64) -> anyhow::Result<Value> {
        let input = json!({"tasks": [task], "cluster": cluster});
        let answer = match self {
            Self::Here(api) => {
                if let Some(handle) = api.engine().task(task.rsplit('/').next().unwrap_or(task)) {
                    handle
                        .watch()
                        .wait_for(|task| task.version != version)
                        .await
                        .map(drop)?;
                }
                self.call("DescribeTasks", input).await?
            }
            Self::Agent(socket) => post(socket, "DescribeTasks", &input, Some(version)).await?,
        };
        let found = answer.pointer("/tasks/0").cloned();
        found.with_context(|| format!("the agent doesn't know task {task:?} any more"))
    }
}

async fn post(
    socket: &Path,
    operation: &str,
    input: &Value,
    wait: Option<u64>,
) -> anyhow::Result<Value> {
    let lost = || format!("talking to the agent on {}", socket.display());
    let stream = UnixStream::connect(socket).await.with_context(lost)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .with_context(lost)?;
    tokio::spawn(connection);
    let mut request = hyper::Request::post("/")
        .header("host", "localhost")
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amz-target", format!("{TARGET}{operation}"));
    if let Some(version) = wait {
        request = request.header(WAIT, version);
    }
    let request = request.body(Full::new(Bytes::from(input.to_string())))?;
    let response = sender.send_request(request).await.with_context(lost)?;
    let good = response.status().is_success();
    let body = response
        .into_body()
        .collect()
        .await
        .with_context(lost)?
        .to_bytes();
    let value: Value = serde_json::from_slice(&body).context("the agent's answer")?;
    if good {
        return Ok(value);
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    Err(ApiError::new(Code::from_name(text("__type")), text("message")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever ends while it is called is gone, and no error.
    #[tokio::test]
    async fn an_agent_that_is_just_ending_is_none() {
        let socket = std::env::temp_dir().join(format!("berth-client-{}", std::process::id()));
        for _ in 0..2000 {
            std::fs::remove_file(&socket).ok();
            let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let ending = std::thread::spawn(move || drop(listener));
            Client::of_agent(&socket).await.unwrap();
            ending.join().unwrap();
        }
        std::fs::remove_file(&socket).unwrap();
    }
}
