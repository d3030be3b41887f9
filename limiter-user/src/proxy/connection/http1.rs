//! hyper's HTTP/1.1 on one connection.
//!
//! In: a stream on which a request began; out: requests to the pipeline, one at a time. Never
//! answers by itself what hyper finds malformed: that is told, and hyper's answer goes out.

use std::rc::Rc;

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{end, linger, tell, unless_ended};
use crate::{
    policy::http::HttpBounds,
    proxy::{
        core::Core,
        pipeline::{self, Answering},
        registry::Connection,
        stream::ClientStream,
    },
    refusal::Refusal,
};

/// hyper keeps header fields on the stack up to this many.
const PARSER_HEADERS: usize = 100;

/// hyper's smallest read buffer bound.
const MIN_BUFFER_BYTES: usize = 8192;

/// Serves requests until the connection ends.
pub(super) async fn drive(
    core: &Rc<Core>,
    state: &Rc<Connection>,
    bounds: HttpBounds,
    mut stream: ClientStream,
) {
    stream.keep_heads();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        // Sockets are accepted only under a policy, and there is always one from then on.
        match core.policy() {
            Some(in_force) => {
                pipeline::handle(core, state, Rc::clone(state.watch()), in_force, request)
            }
            None => Answering::Never,
        }
    });
    let mut http = builder(bounds).serve_connection(TokioIo::new(stream), service);
    let outcome = unless_ended(state, &mut http).await;
    let parts = http.into_parts();
    let mut stream = parts.io.into_inner();
    let tunnel = state.tunnel.take();
    match outcome {
        Ok(Ok(())) if let Some(tunnel) = tunnel => {
            let passing = tunnel.run(state.watch(), &mut stream, parts.read_buf);
            if let Err(ended) = unless_ended(state, Box::pin(passing)).await {
                end(core, state, ended, stream).await;
            }
        }
        Ok(Ok(())) => linger(stream.socket).await,
        Ok(Err(error)) => {
            if error.is_parse_too_large() {
                tell(core, state, Refusal::HeadTooLarge);
            } else if error.is_parse() {
                tell(core, state, Refusal::MalformedRequest);
            }
            linger(stream.socket).await;
        }
        Err(ended) => end(core, state, ended, stream).await,
    }
}

/// Without `pipeline_flush`: with bytes unread it keeps the answer to a malformed head back for ever.
fn builder(bounds: HttpBounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .half_close(false)
        .max_header_size(bounds.max_header_bytes)
        .max_buf_size(bounds.max_header_bytes.max(MIN_BUFFER_BYTES));
    if bounds.max_headers != PARSER_HEADERS {
        builder.max_headers(bounds.max_headers);
    }
    builder
}
