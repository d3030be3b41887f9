//! TLS to `https` servers: the certificate must lead to an authority of the policy and be for the
//! host that the configuration names.

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What the servers of one upstream are verified with.
#[derive(Clone)]
pub(super) struct Verifier {
    any: TlsConnector,
    /// Upgrades exist in HTTP/1.1 only.
    http1: TlsConnector,
}

/// What is needed to speak TLS with one server. Sessions are resumed from any core.
pub(super) struct Tls {
    verifier: Verifier,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Trusts these authorities (DER).
    pub(super) fn new(roots: &[Vec<u8>]) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().map(|root| CertificateDer::from(&**root)));
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(store)
            .with_no_client_auth();
        let speaking = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self { any: speaking(&[b"h2", b"http/1.1"]), http1: speaking(&[b"http/1.1"]) })
    }
}

impl Tls {
    /// For a server at `host`, a name or an address.
    pub(super) fn new(verifier: Verifier, host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is no name that a certificate could have"))?;
        Ok(Self { verifier, name })
    }

    /// Greets the server. Whether it chose HTTP/2, the stream says.
    pub(super) async fn connect(
        &self,
        socket: TcpStream,
        http1_only: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = if http1_only { &self.verifier.http1 } else { &self.verifier.any };
        connector.connect(self.name.clone(), socket).await
    }
}
