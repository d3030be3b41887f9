//! What connections cost: CPU time of a full TLS handshake, and memory of one that is idle, of
//! `limiter` and of nginx and `HAProxy` in front of the same origin.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use limiter_tests::{http, netns::Namespace, wait::Deadline};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    proxy::{
        cases::KEY,
        hundredths, load, median, microseconds,
        servers::{self, Servers},
    },
    table,
};

const TURNS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);

/// Connections that are open and say nothing.
const IDLE: usize = 8_000;

/// What each may cost, in bytes, without TLS and with it.
const IDLE_TARGETS: [u64; 2] = [16 << 10, 32 << 10];

/// Measures everything; the tables.
pub(crate) fn measure() -> String {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many descriptors as allowed");
    let namespace = Namespace::new("bench");
    let configuration = client();
    let servers = Servers::start(&namespace);
    let mut text = handshakes(&namespace, &servers, &configuration);
    text.push('\n');
    text += &idle(&namespace, &servers, &configuration);
    text
}

fn handshakes(
    namespace: &Namespace,
    servers: &Servers,
    configuration: &Arc<ClientConfig>,
) -> String {
    let mut costs: Vec<Vec<u64>> = vec![Vec::new(); servers.len()];
    for _ in 0..TURNS {
        for (server, of_server) in costs.iter_mut().enumerate() {
            let processes = load::family(servers.process(server));
            let used = || processes.iter().map(|process| load::cpu_ns(*process)).sum::<u64>();
            let before = used();
            let count = namespace.run(|| shake(servers.tls_address(server), configuration));
            of_server.push((used() - before) / count.max(1));
        }
    }
    let mut rows = vec![
        ["server", "us/handshake", "/CPU second", "/nginx", "target", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (server, of_server) in costs.iter().enumerate() {
        let cost_ns = median(of_server.iter().copied());
        let ratios = of_server.iter().zip(&costs[servers::NGINX]);
        let ratio = median(ratios.map(|(own, theirs)| own * 100 / theirs.max(&1)));
        let is_own = server == servers::LIMITER;
        let own = |text: &str| if is_own { text.to_owned() } else { String::new() };
        rows.push(vec![
            servers.name(server).to_owned(),
            microseconds(cost_ns),
            (1_000_000_000 / cost_ns.max(1)).to_string(),
            own(&hundredths(ratio)),
            own("1.00"),
            own(if ratio <= 100 { "PASS" } else { "MISS" }),
        ]);
    }
    let mut text = table::lines(&rows);
    // Writing to a string cannot fail.
    let _infallible = writeln!(
        text,
        "\nfull TLS 1.3 handshakes, P-256, no resumption; CPU time of all processes of the server, \
         median of {TURNS} rounds of {} s",
        ROUND.as_secs()
    );
    text
}

/// Shakes hands until the round is over; how often.
fn shake(address: SocketAddr, configuration: &Arc<ClientConfig>) -> u64 {
    let deadline = Deadline::after(ROUND);
    let mut count = 0;
    while !deadline.is_over() {
        drop(open(address, configuration));
        count += 1;
    }
    count
}

/// A connection whose handshake is complete, as the server sees it too.
fn open(address: SocketAddr, configuration: &Arc<ClientConfig>) -> (ClientConnection, TcpStream) {
    let name = ServerName::try_from("test").expect("a name");
    let mut socket = TcpStream::connect(address).expect("the server accepts");
    let mut tls = ClientConnection::new(Arc::clone(configuration), name).expect("a client");
    while tls.is_handshaking() || tls.wants_write() {
        tls.complete_io(&mut socket).expect("a handshake");
    }
    (tls, socket)
}

fn idle(namespace: &Namespace, servers: &Servers, configuration: &Arc<ClientConfig>) -> String {
    let mut rows =
        vec![["connections", "server", "bytes", "target", ""].map(str::to_owned).to_vec()];
    for (tls, (name, target)) in ["plain", "TLS"].iter().zip(IDLE_TARGETS).enumerate() {
        for server in 0..servers.len() {
            let processes = load::family(servers.process(server));
            let memory = || processes.iter().map(|process| resident_bytes(*process)).sum::<u64>();
            // What the first few make is not each one's.
            let warm = namespace.run(|| fill(servers, server, tls == 1, configuration, 100));
            let before = memory();
            let open = namespace.run(|| fill(servers, server, tls == 1, configuration, IDLE));
            let each = memory().saturating_sub(before) / IDLE as u64;
            drop((warm, open));
            let is_own = server == servers::LIMITER;
            let own = |text: String| if is_own { text } else { String::new() };
            let met = if each <= target { "PASS" } else { "MISS" };
            rows.push(vec![
                (*name).to_owned(),
                servers.name(server).to_owned(),
                each.to_string(),
                own(target.to_string()),
                own(met.to_owned()),
            ]);
        }
    }
    let mut text = table::lines(&rows);
    // Writing to a string cannot fail.
    let _infallible = writeln!(
        text,
        "\nproportional set size of all processes of the server for each of {IDLE} connections \
         that have had one request"
    );
    text
}

/// Opens connections, each with one request that was answered.
fn fill(
    servers: &Servers,
    server: usize,
    by_tls: bool,
    configuration: &Arc<ClientConfig>,
    count: usize,
) -> Vec<TcpStream> {
    let request = http::request("GET", "/api/items", &[("X-API-KEY", KEY)], b"");
    let name = servers.name(server);
    let answered = |read: std::io::Result<usize>, answer: &[u8]| {
        assert!(read.is_ok_and(|read| read > 0) && answer.starts_with(b"HTTP/1.1 200"), "{name}");
    };
    let one = || {
        // The answer is small: it comes at once.
        let mut answer = [0; 4_096];
        if by_tls {
            let (mut tls, mut socket) = open(servers.tls_address(server), configuration);
            let mut stream = Stream::new(&mut tls, &mut socket);
            stream.write_all(&request).expect("a request is sent");
            answered(stream.read(&mut answer), &answer);
            socket
        } else {
            let mut socket = TcpStream::connect(servers.address(server)).expect("it accepts");
            socket.write_all(&request).expect("a request is sent");
            answered(socket.read(&mut answer), &answer);
            socket
        }
    };
    (0..count).map(|_| one()).collect()
}

/// Proportional set size (proc(5), `smaps_rollup`).
fn resident_bytes(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1_024
}

/// Believes every certificate: the servers are this program's own.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn client() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Believing(Arc::clone(&provider)));
    let mut configuration = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    configuration.resumption = Resumption::disabled();
    Arc::new(configuration)
}
