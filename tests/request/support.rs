//! A site: an origin and the limiter in front of it, on the loopback of one namespace.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use limiter_tests::{
    http::{self, Connection, Failure, Response},
    netns::Namespace,
    origin::Origin,
    process::Limiter,
    wait::eventually,
    world::SINKS,
};

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// The origin, and the limiter that listens on 127.0.0.1:8080 (all of 127.0.0.0/8).
pub(crate) struct Site {
    pub(crate) limiter: Limiter,
    pub(crate) origin: Origin,
    pub(crate) namespace: Namespace,
}

impl Site {
    /// With these lines in `[http]` and in its only route, and these sections.
    pub(crate) fn start(http: &str, route: &str, sections: &str) -> Self {
        let mut site = Self::prepare(http, route, sections);
        site.limiter.restart();
        site
    }

    /// As [`Self::start`], without starting.
    pub(crate) fn prepare(http: &str, route: &str, sections: &str) -> Self {
        let namespace = Namespace::new("site");
        let origin = Origin::start(&namespace);
        let limiter = Limiter::prepare(&namespace, &configuration(&origin, http, route, sections));
        Self { limiter, origin, namespace }
    }

    /// Puts another configuration in force.
    #[track_caller]
    pub(crate) fn reload(&self, http: &str, route: &str, sections: &str) {
        self.limiter.configure(&configuration(&self.origin, http, route, sections));
        self.limiter.cli(&["reload"]).succeeded();
    }

    pub(crate) fn address() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn send(&self, bytes: &[u8]) -> Response {
        self.try_send(bytes).unwrap_or_else(|failure| panic!("{}: {failure}", bytes.escape_ascii()))
    }

    pub(crate) fn try_send(&self, bytes: &[u8]) -> Result<Response, Failure> {
        self.namespace.run(|| http::exchange(Self::address(), bytes))
    }

    /// As [`Self::send`] from another loopback address.
    #[track_caller]
    pub(crate) fn send_from(&self, source: &str, bytes: &[u8]) -> Response {
        let source: IpAddr = source.parse().unwrap();
        self.namespace.run(|| http::exchange_from(source, Self::address(), bytes).unwrap())
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.send(&http::request("GET", target, headers, b""))
    }

    pub(crate) fn connect(&self) -> Connection {
        self.namespace.run(|| Connection::open(Self::address()).unwrap())
    }

    /// Waits until exactly so many requests were refused with this label.
    #[track_caller]
    pub(crate) fn refused(&self, label: &str, count: u64) {
        eventually(SOON, &format!("{count} of {label}"), || {
            self.limiter.status().refused.get(label).copied().unwrap_or(0) == count
        });
    }
}

pub(crate) fn configuration(origin: &Origin, http: &str, route: &str, sections: &str) -> String {
    configuration_of(&[origin.url()], "", http, route, sections)
}

/// With these servers, and these lines in their `[[http.upstream]]`.
pub(crate) fn configuration_of(
    servers: &[String],
    upstream: &str,
    http: &str,
    route: &str,
    sections: &str,
) -> String {
    format!(
        "{SINKS}[http]\n{http}\n[[http.listener]]\naddress = \"0.0.0.0:8080\"\n\
         [[http.upstream]]\nname = \"api\"\nservers = {servers:?}\n{upstream}\n\
         [[http.route]]\n{route}\n{sections}",
    )
}

/// A route open to everybody.
pub(crate) const OPEN: &str = "auth = \"none\"\nlimits = \"none\"";
