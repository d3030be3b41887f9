//! The command line's side of the control socket: asks, waits, and says clearly why not.
//!
//! Blocking, with a runtime of its own per request; never retries.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{io::Socket, query, view::Failure};

/// An agent answers at once; a reload reads files.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest answer that is read into memory.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A control socket to ask.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens there.
    NoAgent(PathBuf, io::Error),
    /// The socket's mode keeps us out.
    Denied(PathBuf),
    /// The agent refused.
    Refused(Failure),
    /// The agent broke off or answered nonsense.
    Broken(String),
    /// What was read could not be written on.
    Output(io::Error),
}

impl ClientError {
    /// 2 where the caller made a mistake, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(Failure { status: 400, .. }) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAgent(socket, error) => write!(
                f,
                "no agent answers on {}: {error}\nstart one with `limiter run`, or name another \
                 with --socket or --config",
                socket.display()
            ),
            Self::Denied(socket) => {
                write!(f, "permission denied on {}: run this as root", socket.display())?;
                match fs::metadata(socket).map(|socket| socket.uid()) {
                    Ok(uid) if uid != 0 => write!(f, " or as the agent's user (uid {uid})"),
                    _ => Ok(()),
                }
            }
            Self::Refused(failure) => f.write_str(&failure.message),
            Self::Broken(what) => write!(f, "the agent broke off: {what}"),
            Self::Output(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

/// A path with its query, values encoded.
#[derive(Clone, Debug)]
pub struct Target(String);

impl Target {
    /// Without a query yet.
    pub fn new(path: &str) -> Self {
        Self(path.into())
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&query::encode(value));
        self
    }
}

/// A document as it was sent and as it was understood.
#[derive(Debug)]
pub struct Document<T> {
    /// JSON, for `--json`.
    pub json: Bytes,
    /// For people.
    pub view: T,
}

impl Client {
    /// Asks the agent behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// Sends a request and reads the whole answer.
    pub fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Vec<u8>,
    ) -> Result<Document<T>, ClientError> {
        let json = block_on(async {
            let answered = async {
                let mut response = self.send(method, target, body).await?;
                read(response.body_mut()).await
            };
            tokio::time::timeout(ANSWER_TIMEOUT, answered)
                .await
                .unwrap_or_else(|_| Err(ClientError::Broken("no answer in time".into())))
        })?;
        let view = serde_json::from_slice(&json)
            .map_err(|error| ClientError::Broken(format!("not the expected document: {error}")))?;
        Ok(Document { json, view })
    }

    /// Hands on what comes, as it comes, until the agent ends it.
    pub fn stream(
        &self,
        target: &Target,
        mut output: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        block_on(async {
            let mut response = self.send(Method::GET, target, Vec::new()).await?;
            while let Some(frame) = response.body_mut().frame().await {
                let frame = frame.map_err(broken)?;
                if let Some(bytes) = frame.data_ref() {
                    output(bytes).map_err(ClientError::Output)?;
                }
            }
            Ok(())
        })
    }

    async fn send(
        &self,
        method: Method,
        target: &Target,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => ClientError::Denied(self.socket.clone()),
                _ => ClientError::NoAgent(self.socket.clone(), error),
            })?;
        let (mut sender, connection) = http1::handshake(Socket(stream)).await.map_err(broken)?;
        // Drives the connection; its errors also reach the request and the body.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = target
            .0
            .parse()
            .map_err(|error| ClientError::Broken(format!("{}: {error}", target.0)))?;
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        let mut response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = read(response.body_mut()).await?;
        Err(ClientError::Refused(serde_json::from_slice(&body).unwrap_or_else(|_| Failure {
            status,
            message: format!("the agent answered {status}"),
        })))
    }
}

async fn read(body: &mut Incoming) -> Result<Bytes, ClientError> {
    let collected = http_body_util::Limited::new(body, MAX_ANSWER_BYTES).collect();
    match collected.await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(ClientError::Broken(error.to_string())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.to_string())
}

fn block_on<T>(future: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Broken(format!("no runtime: {error}")))?
        .block_on(future)
}
