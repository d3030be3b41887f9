//! `[http]` and the tables that routes name: written -> checked.

use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::{
    Scope, access_log, auth, cors,
    document::{
        Document, Tables, Text,
        http::{HttpDocument, TimeoutsDocument},
    },
    error::Report,
    headers, limits, listener,
    preset::elizaos,
    route::{self, Resources},
    upstream, values,
};
use crate::policy::{
    EscalationPolicy, HttpPolicy, Mode, Rate,
    http::{ClientAddressSource, ErrorShape, GuardPolicy, HttpBounds, HttpTimeouts},
};

/// Bytes of a request body where nothing is said.
const MAX_BODY_BYTES: u64 = 2_000_000;

/// Slower than any line that a person would wait on.
const MIN_BODY_RATE: Rate = Rate { count: 256, period: Duration::from_secs(1) };

/// `None`: packets only.
pub(super) fn check(
    document: &Document,
    escalation: &EscalationPolicy,
    trusted: Vec<IpNet>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<HttpPolicy> {
    let sources = scope.sources;
    let asked = sources.upstream.is_some() || sources.variable("LIMITER_UPSTREAM").is_some();
    if document.http.is_none() && !asked && scope.elizaos.is_none() {
        refuse_orphans(document, report);
        return None;
    }
    let fallback = HttpDocument::default();
    let written = document.http.as_ref().unwrap_or(&fallback);
    let before = report.count();
    let listeners = listener::check(written, scope, report);
    let are_whole = report.count() == before;
    let server = scope.elizaos.as_ref().map(|settings| &settings.server);
    let mut resources = Resources {
        upstreams: upstream::check(&written.upstream, server, scope, report),
        auth: tables(&document.auth, report, |name, table, report| {
            auth::check(name, table, scope, report)
        }),
        limits: tables(&document.limits, report, limits::check),
        cors: tables(&document.cors, report, |name, table, report| {
            cors::check(name, table, scope, report)
        }),
        headers: tables(&document.headers, report, headers::check),
    };
    limits::bounded(&resources.limits, report);
    let routes = route::check(document, &written.route, &listeners, &mut resources, scope, report);
    if let Some(settings) = &scope.elizaos {
        elizaos::refuse_loop(settings, &resources.upstreams, &listeners, report);
    }
    let (client_address, trusted_proxies) = client_address(written, report);
    // What one lacks that cannot be used is nobody's mistake.
    if are_whole {
        listener::agree(written, &listeners, client_address, report);
        auth::agree(&document.auth, &listeners, report);
    }
    Some(HttpPolicy {
        listeners,
        client_address,
        trusted_proxies,
        trusted,
        bounds: bounds(written, scope, report),
        access_log: access_log::check(written.access_log.as_ref(), scope, report),
        timeouts: timeouts(&written.timeouts, report),
        guard: guard(escalation, scope),
        upstreams: resources.upstreams,
        routes,
        auth: resources.auth,
        limits: resources.limits,
        store: None,
        cors: resources.cors,
        headers: resources.headers,
        error_shape: match scope.elizaos {
            Some(_) => ErrorShape::ElizaOs,
            None => ErrorShape::Problem,
        },
        ignore_path_case: scope.elizaos.is_some(),
    })
}

/// Without the request half, a preset or a table that only routes use protects nothing.
fn refuse_orphans(document: &Document, report: &mut Report) {
    let tables = [
        document.limits.keys().next(),
        document.auth.keys().next(),
        document.cors.keys().next(),
        document.headers.keys().next(),
    ];
    for name in tables.into_iter().flatten() {
        report.refuse_with(
            name.span(),
            "only HTTP routes use it, and nothing serves HTTP",
            "add [[http.upstream]], or set LIMITER_UPSTREAM",
        );
    }
}

fn tables<D, P>(
    written: &Tables<D>,
    report: &mut Report,
    mut check: impl FnMut(&Text, &Spanned<D>, &mut Report) -> Option<P>,
) -> Vec<P> {
    written.iter().filter_map(|(name, table)| check(name, table, report)).collect()
}

fn client_address(
    written: &HttpDocument,
    report: &mut Report,
) -> (ClientAddressSource, Vec<IpNet>) {
    let source = report.choice(
        written.client_address.as_ref(),
        &[
            ("peer", ClientAddressSource::Peer),
            ("proxy", ClientAddressSource::Proxy),
            ("forwarded", ClientAddressSource::Forwarded),
            ("x-forwarded-for", ClientAddressSource::XForwardedFor),
        ],
        &[],
    );
    let proxies = report.values(&written.trusted_proxies, values::network);
    for text in &written.trusted_proxies {
        if values::network(text.get_ref()).is_ok_and(|network| network.prefix_len() == 0) {
            report.risk(text.span(), "every peer may then say whatever address it likes");
        }
    }
    if let (Some(key), true) = (&written.client_address, proxies.is_empty())
        && source != ClientAddressSource::Peer
    {
        report.refuse_with(
            key.span(),
            "nobody's word counts for it: `trusted_proxies` is empty",
            "trusted_proxies = [\"10.0.0.1\"]",
        );
    }
    (source, proxies)
}

fn bounds(written: &HttpDocument, scope: &Scope<'_>, report: &mut Report) -> HttpBounds {
    let preset = scope.elizaos.as_ref();
    let default = preset.map_or(MAX_BODY_BYTES, |_| elizaos::MAX_PAYLOAD_BYTES);
    let max_body_bytes = report.value_or(written.max_body.as_ref(), values::size, default);
    let max_connections = report.number_or(written.max_connections.as_ref(), 1..=1_000_000, 20_000);
    let per_client = written.max_connections_per_client.as_ref();
    HttpBounds {
        // The environment beats the file.
        max_body_bytes: preset.and_then(|p| p.max_payload_bytes).unwrap_or(max_body_bytes),
        max_inspected_body_bytes: report.value_or(
            written.max_inspected_body.as_ref(),
            |text| match usize::try_from(values::size(text)?) {
                Ok(bytes @ 1..=16_777_216) => Ok(bytes),
                _ => Err("between 1B and 16MiB".to_owned()),
            },
            1_000_000,
        ),
        max_headers: report.number_or(written.max_headers.as_ref(), 1..=1_000, 100),
        max_header_bytes: report.value_or(
            written.max_header_bytes.as_ref(),
            |text| match usize::try_from(values::size(text)?) {
                Ok(bytes @ 1_024..=1_048_576) => Ok(bytes),
                _ => Err("between 1KiB and 1MiB".to_owned()),
            },
            32_000,
        ),
        max_connections,
        max_connections_per_client: report
            .number_or(per_client, 1..=1_000_000, 256)
            .min(max_connections),
        max_requests: report.number_or(written.max_requests.as_ref(), 1..=1_000_000, 10_000),
        min_body_rate: report.value_or(
            written.min_body_rate.as_ref(),
            values::byte_rate,
            MIN_BODY_RATE,
        ),
    }
}

fn timeouts(written: &TimeoutsDocument, report: &mut Report) -> HttpTimeouts {
    let mut seconds = |written: Option<&Text>, default| {
        let default = Duration::from_secs(default);
        report.value_or(written, values::positive_duration, default)
    };
    HttpTimeouts {
        header: seconds(written.header.as_ref(), 10),
        body: seconds(written.body.as_ref(), 30),
        idle: seconds(written.idle.as_ref(), 75),
        connect: seconds(written.connect.as_ref(), 3),
        upstream: seconds(written.upstream.as_ref(), 60),
        handshake: seconds(written.handshake.as_ref(), 5),
        drain: seconds(written.drain.as_ref(), 30),
    }
}

/// Twice the failures that make a ban, within the same window: with a smaller budget the guard
/// would refuse unchecked what escalation waits to see, and the ban would never come.
fn guard(escalation: &EscalationPolicy, scope: &Scope<'_>) -> GuardPolicy {
    const AT_LEAST: u64 = 30;
    if scope.elizaos.is_some() {
        return GuardPolicy { failures: elizaos::FAILURES, by_window: true, mode: Mode::Enforce };
    }
    let points = escalation
        .scores
        .iter()
        .find(|(refusal, _)| *refusal == crate::refusal::Refusal::InvalidCredential)
        .map_or(u32::MAX, |(_, points)| *points);
    let failures = u64::from(escalation.threshold.div_ceil(points.max(1)));
    let period = escalation.window.max(Duration::from_secs(1));
    GuardPolicy {
        failures: Rate { count: AT_LEAST.max(2 * failures), period },
        by_window: false,
        mode: Mode::Enforce,
    }
}
