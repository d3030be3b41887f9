//! TLS as this host speaks it: configurations for rustls, kept while the policy asks for the same.
//!
//! In: certificates and keys as the agent read them; out: what handshakes are made with, and what
//! one proved. Session tickets are shared by all cores and outlive reloads, but never a change of
//! who may be a client.

mod certificates;

use std::{io, sync::Arc};

use rustls::{
    CertificateError, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer},
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::certificates::Certificates;
use super::transport::Socket;
use crate::{
    credentials::certificate::Names,
    policy::listener::{ClientCertificatesPolicy, ListenerPolicy, TlsPolicy, TlsVersion},
    refusal::Refusal,
};

/// What clients may choose by ALPN, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// One is enough: whoever opens several connections gets one with each.
const TICKETS: usize = 1;

/// Configurations in use, and what outlives them.
#[derive(Debug, Default)]
pub(super) struct TlsConfigs {
    kept: Vec<(TlsPolicy, Arc<ServerConfig>)>,
    tickets: Vec<(Option<ClientCertificatesPolicy>, Arc<dyn ProducesTickets>)>,
}

/// What a handshake proved.
#[derive(Debug)]
pub(super) struct TlsFacts {
    /// Server name that the client asked for, lower case.
    pub(super) server_name: Option<Box<str>>,
    /// The client's certificate, verified.
    pub(super) client_certificate: Option<CertificateDer<'static>>,
    /// Whom that names.
    pub(super) client_names: Option<Names>,
    /// Whether HTTP/2 was chosen.
    pub(super) is_http2: bool,
    /// Whether an earlier session went on.
    pub(super) is_resumed: bool,
}

impl TlsConfigs {
    /// The configuration of a policy: the one before if it is the same.
    pub(super) fn of(&mut self, policy: &TlsPolicy) -> Result<Arc<ServerConfig>, String> {
        if let Some((_, config)) = self.kept.iter().find(|(known, _)| known == policy) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.build(policy).map_err(|error| format!("TLS: {error}"))?);
        self.kept.push((policy.clone(), Arc::clone(&config)));
        Ok(config)
    }

    /// Forgets all but those of these listeners.
    pub(super) fn retain(&mut self, listeners: &[ListenerPolicy]) {
        let policies = || listeners.iter().filter_map(|listener| listener.tls.as_ref());
        self.kept.retain(|(known, _)| policies().any(|policy| policy == known));
        self.tickets.retain(|(known, _)| policies().any(|policy| policy.clients == *known));
    }

    fn build(&mut self, policy: &TlsPolicy) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = Certificates::new(&policy.certificates, &provider)?;
        let verifier = match &policy.clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => verifier(clients, &provider)?,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(policy.min_version))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // Tickets hold what a session needs; nothing is kept for those that never come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.ticketer(policy.clients.as_ref())?;
        config.send_tls13_tickets = TICKETS;
        Ok(config)
    }

    /// A ticket stands for the client's certificate too: one that was given out under other
    /// authorities or revocations opens nothing.
    fn ticketer(
        &mut self,
        clients: Option<&ClientCertificatesPolicy>,
    ) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        if let Some((_, known)) = self.tickets.iter().find(|(known, _)| known.as_ref() == clients) {
            return Ok(Arc::clone(known));
        }
        let made = aws_lc_rs::Ticketer::new()?;
        self.tickets.push((clients.cloned(), Arc::clone(&made)));
        Ok(made)
    }
}

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match oldest {
        TlsVersion::Tls12 => &BOTH,
        TlsVersion::Tls13 => &BOTH[..1],
    }
}

fn verifier(
    clients: &ClientCertificatesPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in &clients.ca {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    let crls = clients.crls.iter().map(|crl| CertificateRevocationListDer::from(crl.clone()));
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .with_crls(crls);
    if !clients.crls.is_empty() {
        // Authorities without a list of their own revoke nothing.
        builder = builder.allow_unknown_revocation_status();
    }
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| rustls::Error::General(error.to_string()))
}

/// Makes the handshake; what a failure means is [`blame`]'s to say.
pub(super) async fn accept(
    config: &Arc<ServerConfig>,
    socket: Socket,
) -> io::Result<(Box<TlsStream<Socket>>, TlsFacts)> {
    let stream = TlsAcceptor::from(Arc::clone(config)).accept(socket).await?;
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let facts = TlsFacts {
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        client_certificate: leaf.map(|leaf| leaf.clone().into_owned()),
        client_names: leaf.and_then(|leaf| Names::read(leaf)),
        is_http2: session.alpn_protocol() == Some(PROTOCOLS[0]),
        is_resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    };
    Ok((Box::new(stream), facts))
}

/// What a client whose handshake failed did wrong, if it is about its certificate: one that is
/// missing or out of date, or one that is not good.
pub(super) fn blame(error: &io::Error) -> Option<Refusal> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::NoCertificatesPresented
        | rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Some(Refusal::Unauthorized),
        rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_) => {
            Some(Refusal::InvalidCredential)
        }
        _ => None,
    }
}

/// The first of `keys` that the client can verify, or the first.
fn suitable<'a>(
    keys: &'a [Arc<rustls::sign::CertifiedKey>],
    hello: &ClientHello<'_>,
) -> Option<&'a Arc<rustls::sign::CertifiedKey>> {
    keys.iter()
        .find(|one| one.key.choose_scheme(hello.signature_schemes()).is_some())
        .or_else(|| keys.first())
}
