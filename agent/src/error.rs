//! The errors of the ECS API, by the names that AWS clients parse.
//!
//! On the wire an error is HTTP 400 (500 for [`Code::Server`]) with the body
//! `{"__type": "<code>", "message": "…"}`, as the AWS JSON 1.1 protocol has it.

use serde_json::{Value, json};

/// An error's name in the ECS API (the botocore model of ECS, "exceptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request can't be done as it stands: most mistakes in a task definition.
    Client,
    /// A parameter is out of its range or names something that isn't there.
    InvalidParameter,
    /// The cluster that the request names doesn't exist.
    ClusterNotFound,
    /// The task definition can't run with the launch type that was asked for.
    PlatformUnknown,
    /// The body isn't JSON, or a member has the wrong type.
    Serialization,
    /// The operation isn't one of ours.
    UnknownOperation,
    /// The caller didn't prove who it is.
    UnrecognizedClient,
    /// Our own fault: the host, the disk, a bug.
    Server,
}

impl Code {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "ClientException",
            Self::InvalidParameter => "InvalidParameterException",
            Self::ClusterNotFound => "ClusterNotFoundException",
            Self::PlatformUnknown => "PlatformUnknownException",
            Self::Serialization => "SerializationException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::Server => "ServerException",
        }
    }

    /// The HTTP status that goes with it.
    pub fn http_status(self) -> u16 {
        if self == Self::Server { 500 } else { 400 }
    }

    /// The code of that name; an unknown name, from a newer agent, counts as the server's fault.
    pub fn from_name(name: &str) -> Self {
        const ALL: [Code; 7] = [
            Code::Client,
            Code::InvalidParameter,
            Code::ClusterNotFound,
            Code::PlatformUnknown,
            Code::Serialization,
            Code::UnknownOperation,
            Code::UnrecognizedClient,
        ];
        ALL.into_iter()
            .find(|code| code.name() == name)
            .unwrap_or(Self::Server)
    }
}

/// An answer of the ECS API that says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct ApiError {
    /// Which of ECS's errors it is.
    pub code: Code,
    /// What is wrong, naming the member and its value, and what would be right.
    pub message: String,
}

impl ApiError {
    /// An error with that code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// `ClientException`.
    pub fn client(message: impl Into<String>) -> Self {
        Self::new(Code::Client, message)
    }

    /// `InvalidParameterException`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidParameter, message)
    }

    /// `ServerException`, from whatever went wrong on our side.
    pub fn server(cause: impl std::fmt::Display) -> Self {
        Self::new(Code::Server, cause.to_string())
    }

    /// The body that goes over the wire.
    pub fn body(&self) -> Value {
        json!({"__type": self.code.name(), "message": self.message})
    }
}
