//! The usual arrangement: clients in one namespace, the protected host in another, one wire.
//!
//! The client side has several addresses of each family, so that a test can be several sources at
//! once. Its `IPv6` networks are not the server's: a ban is by /64 and never hits the host's own.

use std::net::{IpAddr, SocketAddr};

use crate::{
    frames::Frame,
    http::{self, Connection, Failure, Response},
    netns::Namespace,
    origin::Origin,
    raw::Port,
    veth::Veth,
};

/// The protected host.
pub const SERVER: &str = "10.9.0.1";
/// The protected host.
pub const SERVER_V6: &str = "fd00:9::1";
/// Clients, each a source of its own.
pub const CLIENTS: [&str; 5] = ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"];
/// Two addresses of one /64, and one of another.
pub const CLIENTS_V6: [&str; 3] = ["fd00:a::2", "fd00:a::3", "fd00:b::2"];
/// Where the proxy listens in [`World::http`].
pub const PORT: u16 = 8080;

/// Both namespaces and the wire.
#[derive(Debug)]
pub struct World {
    /// The wire; the limiter protects `server0`.
    pub veth: Veth,
    /// Where clients are.
    pub client: Namespace,
    /// The protected host.
    pub server: Namespace,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Makes all of it.
    pub fn new() -> Self {
        let (client, server) = (Namespace::new("client"), Namespace::new("server"));
        let v4 = CLIENTS.map(|address| format!("{address}/24"));
        let v6 = CLIENTS_V6.map(|address| format!("{address}/64"));
        let addresses: Vec<&str> = v4.iter().chain(&v6).map(String::as_str).collect();
        let (own_v4, own_v6) = (format!("{SERVER}/24"), format!("{SERVER_V6}/64"));
        let veth = Veth::between(&client, &addresses, &server, &[&own_v4, &own_v6]);
        client.batch("route add fd00:9::/64 dev client0\n");
        server.batch("route add fd00:a::/64 dev server0\nroute add fd00:b::/64 dev server0\n");
        Self { veth, client, server }
    }

    /// `[kernel]` on `server0` with these further lines.
    pub fn kernel(lines: &str) -> String {
        format!("[kernel]\ninterfaces = [\"server0\"]\nfailsafe_ports = []\n{lines}\n{SINKS}")
    }

    /// `[http]` in front of an origin on [`PORT`]: one public route `/`.
    pub fn http(origin: &Origin) -> String {
        format!(
            "[http]\n[[http.listener]]\naddress = \"0.0.0.0:{PORT}\"\n\
             [[http.upstream]]\nname = \"api\"\nservers = [\"{}\"]\n\
             [[http.route]]\nauth = \"none\"\nlimits = \"none\"\n",
            origin.url()
        )
    }

    /// Where the proxy of [`Self::http`] is reached.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(SERVER.parse().expect("an address"), PORT)
    }

    /// The bytes of a frame from the clients' wire end to the host's.
    pub fn frame(&self, frame: Frame) -> Vec<u8> {
        frame.macs(self.veth.client.mac, self.veth.server.mac).bytes()
    }

    /// A datagram from a source to the host; its payload is the source's text.
    pub fn datagram(&self, source: &str) -> Vec<u8> {
        let (host, brackets) =
            if source.contains(':') { (SERVER_V6, true) } else { (SERVER, false) };
        let socket = |address: &str, port: u16| {
            if brackets { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
        };
        let (from, to) = (socket(source, 4000), socket(host, 9));
        self.frame(Frame::udp(&from, &to, source.as_bytes()))
    }

    /// Sends a datagram from a source so often.
    pub fn send(&self, source: &str, count: u32) {
        Port::open(&self.veth.client).send_many(&self.datagram(source), count, 100_000);
    }

    /// One request from a source, on a connection of its own.
    pub fn request(&self, source: &str, bytes: &[u8]) -> Result<Response, Failure> {
        let source: IpAddr = source.parse().expect("an address");
        self.client.run(|| http::exchange_from(source, self.address(), bytes))
    }

    /// `GET /` from a source with these header fields; panics unless answered.
    #[track_caller]
    pub fn get(&self, source: &str, headers: &[(&str, &str)]) -> Response {
        self.request(source, &http::request("GET", "/", headers, b""))
            .unwrap_or_else(|failure| panic!("GET / from {source}: {failure}"))
    }

    /// A connection from a source.
    #[track_caller]
    pub fn connect(&self, source: &str) -> Connection {
        let source: IpAddr = source.parse().expect("an address");
        self.client
            .run(|| Connection::open_from(Some(source), self.address(), http::TIMEOUT))
            .unwrap_or_else(|failure| panic!("connecting from {source}: {failure}"))
    }
}

/// Both default sinks, but the file in the test's own directory, and JSON beside it.
pub const SINKS: &str = "[[events.sink]]\nkind = \"stderr\"\n\
                         [[events.sink]]\nkind = \"file\"\npath = \"events.log\"\n\
                         [[events.sink]]\nkind = \"file\"\npath = \"events.json\"\nformat = \"json\"\n";
