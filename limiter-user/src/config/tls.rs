//! `http.listener.tls`: written -> checked, with its files read; and the same files read again.
//!
//! What is read goes into the policy as bytes. Messages name files, never what is in them.

mod validity;

use std::{fs, io::Read as _, path::Path, sync::Arc};

use anyhow::{Context as _, anyhow, ensure};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use toml::Spanned;
use zeroize::Zeroizing;

use super::{
    Scope, agent,
    document::http::{CertificateDocument, TlsDocument},
    error::Report,
};
use crate::{
    clock,
    keys::file::read_private,
    policy::listener::{
        CertificatePolicy, ClientCertificatesPolicy, SecretBytes, TlsPolicy, TlsVersion,
    },
};

/// No chain, key or list of authorities is longer.
const MAX_BYTES: u64 = 1 << 20;
/// No revocation list is longer: policies travel in one frame of 16 MiB.
const MAX_CRL_BYTES: u64 = 8 << 20;

pub(super) fn check(
    written: &Spanned<TlsDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<TlsPolicy> {
    let document = written.get_ref();
    let min_version = report.choice(
        document.min_version.as_ref(),
        &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)],
        &[],
    );
    if document.certificates.is_empty() {
        report.refuse_with(
            written.span(),
            "TLS needs a certificate",
            "certificates = [{ certificate = \"a.pem\", key = \"a.key\" }]",
        );
    }
    let certificates: Vec<CertificatePolicy> =
        document.certificates.iter().filter_map(|one| certificate(one, scope, report)).collect();
    let clients = clients(document, scope, report);
    (!certificates.is_empty() && certificates.len() == document.certificates.len())
        .then_some(TlsPolicy { min_version, certificates, clients })
}

/// The same policy from its files as they are now; the error names the file.
pub(crate) fn reread(policy: &TlsPolicy) -> anyhow::Result<TlsPolicy> {
    let certificates = policy
        .certificates
        .iter()
        .map(|one| read_certificate(&one.certificate_file, &one.key_file))
        .collect::<Result<_, _>>()?;
    let clients = policy.clients.as_ref().map(|clients| {
        read_clients(&clients.ca_file, clients.crl_file.as_deref(), clients.required)
    });
    Ok(TlsPolicy { min_version: policy.min_version, certificates, clients: clients.transpose()? })
}

fn certificate(
    written: &Spanned<CertificateDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<CertificatePolicy> {
    let document = written.get_ref();
    let certificate_file = agent::path(&document.certificate, scope, report);
    let key_file = agent::path(&document.key, scope, report);
    let read = read_certificate(&certificate_file, &key_file)
        .map_err(|error| report.refuse(written.span(), format!("{error:#}")))
        .ok()?;
    // It is served all the same: some clients would rather have a wrong date than no answer.
    if let Some(concern) = validity::concern(&read.chain, clock::unix_ns() / 1_000_000_000) {
        report.risk(written.span(), format!("{}: {concern}", certificate_file.display()));
    }
    Some(read)
}

fn clients(
    document: &TlsDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<ClientCertificatesPolicy> {
    let Some(ca) = &document.client_ca else {
        for key in document.client_certificate.iter().chain(&document.crl) {
            report.refuse_with(key.span(), "there is no `client_ca`", "client_ca = \"ca.pem\"");
        }
        return None;
    };
    let required = report.choice(
        document.client_certificate.as_ref(),
        &[("required", true), ("optional", false)],
        &[],
    );
    let ca_file = agent::path(ca, scope, report);
    let crl_file = document.crl.as_ref().map(|crl| agent::path(crl, scope, report));
    let authorities = read_authorities(&ca_file);
    let authorities = authorities.map_err(|error| report.refuse(ca.span(), format!("{error:#}")));
    // One that cannot be read is told beside authorities that cannot be read.
    let place = document.crl.as_ref().map_or_else(|| ca.span(), Spanned::span);
    let roots = authorities.as_ref().map_or_else(|()| RootCertStore::empty(), |known| roots(known));
    let is_known = authorities.is_ok();
    let crls = read_crls(crl_file.as_deref(), is_known.then_some(roots))
        .map_err(|error| report.refuse(place, format!("{error:#}")));
    Some(ClientCertificatesPolicy {
        required,
        ca_file,
        ca: authorities.ok()?,
        crl_file,
        crls: crls.ok()?,
    })
}

fn read_certificate(certificate_file: &Path, key_file: &Path) -> anyhow::Result<CertificatePolicy> {
    let shown = certificate_file.display();
    let text = read(certificate_file, MAX_BYTES)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow!("{shown}: {error}"))?;
    ensure!(!chain.is_empty(), "{shown} holds no certificate");
    let text = Zeroizing::new(read_private(key_file, MAX_BYTES)?);
    let shown = key_file.display();
    // The parser's message may quote what it could not read.
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| anyhow!("{shown} holds no private key in PEM"))?;
    let secret = SecretBytes::new(key.secret_der().to_vec());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            anyhow!("{shown} is not the key of {}", certificate_file.display())
        }
        error => anyhow!("{} with {shown}: {error}", certificate_file.display()),
    })?;
    Ok(CertificatePolicy {
        certificate_file: certificate_file.to_owned(),
        key_file: key_file.to_owned(),
        chain: chain.into_iter().map(|one| one.as_ref().to_vec()).collect(),
        key: secret,
    })
}

fn read_clients(
    ca_file: &Path,
    crl_file: Option<&Path>,
    required: bool,
) -> anyhow::Result<ClientCertificatesPolicy> {
    let ca = read_authorities(ca_file)?;
    Ok(ClientCertificatesPolicy {
        required,
        ca_file: ca_file.to_owned(),
        crls: read_crls(crl_file, Some(roots(&ca)))?,
        ca,
        crl_file: crl_file.map(Path::to_owned),
    })
}

/// Certificates that may be authorities.
fn read_authorities(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let shown = file.display();
    let text = read(file, MAX_BYTES)?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow!("{shown}: {error}"))?;
    ensure!(!found.is_empty(), "{shown} holds no certificate");
    let mut known = RootCertStore::empty();
    for one in &found {
        known.add(one.clone()).with_context(|| shown.to_string())?;
    }
    Ok(found.into_iter().map(|one| one.as_ref().to_vec()).collect())
}

/// What was read before.
fn roots(authorities: &[Vec<u8>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.iter().cloned().map(CertificateDer::from));
    roots
}

/// Lists of revoked certificates, as far as they can be judged without the authorities.
fn read_crls(file: Option<&Path>, roots: Option<RootCertStore>) -> anyhow::Result<Vec<Vec<u8>>> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let shown = file.display();
    let crls = CertificateRevocationListDer::pem_slice_iter(&read(file, MAX_CRL_BYTES)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow!("{shown}: {error}"))?;
    ensure!(!crls.is_empty(), "{shown} holds no revocation list in PEM");
    if let Some(roots) = roots {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(crls.clone())
            .build()
            .map_err(|error| anyhow!("{shown}: {error}"))?;
    }
    Ok(crls.into_iter().map(|one| one.as_ref().to_vec()).collect())
}

/// The bytes of a regular file.
pub(super) fn read(path: &Path, max_bytes: u64) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
    // Reading a FIFO would wait for a writer.
    ensure!(metadata.is_file(), "{shown} is not a regular file");
    let file = fs::File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let mut bytes = Vec::new();
    let count = file.take(max_bytes + 1).read_to_end(&mut bytes);
    let count = count.with_context(|| format!("cannot read {shown}"))?;
    ensure!(count as u64 <= max_bytes, "{shown} is larger than {max_bytes} bytes");
    Ok(bytes)
}
