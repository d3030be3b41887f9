//! Where requests arrive: sockets, TLS with its certificates, and what a listener expects.
//!
//! Certificates and keys are here as bytes, because the process that uses them can read no file;
//! a private key shows in no output and is overwritten when dropped.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// One listening socket.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListenerPolicy {
    /// Which socket.
    pub address: ListenAddress,
    /// `None`: HTTP without TLS.
    pub tls: Option<TlsPolicy>,
    /// Every connection begins with a PROXY protocol header, which only trusted proxies may send.
    pub proxy_protocol: bool,
    /// Requests are sent to HTTPS, none is served.
    pub redirect_https: bool,
}

impl ListenerPolicy {
    /// A listener without TLS.
    pub fn plain(address: ListenAddress) -> Self {
        Self { address, tls: None, proxy_protocol: false, redirect_https: false }
    }
}

/// A socket to listen on.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket in the file system.
    Unix(PathBuf),
    /// Sockets that systemd opened, by `FileDescriptorName=` (the socket unit's name by default).
    Systemd(String),
}

impl ListenAddress {
    /// TCP port, where it is known.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) | Self::Systemd(_) => None,
        }
    }

    /// Whether only this host can reach it. What systemd opened may be reached from anywhere.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
            Self::Systemd(_) => false,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// How TLS is spoken.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TlsPolicy {
    /// Oldest version accepted.
    pub min_version: TlsVersion,
    /// By server name; the first is for all other names. Never empty.
    pub certificates: Vec<CertificatePolicy>,
    /// Certificates of clients; `None`: not asked for.
    pub clients: Option<ClientCertificatesPolicy>,
}

impl TlsPolicy {
    /// All files it was read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let own = self.certificates.iter().flat_map(|one| [&one.certificate_file, &one.key_file]);
        let clients = self.clients.iter();
        let clients = clients.flat_map(|one| std::iter::once(&one.ca_file).chain(&one.crl_file));
        own.chain(clients).map(PathBuf::as_path)
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// A certificate of this host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificatePolicy {
    /// Where the chain was read.
    pub certificate_file: PathBuf,
    /// Where the key was read.
    pub key_file: PathBuf,
    /// DER, the host's own first.
    pub chain: Vec<Vec<u8>>,
    /// DER of PKCS#8, PKCS#1 or SEC1.
    pub key: SecretBytes,
}

/// Which certificates of clients are accepted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClientCertificatesPolicy {
    /// Whether a client must have one.
    pub required: bool,
    /// Where the authorities were read.
    pub ca_file: PathBuf,
    /// DER of the authorities.
    pub ca: Vec<Vec<u8>>,
    /// Where the revocation lists were read.
    pub crl_file: Option<PathBuf>,
    /// DER of revocation lists.
    pub crls: Vec<Vec<u8>>,
}

/// Bytes that nobody may see.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes them over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for their use.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_no_output() {
        let certificate = CertificatePolicy {
            certificate_file: "a.pem".into(),
            key_file: "a.key".into(),
            chain: Vec::new(),
            key: SecretBytes::new(vec![77; 4]),
        };
        assert!(!format!("{certificate:?}").contains("77"));
    }
}
