//! Carrying the API over HTTP: on TCP for AWS clients, who sign their requests, and on a unix
//! socket that only root can open, for our own command.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use serde_json::Value;
use tokio::net::{TcpListener, UnixListener};

use super::credentials::Credentials;
use super::{Api, TARGET, sigv4};
use crate::callers::Callers;
use crate::config::ApiAuth;
use crate::error::{ApiError, Code};
use crate::id;

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// The longest request: ECS takes definitions of 64 KiB.
const LONGEST_BODY: usize = 1 << 20;

/// The most connections of one address over TCP. On loopback that is everybody together.
const MOST_CONNECTIONS: usize = 256;

/// The header by which our own command waits for a change instead of asking again and again:
/// DescribeTasks of one task answers when its version is no longer this one.
pub const WAIT: &str = "x-berth-wait-version";

/// The longest that an answer waits, so that a caller who is gone is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What a listener's requests have to prove.
#[derive(Clone)]
enum Door {
    /// The file's mode has let in who may come in.
    Local,
    /// Signed requests, or any, with a Host header that is ours.
    Network {
        credentials: Option<Arc<Credentials>>,
        address: IpAddr,
    },
}

#[derive(Clone)]
struct Service {
    api: Api,
    door: Door,
}

/// Serves signed requests on the configured address.
pub async fn serve_tcp(api: Api, listener: TcpListener) -> anyhow::Result<()> {
    let config = api.engine().config();
    let credentials = match config.api_auth {
        ApiAuth::Sigv4 => Some(Arc::new(Credentials::load_or_make(&config.credentials())?)),
        ApiAuth::None => None,
    };
    let door = Door::Network {
        credentials,
        address: listener.local_addr()?.ip(),
    };
    Ok(axum::serve(
        Callers::new(listener, MOST_CONNECTIONS),
        router(Service { api, door }),
    )
    .await?)
}

/// Serves the unix socket.
pub async fn serve_unix(api: Api, listener: UnixListener) -> anyhow::Result<()> {
    Ok(axum::serve(
        listener,
        router(Service {
            api,
            door: Door::Local,
        }),
    )
    .await?)
}

/// Makes the unix socket, mode 0660. One that is left over from a process that died is replaced.
pub fn listen_unix(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("closing {} to others", path.display()))?;
    Ok(listener)
}

fn router(service: Service) -> Router {
    Router::new()
        .fallback(handle)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(service)
}

async fn handle(
    State(service): State<Service>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let result = match body {
        Ok(body) => answer(&service, &method, &uri, &headers, &body).await,
        Err(_) => Err(ApiError::new(
            Code::Serialization,
            format!("the body is longer than {LONGEST_BODY} bytes"),
        )),
    };
    respond(result)
}

async fn answer(
    service: &Service,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Value, ApiError> {
    if let Door::Network {
        credentials,
        address,
    } = &service.door
    {
        check_origin(headers, *address)?;
        if let Some(credentials) = credentials {
            let now = id::Timestamp::now().0 / 1000;
            sigv4::verify(headers, body, credentials, now)
                .map_err(|reason| ApiError::new(Code::UnrecognizedClient, reason))?;
        }
    }
    if method != Method::POST || uri.path() != "/" {
        return Err(ApiError::new(
            Code::UnknownOperation,
            "the ECS API takes POST on /, and nothing else",
        ));
    }
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    if !text("content-type").starts_with(CONTENT_TYPE) {
        return Err(ApiError::new(
            Code::Serialization,
            format!("Content-Type must be {CONTENT_TYPE}"),
        ));
    }
    let Some(operation) = text("x-amz-target").strip_prefix(TARGET) else {
        return Err(ApiError::new(
            Code::UnknownOperation,
            format!("X-Amz-Target must be {TARGET}<operation>"),
        ));
    };
    let input = match body {
        [] => Value::Object(Default::default()),
        body => serde_json::from_slice(body).map_err(|error| {
            ApiError::new(Code::Serialization, format!("the body is no JSON: {error}"))
        })?,
    };
    if let Ok(version) = text(WAIT).parse::<u64>() {
        wait(&service.api, &input, version).await;
    }
    let (api, operation) = (service.api.clone(), operation.to_owned());
    // Operations write to disk.
    let done = tokio::task::spawn_blocking(move || api.call(&operation, input)).await;
    done.map_err(|_| ApiError::server("the operation was cut off; the agent's log says why"))?
}

/// Waits until the first task of the request has another version than this one.
async fn wait(api: &Api, input: &Value, version: u64) {
    let name = input
        .pointer("/tasks/0")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let Some(handle) = api.engine().task(super::last_part(name)) else {
        return;
    };
    let mut record = handle.watch();
    let changed = record.wait_for(|task| task.version != version);
    // Either way the answer is the state as it is now.
    tokio::time::timeout(LONGEST_WAIT, changed)
        .await
        .map(drop)
        .ok();
}

/// Web pages can make a browser call any address, under a name of their own that leads here: so
/// the Host header must be ours, and a browser's Origin is nobody's.
fn check_origin(headers: &HeaderMap, address: IpAddr) -> Result<(), ApiError> {
    let refuse = |what: String| Err(ApiError::new(Code::UnrecognizedClient, what));
    if headers.contains_key(header::ORIGIN) {
        return refuse("the ECS API takes no requests from web pages".into());
    }
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let literal = name.trim_matches(['[', ']']).parse::<IpAddr>();
    let ours = name == "localhost"
        || literal.is_ok_and(|literal| {
            literal.is_loopback() || literal == address || address.is_unspecified()
        });
    if ours {
        Ok(())
    } else {
        refuse(format!(
            "the header Host is '{}', which is not this agent",
            host.escape_debug()
        ))
    }
}

fn respond(result: Result<Value, ApiError>) -> Response {
    let (status, body) = match &result {
        Ok(value) => (200, value.to_string()),
        Err(error) => {
            tracing::debug!(%error, "refused");
            (error.code.http_status(), error.body().to_string())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(CONTENT_TYPE),
    );
    if let Ok(value) = id::random_uuid().parse() {
        headers.insert("x-amzn-requestid", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, address: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        check_origin(&headers, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn only_our_own_names_are_answered() {
        for host in [
            "127.0.0.1:8088",
            "localhost:8088",
            "localhost",
            "[::1]:8088",
            "127.0.0.1:34567",
        ] {
            assert!(origin(host, "127.0.0.1"), "{host}");
        }
        for host in [
            "evil.example:8088",
            "127.0.0.1.evil.example",
            "10.0.0.1:8088",
            "",
            "localhost.evil.example",
        ] {
            assert!(!origin(host, "127.0.0.1"), "{host}");
        }
        assert!(origin("10.0.0.1:8088", "10.0.0.1"));
    }
}
