//! One task for each server, on the conductor's thread: is it well, and where is it?
//!
//! In: a server; out: its state and its addresses. Ends with the server's last policy.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri, header::HOST};
use http_body_util::Empty;

use super::{dial, server::Server};
use crate::{clock, policy::upstream::HealthPolicy};

/// How often names are resolved, and how long that may take.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// So many bad answers in a row take a server out, so many good ones bring it back.
const FALL: u32 = 3;
const RISE: u32 = 2;

/// Watches a server until no policy names it.
pub(super) fn watch(server: Weak<Server>) {
    let Some(known) = server.upgrade() else {
        return;
    };
    if known.addresses.is_name() {
        tokio::task::spawn_local(resolve(server.clone()));
    }
    if let Some(health) = known.identity.health.clone() {
        tokio::task::spawn_local(ask(server, health));
    }
}

async fn resolve(server: Weak<Server>) {
    while let Some(server) = server.upgrade() {
        match tokio::time::timeout(RESOLVE_WITHIN, dial::resolve(&server)).await {
            Ok(Ok(found)) => server.addresses.replace(found),
            // Those before stay.
            Ok(Err(error)) => log::debug!("{}: {error}", server.url),
            Err(_) => log::debug!("{}: resolving takes too long", server.url),
        }
        drop(server);
        tokio::time::sleep(RESOLVE_EVERY).await;
    }
}

async fn ask(server: Weak<Server>, health: HealthPolicy) {
    // Not all servers in the same moment.
    let nanoseconds = u64::try_from(health.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    tokio::time::sleep(Duration::from_nanos(clock::monotonic_ns() % nanoseconds)).await;
    let mut streak = Streak::default();
    while let Some(server) = server.upgrade() {
        let answer = tokio::time::timeout(health.timeout, question(&server, &health)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
        if let Some(found) = streak.add(answer) {
            server.examine(found);
        }
        drop(server);
        tokio::time::sleep(health.interval).await;
    }
}

/// Answers in a row.
#[derive(Debug, Default)]
struct Streak {
    good: u32,
    bad: u32,
}

impl Streak {
    /// What is certain after one more.
    fn add(&mut self, answer: Result<(), String>) -> Option<Result<(), String>> {
        if answer.is_ok() {
            *self = Self { good: self.good.saturating_add(1), bad: 0 };
            (self.good >= RISE).then_some(answer)
        } else {
            *self = Self { good: 0, bad: self.bad.saturating_add(1) };
            (self.bad >= FALL).then_some(answer)
        }
    }
}

/// Asks once, on a connection of its own.
async fn question(server: &Arc<Server>, health: &HealthPolicy) -> Result<(), String> {
    let (wire, is_h2) = dial::dial(server, false, health.timeout)
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let builder = Request::get(&health.path).header("user-agent", "limiter-health");
    let response = if is_h2 {
        let scheme = if server.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(server.authority.as_str())
            .path_and_query(health.path.as_str())
            .build()
            .map_err(|error| error.to_string())?;
        let request =
            builder.uri(uri).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let mut sender = dial::http2(wire, |_| {}).await.map_err(broken)?;
        sender.send_request(request).await.map_err(broken)?
    } else {
        let request = builder
            .header(HOST, server.authority.as_str())
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let (mut sender, mut connection) = dial::http1(wire).await.map_err(broken)?;
        let mut sending = pin!(sender.send_request(request));
        let mut ended = false;
        let both = poll_fn(|context| {
            // Its errors are told by the request, and it may end in the moment of the answer.
            ended = ended || Pin::new(&mut connection).poll(context).is_ready();
            sending.as_mut().poll(context)
        });
        both.await.map_err(broken)?
    };
    match response.status().as_u16() {
        100..400 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bad_answer_is_chance() {
        let bad = || Err("x".to_owned());
        let mut streak = Streak::default();
        assert_eq!(streak.add(bad()), None);
        assert_eq!(streak.add(bad()), None);
        assert_eq!(streak.add(Ok(())), None);
        assert_eq!(streak.add(bad()), None);
        assert_eq!(streak.add(bad()), None);
        assert_eq!(streak.add(bad()), Some(bad()));
        assert_eq!(streak.add(Ok(())), None);
        assert_eq!(streak.add(Ok(())), Some(Ok(())));
    }
}
