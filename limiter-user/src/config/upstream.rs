//! `[[http.upstream]]`: written -> checked. Reads the certificates that servers are verified with.

use std::{fs::File, io::Read as _, path::Path};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use toml::Spanned;

use super::{
    Scope,
    document::{
        Text,
        http::{BreakerDocument, HealthDocument, UpstreamDocument},
    },
    error::{Place, Report},
    values,
};
use crate::policy::upstream::{
    Balance, BreakerPolicy, HealthPolicy, MAX_SERVERS, Scheme, ServerPolicy, UpstreamPolicy,
};

/// Name of the upstream where the file has none.
const DEFAULT_NAME: &str = "default";

/// How often a request is sent again where nothing is said.
const DEFAULT_RETRIES: u32 = 1;

/// No file of authorities is larger.
const MAX_CA_BYTES: u64 = 4 << 20;

pub(super) fn check(
    written: &[Spanned<UpstreamDocument>],
    preset: Option<&ServerPolicy>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<UpstreamPolicy> {
    let override_ = match &scope.sources.upstream {
        Some(url) => Some((Place::from("--upstream"), url.clone())),
        None => {
            scope.sources.variable("LIMITER_UPSTREAM").map(|url| ("LIMITER_UPSTREAM".into(), url))
        }
    };
    let mut upstreams: Vec<UpstreamPolicy> = Vec::new();
    for entry in written {
        let document = entry.get_ref();
        let name = report.value(&document.name, values::name);
        if let Some(name) = &name
            && upstreams.iter().any(|other| other.name == *name)
        {
            report.refuse(document.name.span(), format!("two upstreams are named {name:?}"));
        }
        let servers = servers(&document.servers, report);
        let checked = UpstreamPolicy {
            name: name.unwrap_or_default(),
            balance: balance(document, report),
            health: document.health.as_ref().map(|health| self::health(health, report)),
            breaker: document.breaker.as_ref().map(|breaker| self::breaker(breaker, report)),
            retries: report.number_or(document.retries.as_ref(), 0..=10, DEFAULT_RETRIES),
            roots: roots(
                document.ca.as_ref(),
                &servers,
                document.servers.span().into(),
                scope,
                report,
            ),
            servers,
        };
        if !checked.name.is_empty() && !checked.servers.is_empty() {
            upstreams.push(checked);
        }
    }
    if let (true, Some(server)) = (written.is_empty(), preset) {
        upstreams.push(plain(server.clone()));
    }
    if let Some((place, url)) = override_
        && let Some(server) = server(place.clone(), &url, report)
    {
        override_server(&mut upstreams, server, place, report);
    }
    if upstreams.is_empty() && report.is_clean() {
        report.refuse_with(
            "http.upstream",
            "no upstream is named",
            "add [[http.upstream]] with name and servers, or set LIMITER_UPSTREAM",
        );
    }
    upstreams
}

/// Puts the server of `--upstream` in place of the only upstream's.
fn override_server(
    upstreams: &mut Vec<UpstreamPolicy>,
    server: ServerPolicy,
    place: Place,
    report: &mut Report,
) {
    let is_tls = server.scheme == Scheme::Https;
    match upstreams.as_mut_slice() {
        [] => upstreams.push(UpstreamPolicy {
            roots: if is_tls { system_roots(place, report) } else { Vec::new() },
            ..plain(server)
        }),
        [only] => {
            if is_tls && only.roots.is_empty() {
                only.roots = system_roots(place, report);
            }
            only.servers = vec![server];
        }
        _ => report.refuse(place, "the file has several upstreams; which one is meant?"),
    }
}

/// One server without TLS, and nothing else said.
fn plain(server: ServerPolicy) -> UpstreamPolicy {
    UpstreamPolicy {
        name: DEFAULT_NAME.to_owned(),
        roots: Vec::new(),
        servers: vec![server],
        balance: Balance::default(),
        health: None,
        breaker: None,
        retries: DEFAULT_RETRIES,
    }
}

/// The one server of a URL with a path, and the path.
pub(super) fn asked(
    name: String,
    url: &Text,
    ca: Option<&Text>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<(UpstreamPolicy, String)> {
    let text = url.get_ref();
    let begin = text.find("://").map_or(0, |at| at + 3);
    let end = text[begin..].find(['/', '?', '#']).map_or(text.len(), |at| begin + at);
    let (base, rest) = text.split_at(end);
    let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    if path.contains('#') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        report.refuse(url.span(), "the path is not one that can be asked for");
        return None;
    }
    let servers = vec![server(url.span().into(), base, report)?];
    let roots = roots(ca, &servers, url.span().into(), scope, report);
    let upstream = UpstreamPolicy {
        name,
        servers,
        balance: Balance::default(),
        health: None,
        breaker: None,
        retries: DEFAULT_RETRIES,
        roots,
    };
    Some((upstream, path))
}

fn servers(written: &Spanned<Vec<Text>>, report: &mut Report) -> Vec<ServerPolicy> {
    if written.get_ref().is_empty() {
        let example = "servers = [\"http://127.0.0.1:3000\"]";
        report.refuse_with(written.span(), "names no server", example);
    }
    if written.get_ref().len() > MAX_SERVERS {
        report.refuse(written.span(), format!("at most {MAX_SERVERS} servers"));
    }
    let mut servers: Vec<ServerPolicy> = Vec::new();
    for text in written.get_ref() {
        match server(text.span().into(), text.get_ref(), report) {
            Some(server) if servers.contains(&server) => {
                report.refuse(text.span(), format!("{server} is named twice"));
            }
            Some(server) => servers.push(server),
            None => {}
        }
    }
    servers
}

fn balance(document: &UpstreamDocument, report: &mut Report) -> Balance {
    let known = [
        ("round_robin", Balance::RoundRobin),
        ("least_requests", Balance::LeastRequests),
        ("consistent_hash", Balance::ConsistentHash),
    ];
    report.choice(document.balance.as_ref(), &known, &[])
}

fn health(written: &HealthDocument, report: &mut Report) -> HealthPolicy {
    let path = report.value(&written.path, |text| {
        let usable = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
        if usable && !text.contains('#') {
            Ok(text.to_owned())
        } else {
            Err("expected a path, e.g. \"/healthz\"".to_owned())
        }
    });
    let mut duration = |written: Option<&Text>, default| {
        report.value_or(
            written,
            |text| match values::positive_duration(text)? {
                short if short.as_millis() < 100 => Err("at least 100ms".to_owned()),
                duration => Ok(duration),
            },
            std::time::Duration::from_secs(default),
        )
    };
    let interval = duration(written.interval.as_ref(), 5);
    let timeout = duration(written.timeout.as_ref(), 2);
    HealthPolicy { path: path.unwrap_or_default(), interval, timeout: timeout.min(interval) }
}

fn breaker(written: &BreakerDocument, report: &mut Report) -> BreakerPolicy {
    let seconds = std::time::Duration::from_secs;
    BreakerPolicy {
        failures: report.number_or(written.failures.as_ref(), 1..=1_000_000, 5),
        window: report.value_or(written.window.as_ref(), values::positive_duration, seconds(10)),
        open: report.value_or(written.open.as_ref(), values::positive_duration, seconds(30)),
    }
}

/// The authorities for `https` servers: those of `ca`, else the system's.
fn roots(
    ca: Option<&Text>,
    servers: &[ServerPolicy],
    place: Place,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<Vec<u8>> {
    let is_tls = servers.iter().any(|server| server.scheme == Scheme::Https);
    if let (Some(file), false) = (ca, is_tls) {
        report.refuse(file.span(), "no server of this upstream is https://");
    }
    authorities(is_tls, place, ca, scope, report)
}

/// The authorities that a server's certificate must lead to: those of `ca`, else the system's.
pub(super) fn authorities(
    is_tls: bool,
    place: Place,
    ca: Option<&Text>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<Vec<u8>> {
    match ca {
        _ if !is_tls => Vec::new(),
        Some(file) => match read_roots(&scope.base.join(Path::new(file.get_ref()))) {
            Ok(roots) => roots,
            Err(error) => {
                report.refuse(file.span(), error);
                Vec::new()
            }
        },
        None => system_roots(place, report),
    }
}

fn read_roots(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let name = path.display();
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CA_BYTES + 1).read_to_end(&mut text))
        .map_err(|error| format!("{name}: {error}"))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_CA_BYTES {
        return Err(format!("{name}: larger than {MAX_CA_BYTES} bytes"));
    }
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let roots = roots.map_err(|error| format!("{name}: {error}"))?;
    let mut store = rustls::RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
    if usable == 0 {
        return Err(format!("{name}: holds no certificate of an authority"));
    }
    Ok(roots.into_iter().map(|root| root.to_vec()).collect())
}

fn system_roots(place: Place, report: &mut Report) -> Vec<Vec<u8>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        report.refuse_with(
            place,
            "this system has no certificates of authorities to verify a server with",
            "install ca-certificates, or name a file: ca = \"ca.pem\"",
        );
    }
    found.certs.into_iter().map(|root| root.to_vec()).collect()
}

/// `SCHEME://HOST[:PORT]`. The URL is never repeated in a message: it may hold a password.
fn server(place: Place, url: &str, report: &mut Report) -> Option<ServerPolicy> {
    let example = "e.g. \"http://127.0.0.1:3000\"";
    let expected = "an upstream is http://HOST:PORT, https:// or h2c://";
    if url.contains('@') {
        report.refuse_with(place, "a URL holds no user or password here", example);
        return None;
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        report.refuse_with(place, expected, example);
        return None;
    };
    let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        "h2c" => (Scheme::H2c, 80),
        "unix" => {
            report.unsupported(place, "unix://", "http://, https://, h2c://");
            return None;
        }
        _ => {
            report.refuse_with(place, expected, example);
            return None;
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        report.refuse_with(place, "an upstream has no path: requests keep theirs", example);
        return None;
    }
    let Some((host, port)) = values::host_and_port(authority) else {
        report.refuse_with(place, "has no usable host and port", example);
        return None;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(ServerPolicy { scheme, host, port: port.unwrap_or(default_port) })
}
