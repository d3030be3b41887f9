//! The programs that are compared, and the origin behind them: started from the files in `peers/`,
//! each in the namespace and on its CPU, and ended with this.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use limiter_tests::{
    http::{self, Response},
    netns::Namespace,
    process::binary,
    scratch::Scratch,
    wait::eventually,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cases::{Case, KEY},
    load::{self, Round},
};

/// Positions in [`Servers`].
pub(crate) const LIMITER: usize = 0;
pub(crate) const NGINX: usize = 1;
pub(crate) const HAPROXY: usize = 2;

/// CPU of what is measured, and of what is around it.
pub(crate) const MEASURED_CPU: &str = "0";
pub(crate) const OTHER_CPU: &str = "1";

/// Each server's port for TLS lies so far above its other.
const TLS_PORTS: u16 = 10;

const START: Duration = Duration::from_secs(10);

/// What preset `json-api` sets.
const HEADERS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    port: u16,
    pub(crate) child: Child,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Servers {
    measured: Vec<Server>,
    origin: Server,
    // Last: removed after the processes.
    _scratch: Scratch,
}

impl Servers {
    /// Starts the origin and what is measured, and waits until they answer.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let scratch = Scratch::new();
        certify(&scratch);
        let nginx = |name, port, cpu| {
            let mut command = on_cpu(namespace, cpu, "nginx");
            // It looks for certificates beside its file.
            let text = std::fs::read(peer(name)).expect("a peer's file");
            command.arg("-p").arg(scratch.path()).arg("-c").arg(scratch.write(name, text));
            Server::start("nginx", port, &mut command)
        };
        let origin = nginx("origin.conf", 3000, OTHER_CPU);
        let mut limiter = limiter(namespace, &scratch, "limiter.toml");
        let mut haproxy = on_cpu(namespace, MEASURED_CPU, "haproxy");
        haproxy.arg("-db").arg("-f").arg(peer("haproxy.cfg"));
        haproxy.env("BENCH_DIRECTORY", scratch.path());
        let servers = Self {
            measured: vec![
                Server::start("limiter", 8001, &mut limiter),
                nginx("nginx.conf", 8002, MEASURED_CPU),
                Server::start("haproxy", 8003, &mut haproxy),
            ],
            origin,
            _scratch: scratch,
        };
        for server in servers.measured.iter().chain([&servers.origin]) {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
            eventually(START, server.name, || {
                namespace.run(|| http::Connection::open(address).is_ok())
            });
        }
        servers
    }

    pub(crate) fn len(&self) -> usize {
        self.measured.len()
    }

    pub(crate) fn name(&self, server: usize) -> &'static str {
        self.measured[server].name
    }

    /// The process that was started; the server's others are its descendants.
    pub(crate) fn process(&self, server: usize) -> u32 {
        self.measured[server].child.id()
    }

    /// Where a server is reached, without TLS.
    pub(crate) fn address(&self, server: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.measured[server].port).into()
    }

    /// Where a server is reached by TLS.
    pub(crate) fn tls_address(&self, server: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.measured[server].port + TLS_PORTS).into()
    }

    /// One round; see [`load::run`].
    pub(crate) fn load(
        &self,
        namespace: &Namespace,
        server: usize,
        case: &Case,
        duration: Duration,
    ) -> Round {
        let server = &self.measured[server];
        let wrk = on_cpu(namespace, OTHER_CPU, "wrk");
        let address = SocketAddr::new(case.address, server.port);
        load::run(wrk, &server.child, address, case, duration)
    }

    /// Panics unless a server answers the requests of a case as all of them must, so that the
    /// programs are known to do the same work.
    pub(crate) fn verify(&self, namespace: &Namespace, server: usize, case: &Case) {
        let Server { name, port, .. } = self.measured[server];
        let status = case.own_status.filter(|_| server == LIMITER).unwrap_or(case.status);
        let headers: Vec<(&str, &str)> = case.credential.into_iter().collect();
        let request = http::request("GET", case.path, &headers, b"");
        let address = SocketAddr::new(case.address, port);
        let ask = || {
            namespace.run(|| {
                http::exchange(address, &request).unwrap_or_else(|error| panic!("{name}: {error}"))
            })
        };
        // A budget has to be used up first.
        let response =
            (0..1_000).map(|_| ask()).find(|response| response.status == status).unwrap_or_else(
                || panic!("{name}, {}: never answered {status}, but {:?}", case.name, ask()),
            );
        check(name, &response);
        for (header, value) in HEADERS {
            assert_eq!(response.header(header), Some(value), "{name}: {response:?}");
        }
    }
}

fn check(name: &str, response: &Response) {
    let id = response.header("x-request-id").unwrap_or_else(|| panic!("{name}: no request id"));
    let document = response.json();
    match response.status {
        200 => assert_eq!(document["message"], "hello", "{name}"),
        status => {
            assert_eq!(response.header("content-type"), Some("application/problem+json"));
            assert_eq!(
                (&document["status"], &document["request_id"]),
                (&status.into(), &id.into())
            );
            let expected = if status == 401 { "www-authenticate" } else { "retry-after" };
            assert!(response.header(expected).is_some(), "{name}: {response:?}");
        }
    }
}

impl Server {
    pub(crate) fn start(name: &'static str, port: u16, command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, port, child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = i32::try_from(self.child.id()).expect("process ids are small");
        // A child that has ended is not waited for yet, so its id is nobody else's.
        kill(Pid::from_raw(process), Signal::SIGTERM).ok();
        self.child.wait().ok();
    }
}

/// `program` inside the namespace and bound to a CPU; its process is the child itself.
pub(crate) fn on_cpu(
    namespace: &Namespace,
    cpu: &str,
    program: impl AsRef<std::ffi::OsStr>,
) -> Command {
    let mut command = namespace.command("taskset");
    command.args(["--cpu-list", cpu]).arg(program);
    command
}

/// One certificate for all, with a key of the kind that most sites have now (P-256).
fn certify(scratch: &Scratch) {
    let made = rcgen::generate_simple_self_signed(["test".to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    scratch.write("both.pem", format!("{chain}{key}"));
    scratch.write("chain.pem", chain);
    let path = scratch.write("key.pem", key);
    let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, only_owner).expect("the key's mode is set");
}

/// Where the peers' files are in the sources.
pub(crate) fn peer(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "bench/peers", name].iter().collect()
}

/// The limiter with one core and a file of `peers/`.
pub(crate) fn limiter(namespace: &Namespace, scratch: &Scratch, file: &str) -> Command {
    let mut limiter = on_cpu(namespace, MEASURED_CPU, binary());
    limiter.args(["run", "-c"]).arg(configure(scratch, file)).env("LIMITER_AUTH_TOKEN", KEY);
    limiter.env("LIMITER_PROXY_THREADS", "1");
    limiter
}

/// A file of the limiter's, with its directories in the scratch directory.
fn configure(scratch: &Scratch, file: &str) -> PathBuf {
    let directory = scratch.path().display();
    let agent = format!(
        "[agent]\nstate = \"{directory}/state\"\nruntime = \"{directory}/run\"\n\
         pins = \"{directory}/pins\"\nuser = \"nobody\"\n\n[kernel]\n"
    );
    let text = std::fs::read_to_string(peer(file)).expect("a file of ours");
    scratch.write(file, text.replacen("[kernel]\n", &agent, 1))
}
