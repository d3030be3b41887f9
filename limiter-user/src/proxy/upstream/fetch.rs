//! One question of our own, on a connection of its own, with the whole answer: documents that the
//! proxy needs itself. On the conductor's thread.
//!
//! In: an upstream, a path and bounds; out: the body of a 200, or why not. Redirects are not
//! followed: only the server that the configuration names is asked.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, HOST, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;

use super::{dial, directory::Upstream, server::Server};

/// A document.
#[derive(Debug)]
pub(in crate::proxy) struct Fetched {
    pub(in crate::proxy) body: Vec<u8>,
    pub(in crate::proxy) cache_control: Option<String>,
}

impl Upstream {
    /// Says whether its one server is of use, which is told when it changes.
    pub(in crate::proxy) fn examine(&self, found: Result<(), String>) {
        if let Some(server) = self.servers.first() {
            server.examine(found);
        }
    }
}

/// Fetches a document of at most so many bytes within a time.
pub(in crate::proxy) async fn fetch(
    upstream: &Upstream,
    path: &str,
    most_bytes: usize,
    limit: Duration,
) -> Result<Fetched, String> {
    let server = upstream.servers.first().ok_or("no server")?;
    let answer = tokio::time::timeout(limit, ask(server, path, most_bytes, limit)).await;
    answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn ask(
    server: &Arc<Server>,
    path: &str,
    most_bytes: usize,
    limit: Duration,
) -> Result<Fetched, String> {
    let (wire, is_h2) = dial::dial(server, true, limit)
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    if is_h2 {
        return Err("it speaks HTTP/2 where HTTP/1.1 was asked for".to_owned());
    }
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let request = Request::get(path)
        .header(HOST, server.authority.as_str())
        .header(USER_AGENT, "limiter")
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let (mut sender, mut connection) = dial::http1(wire).await.map_err(broken)?;
    let mut reading = pin!(async {
        let response = sender.send_request(request).await.map_err(broken)?;
        read(response, most_bytes).await
    });
    let mut ended = false;
    poll_fn(|context| {
        // Its errors are told by the answer, and it may end in the moment of that.
        ended = ended || Pin::new(&mut connection).poll(context).is_ready();
        reading.as_mut().poll(context)
    })
    .await
}

async fn read(response: Response<Incoming>, most_bytes: usize) -> Result<Fetched, String> {
    let (head, mut incoming) = response.into_parts();
    if head.status != 200 {
        return Err(format!("status {}", head.status.as_u16()));
    }
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err("a coding that was not asked for".to_owned());
    }
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| format!("the answer breaks off: {error}"))?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > most_bytes {
            return Err(format!("an answer of more than {most_bytes} bytes"));
        }
        body.extend_from_slice(&data);
    }
    let cache_control = head.headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
    Ok(Fetched { body, cache_control: cache_control.map(str::to_owned) })
}
