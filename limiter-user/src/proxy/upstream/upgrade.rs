//! Requests to go on in another protocol, such as WebSocket (RFC 9110, 7.8).
//!
//! In: a cleared request that asks; out: the server's answer. Only when the server has said 101,
//! and to the very protocol that was asked for, the client is told so and bytes pass.

use std::{future::poll_fn, pin::pin, rc::Rc};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper::body::Incoming;

use super::{
    Attempt, dial, failure, finish,
    pool::{Chosen, Link, Pool},
    server::Verdict,
    tunnel::Tunnel,
};
use crate::{
    clock,
    proxy::{
        body::{RequestBody, Source},
        exchange::Exchange,
        once::Once,
        reply::Reply,
        stage::transform::hop_by_hop,
    },
    refusal::Refusal,
};

/// Sends the request on a connection of its own, once, to the first server that can be reached.
pub(super) async fn send(
    exchange: &Exchange,
    pool: &Pool,
    mut chosen: Chosen,
    (mut request, once): (Request<RequestBody>, Once),
    protocol: HeaderValue,
) -> Result<Response<Source>, Reply> {
    let timeouts = exchange.in_force.policy.timeouts;
    let mut unreachable = 0;
    let (mut sender, mut connection) = loop {
        let dialing = async {
            let server = &chosen.lane.server;
            let (wire, _) = dial::dial(server, true, timeouts.connect).await.map_err(drop)?;
            dial::http1(wire).await.map_err(drop)
        };
        let connected = exchange.within(timeouts.connect, pin!(dialing)).await;
        match connected {
            Some(Ok(connected)) => break connected,
            failed => {
                chosen.unreachable();
                unreachable |= chosen.bit;
                let refusal = Refusal::UpstreamFailed;
                let refusal = if failed.is_none() { Refusal::UpstreamTimeout } else { refusal };
                let now_ns = clock::monotonic_ns();
                let another = pool.choose(exchange, unreachable, now_ns);
                chosen = another.ok_or_else(|| pool.nobody(refusal, now_ns))?;
            }
        }
    };
    let lane = Rc::clone(&chosen.lane);
    let open = lane.open();
    let passage = chosen.passage;
    let mut lease = chosen.lease(Link::None);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(UPGRADE, protocol.clone());
    once.hand_over()?;
    let mut ended = false;
    let answer = {
        let mut sending = pin!(sender.try_send_request(request));
        let both = async {
            let answer = poll_fn(|context| {
                // Its errors are told by the request.
                ended = ended || connection.poll_without_shutdown(context).is_ready();
                sending.as_mut().poll(context)
            });
            answer.await.map_err(failure)
        };
        Attempt::of(exchange, exchange.within(timeouts.upstream, pin!(both)).await)
    };
    let response = match answer {
        Attempt::Answered(response) => response,
        Attempt::Fault(refusal) => return Err(refusal.into()),
        other => {
            lease.judge(Verdict::Failed, passage);
            if matches!(other, Attempt::Unsent(_)) {
                once.unsent();
            }
            let timed_out = matches!(other, Attempt::TimedOut);
            let refusal = Refusal::UpstreamFailed;
            return Err(if timed_out { Refusal::UpstreamTimeout } else { refusal }.into());
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // It declined, which is an answer like any other.
        lease.link = open.run(sender, connection);
        return finish(lease, passage, response);
    }
    if !ended {
        let rest = poll_fn(|context| connection.poll_without_shutdown(context));
        ended = matches!(exchange.within(timeouts.connect, pin!(rest)).await, Some(Ok(())));
    }
    if !ended || !is_about(&response, &protocol) {
        lease.judge(Verdict::Failed, passage);
        return Err(Refusal::UpstreamFailed.into());
    }
    lease.judge(Verdict::Answered, passage);
    let parts = connection.into_parts();
    let (wire, unread) = (parts.io.into_inner(), parts.read_buf);
    let tunnel = Tunnel { wire, unread, idle: timeouts.idle, lease, open, places: Vec::new() };
    exchange.connection.tunnelling.set(exchange.client);
    exchange.connection.tunnel.replace(Some(Box::new(tunnel)));
    let (mut parts, _) = response.into_parts();
    hop_by_hop(&mut parts.headers);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, protocol);
    Ok(Response::from_parts(parts, Source::Fixed(None)))
}

/// Whether the server goes on with what was asked for.
fn is_about(response: &Response<Incoming>, protocol: &HeaderValue) -> bool {
    let mut said = response.headers().get_all(UPGRADE).iter();
    let first = said.next().is_some_and(|one| {
        one.as_bytes().trim_ascii().eq_ignore_ascii_case(protocol.as_bytes().trim_ascii())
    });
    first && said.next().is_none()
}
