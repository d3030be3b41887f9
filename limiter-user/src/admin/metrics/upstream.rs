//! What is told of the servers behind the proxy.

use super::{
    super::view::{ServerView, StatusView},
    Kind, Metric, Sample,
};

const SERVER: &[&str] = &["upstream", "server"];

pub(super) const REQUESTS: Metric = Metric {
    name: "upstream_requests",
    kind: Kind::Counter,
    labels: SERVER,
    help: "Requests sent to a server, repeated ones too",
    samples: |status| of_servers(status, |one| one.requests),
};

pub(super) const FAILURES: Metric = Metric {
    name: "upstream_failures",
    kind: Kind::Counter,
    labels: SERVER,
    help: "Requests that a server did not answer, or with 502, 503 or 504",
    samples: |status| of_servers(status, |one| one.failures),
};

pub(super) const RETRIES: Metric = Metric {
    name: "upstream_retries",
    kind: Kind::Counter,
    labels: SERVER,
    help: "Requests that were sent once more after a server failed",
    samples: |status| of_servers(status, |one| one.retries),
};

pub(super) const ACTIVE: Metric = Metric {
    name: "upstream_active_requests",
    kind: Kind::Gauge,
    labels: SERVER,
    help: "Requests that a server has to answer",
    samples: |status| of_servers(status, |one| one.active),
};

pub(super) const CONNECTIONS: Metric = Metric {
    name: "upstream_connections",
    kind: Kind::Gauge,
    labels: SERVER,
    help: "Connections to a server that are open",
    samples: |status| of_servers(status, |one| one.connections),
};

pub(super) const UP: Metric = Metric {
    name: "upstream_up",
    kind: Kind::Gauge,
    labels: SERVER,
    help: "1 while a server is sent requests; 0: its health requests or its breaker say no",
    samples: |status| of_servers(status, |one| u64::from(one.state == "up")),
};

fn of_servers(status: &StatusView, value: fn(&ServerView) -> u64) -> Vec<Sample> {
    let labels = |one: &ServerView| vec![one.upstream.clone(), one.server.clone()];
    status.servers.iter().map(|one| (labels(one), value(one))).collect()
}
