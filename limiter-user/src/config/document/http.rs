//! `[http]` as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    Flag, Later, Number, Text,
    shapes::{AccessLogDocument, NamesDocument},
};

/// `[http]`: the request half.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HttpDocument {
    /// `peer` (default), `proxy`, `forwarded` or `x-forwarded-for`.
    pub(in crate::config) client_address: Option<Text>,
    /// Networks of the proxies whose word counts for it.
    pub(in crate::config) trusted_proxies: Vec<Text>,
    /// Bytes of a request body. Default `2MB`.
    pub(in crate::config) max_body: Option<Text>,
    /// Bytes of a body that is looked at as a whole. Default `1MB`.
    pub(in crate::config) max_inspected_body: Option<Text>,
    /// Fields of a request head. Default 100.
    pub(in crate::config) max_headers: Option<Number>,
    /// Bytes of a request head. Default `32KB`.
    pub(in crate::config) max_header_bytes: Option<Text>,
    /// Connections in all. Default 20000.
    pub(in crate::config) max_connections: Option<Number>,
    /// Connections of one client. Default 256.
    pub(in crate::config) max_connections_per_client: Option<Number>,
    /// Requests in flight in all. Default 10000.
    pub(in crate::config) max_requests: Option<Number>,
    /// How long each phase may take.
    pub(in crate::config) timeouts: TimeoutsDocument,
    /// Of a body that a client sends or takes. Default `256B/s`.
    pub(in crate::config) min_body_rate: Option<Text>,
    /// `off` (default), `json`, `combined`, or a table.
    pub(in crate::config) access_log: Option<Spanned<AccessLogDocument>>,
    /// Where requests arrive. Default: `127.0.0.1:8080`.
    pub(in crate::config) listener: Vec<ListenerDocument>,
    /// Where requests go.
    pub(in crate::config) upstream: Vec<Spanned<UpstreamDocument>>,
    /// What is required of requests; the most specific match decides.
    pub(in crate::config) route: Vec<Spanned<RouteDocument>>,
}

/// `http.timeouts`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct TimeoutsDocument {
    /// Until the end of a request head. Default `10s`.
    pub(in crate::config) header: Option<Text>,
    /// Between two reads of a request body. Default `30s`.
    pub(in crate::config) body: Option<Text>,
    /// A kept-alive connection without a request. Default `75s`.
    pub(in crate::config) idle: Option<Text>,
    /// To connect to an upstream. Default `3s`.
    pub(in crate::config) connect: Option<Text>,
    /// Until an upstream's response head. Default `60s`.
    pub(in crate::config) upstream: Option<Text>,
    /// Of TLS. Default `5s`.
    pub(in crate::config) handshake: Option<Text>,
    /// For requests in flight at shutdown. Default `30s`.
    pub(in crate::config) drain: Option<Text>,
}

/// One `[[http.listener]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ListenerDocument {
    /// `ADDRESS:PORT`, `unix:PATH` or `systemd:NAME`.
    pub(in crate::config) address: Text,
    /// Default: without.
    pub(in crate::config) tls: Option<Spanned<TlsDocument>>,
    /// Whether connections begin with a PROXY protocol header. Default `false`.
    pub(in crate::config) proxy_protocol: Option<Flag>,
    /// Whether requests are sent to HTTPS. Default `false`.
    pub(in crate::config) redirect_https: Option<Flag>,
}

/// `http.listener.tls`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct TlsDocument {
    /// By the names in them; the first is for all other names.
    pub(in crate::config) certificates: Vec<Spanned<CertificateDocument>>,
    /// PEM file of the authorities of clients.
    pub(in crate::config) client_ca: Option<Text>,
    /// `required` (default with `client_ca`) or `optional`.
    pub(in crate::config) client_certificate: Option<Text>,
    /// PEM file of revoked certificates of clients.
    pub(in crate::config) crl: Option<Text>,
    /// `1.2` (default) or `1.3`.
    pub(in crate::config) min_version: Option<Text>,
}

/// One of `http.listener.tls.certificates`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CertificateDocument {
    /// PEM file of the chain, the host's own first.
    pub(in crate::config) certificate: Text,
    /// PEM file of the key.
    pub(in crate::config) key: Text,
}

/// One `[[http.upstream]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct UpstreamDocument {
    /// What routes call it.
    pub(in crate::config) name: Text,
    /// `http://`, `https://` or `h2c://`, each with `HOST[:PORT]`.
    pub(in crate::config) servers: Spanned<Vec<Text>>,
    /// `round_robin` (default), `least_requests` or `consistent_hash`.
    pub(in crate::config) balance: Option<Text>,
    /// Ask each server whether it is well. Default: not asked.
    pub(in crate::config) health: Option<HealthDocument>,
    /// Leave a server alone that keeps failing. Default: never.
    pub(in crate::config) breaker: Option<BreakerDocument>,
    /// How often a request that may be repeated is sent again. Default 1.
    pub(in crate::config) retries: Option<Number>,
    /// PEM file of the authorities of `https://` servers. Default: the system's.
    pub(in crate::config) ca: Option<Text>,
}

/// `health` of an upstream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HealthDocument {
    /// What is asked for, with `GET`.
    pub(in crate::config) path: Text,
    /// Between two questions. Default `5s`.
    pub(in crate::config) interval: Option<Text>,
    /// Until an answer. Default `2s`, at most the interval.
    pub(in crate::config) timeout: Option<Text>,
}

/// `breaker` of an upstream.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct BreakerDocument {
    /// How many within `window` open it. Default 5.
    pub(in crate::config) failures: Option<Number>,
    /// Default `10s`.
    pub(in crate::config) window: Option<Text>,
    /// How long it stays open before one request tries. Default `30s`.
    pub(in crate::config) open: Option<Text>,
}

/// One `[[http.route]]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RouteDocument {
    /// Host without port, or `*.` and a domain for all hosts below it. Default: any.
    pub(in crate::config) host: Option<Text>,
    /// Whole segments: `/api` matches `/api` and `/api/x`. Default `/`.
    pub(in crate::config) path: Option<Text>,
    /// This path only.
    pub(in crate::config) exact: Option<Text>,
    /// `*` stands for a segment or part of one, `**` for any number of segments.
    pub(in crate::config) glob: Option<Text>,
    /// Upper case. Default: any.
    pub(in crate::config) methods: Option<Spanned<Vec<Text>>>,
    /// Name of an upstream. Default: the only one.
    pub(in crate::config) upstream: Option<Text>,
    /// Names of `[auth.NAME]`, any of which lets in, or `none`. Required unless a preset is set.
    pub(in crate::config) auth: Option<Spanned<NamesDocument>>,
    /// What the caller must be allowed, all of it.
    pub(in crate::config) scopes: Option<Spanned<Vec<Text>>>,
    /// Names of `[limits.NAME]`, or `none`. Default: what the preset says.
    pub(in crate::config) limits: Option<Spanned<NamesDocument>>,
    /// What a request weighs in them. Default: what each of them says.
    pub(in crate::config) cost: Option<Number>,
    /// Name of a `[cors.NAME]`, or `none`. Default: what the preset says.
    pub(in crate::config) cors: Option<Text>,
    /// Name of a `[headers.NAME]`, or `none`. Default: what the preset says.
    pub(in crate::config) headers: Option<Text>,
    /// Not supported by this version.
    pub(in crate::config) validate: Option<Later>,
    /// `off`.
    pub(in crate::config) detect: Option<Text>,
    /// Bytes of a request body. Default: that of `[http]`.
    pub(in crate::config) max_body: Option<Text>,
    /// Client networks that may call; empty: nobody. Default: any.
    pub(in crate::config) allow: Option<Spanned<Vec<Text>>>,
    /// Edits of the request as the upstream gets it.
    pub(in crate::config) request_headers: EditsDocument,
    /// Edits of the response, after those of `headers`.
    pub(in crate::config) response_headers: EditsDocument,
    /// Not supported by this version.
    pub(in crate::config) mask_response_fields: Option<Later>,
    /// Taken off the front of the path for the upstream; every path of the route begins with it.
    pub(in crate::config) strip_prefix: Option<Text>,
    /// Not supported by this version.
    pub(in crate::config) deprecated: Option<Later>,
}

/// `request_headers` and `response_headers` of a route.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct EditsDocument {
    /// Names and values; replace what was there.
    pub(in crate::config) set: BTreeMap<Text, Text>,
    /// Names to take out.
    pub(in crate::config) remove: Vec<Text>,
}
