//! A store, and hosts around it: each a limiter with an origin, on a wire to the store.

use std::{net::SocketAddr, time::Duration};

use limiter_tests::{
    http::{self, Connection, Response},
    netns::Namespace,
    origin::Origin,
    process::Limiter,
    redis::Redis,
    veth::Veth,
    wait::{eventually, eventually_some},
    world::SINKS,
};

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// What all hosts share, and they.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    pub(crate) redis: Redis,
    wires: Vec<Veth>,
    // Last: removed after what runs in it.
    namespace: Namespace,
}

/// One host.
pub(crate) struct Host {
    pub(crate) limiter: Limiter,
    pub(crate) namespace: Namespace,
    pub(crate) origin: Origin,
    store: String,
}

impl Cluster {
    /// A store without hosts.
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new("store");
        let redis = Redis::start(&namespace, "0.0.0.0");
        Self { hosts: Vec::new(), redis, wires: Vec::new(), namespace }
    }

    /// With so many hosts alike: these lines in `[http]`, in the only route and in `[store]`, and
    /// these sections.
    pub(crate) fn of(hosts: usize, route: &str, store: &str, sections: &str) -> Self {
        let mut cluster = Self::new();
        for _ in 0..hosts {
            cluster.add("", route, store, sections);
        }
        cluster.wait_up();
        cluster
    }

    /// Adds a host and starts it.
    pub(crate) fn add(&mut self, http: &str, route: &str, store: &str, sections: &str) -> &Host {
        let url = self.redis.url_at(&format!("10.8.{}.1", self.hosts.len()));
        self.add_at(&url, &[], http, route, store, sections)
    }

    /// Adds one that finds the store at this URL and has these variables in its environment.
    pub(crate) fn add_at(
        &mut self,
        url: &str,
        environment: &[(&str, &str)],
        http: &str,
        route: &str,
        store: &str,
        sections: &str,
    ) -> &Host {
        let place = self.hosts.len();
        let namespace = Namespace::new(&format!("host{place}"));
        let wire = Veth::named(
            (&format!("to{place}"), &self.namespace, &[&format!("10.8.{place}.1/24")]),
            ("host0", &namespace, &[&format!("10.8.{place}.2/24")]),
        );
        self.wires.push(wire);
        let origin = Origin::start(&namespace);
        let store = format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\n{store}\n");
        let configuration = configuration(&origin, http, route, &format!("{store}{sections}"));
        let mut limiter = Limiter::prepare(&namespace, &configuration);
        for (name, value) in environment {
            limiter.environment(name, value);
        }
        limiter.restart();
        self.hosts.push(Host { limiter, namespace, origin, store });
        self.hosts.last().expect("just added")
    }

    /// Removes all hosts, and what the store knows.
    pub(crate) fn clear(&mut self) {
        self.hosts.clear();
        self.wires.clear();
        self.redis.ask(&["FLUSHALL"]);
    }

    /// Waits until every host uses the store.
    #[track_caller]
    pub(crate) fn wait_up(&self) {
        for host in &self.hosts {
            eventually(SOON, "the store is used", || host.store_is("up"));
        }
    }
}

impl Host {
    pub(crate) fn address() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    /// Puts another configuration in force, with the same store.
    #[track_caller]
    pub(crate) fn reload(&self, route: &str, sections: &str) {
        let sections = format!("{}{sections}", self.store);
        self.limiter.configure(&configuration(&self.origin, "", route, &sections));
        self.limiter.cli(&["reload"]).succeeded();
    }

    /// One request from 127.0.0.1, on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, headers: &[(&str, &str)]) -> Response {
        self.namespace
            .run(|| http::exchange(Self::address(), &http::request("GET", "/", headers, b"")))
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    pub(crate) fn connect(&self) -> Connection {
        self.namespace.run(|| Connection::open(Self::address()).unwrap())
    }

    /// How many of so many requests, one after the other, are answered 200; the others are
    /// answered `refused`.
    #[track_caller]
    pub(crate) fn admitted(&self, requests: u32, refused: u16) -> u32 {
        let mut connection = self.connect();
        let request = http::request("GET", "/", &[], b"");
        let mut admitted = 0;
        for _ in 0..requests {
            match connection.exchange(&request).unwrap().status {
                200 => admitted += 1,
                status => assert_eq!(status, refused),
            }
        }
        admitted
    }

    /// How many of so many requests are answered with this status.
    #[track_caller]
    pub(crate) fn statuses(&self, requests: u32, wanted: u16) -> u32 {
        let mut connection = self.connect();
        let request = http::request("GET", "/", &[], b"");
        let statuses = (0..requests).map(|_| connection.exchange(&request).unwrap().status);
        u32::try_from(statuses.filter(|status| *status == wanted).count()).unwrap()
    }

    pub(crate) fn store_is(&self, state: &str) -> bool {
        self.limiter.status().store.is_some_and(|store| store.state == state)
    }

    /// What was counted of the store's requests.
    #[track_caller]
    pub(crate) fn requests(&self, result: &str) -> u64 {
        self.limiter.status().store.unwrap().requests[result]
    }

    /// What was counted of shared bans.
    #[track_caller]
    pub(crate) fn bans(&self, change: &str) -> u64 {
        self.limiter.status().store.unwrap().bans[change]
    }

    /// The ban of this prefix, as soon as there is one.
    #[track_caller]
    pub(crate) fn ban(&self, prefix: &str) -> serde_json::Value {
        eventually_some(SOON, &format!("{prefix} is banned"), || self.find_ban(prefix))
    }

    pub(crate) fn find_ban(&self, prefix: &str) -> Option<serde_json::Value> {
        let bans = self.limiter.json(&["bans", "--json"]);
        bans.as_array().unwrap().iter().find(|ban| ban["prefix"] == prefix).cloned()
    }
}

fn configuration(origin: &Origin, http: &str, route: &str, sections: &str) -> String {
    format!(
        "{SINKS}[http]\n{http}\n[[http.listener]]\naddress = \"127.0.0.1:8080\"\n\
         [[http.upstream]]\nname = \"api\"\nservers = [\"{}\"]\n\
         [[http.route]]\n{route}\n{sections}",
        origin.url()
    )
}
