//! A policy in words: listeners, routes, lists, limits, escalation, sinks.

mod kernel;

use std::{
    fmt::{Debug, Display},
    io::{self, Write},
    time::Duration,
};

use crate::{
    limits::Meter,
    policy::{
        EscalationPolicy, HttpPolicy, Mode, Policy, Rate, RateLimit, SinkKind, SinkPolicy,
        auth::jwt::{JwtKeys, JwtPolicy},
        http::{
            AuthKind, CorsOrigins, ErrorShape, LimitPolicy, OriginPattern, PathPattern, RouteAuth,
            RoutePolicy,
        },
        limits::{AppliesTo, Counting, KeyPart, QuotaPolicy},
        listener::ListenerPolicy,
        store::{OnFailure, StorePolicy},
    },
};

pub(super) fn write(policy: &Policy, out: &mut dyn Write) -> io::Result<()> {
    match &policy.kernel {
        Some(kernel) => kernel::write(kernel, out)?,
        None => writeln!(out, "kernel: off (HTTP only)")?,
    }
    match &policy.http {
        Some(http) => write_http(http, out)?,
        None => writeln!(out, "\nhttp: off (packets only)")?,
    }
    write_escalation(&policy.escalation, out)?;
    if let Some(store) = &policy.store {
        write_store(store, out)?;
    }
    writeln!(out, "\nevents")?;
    for sink in &policy.sinks {
        writeln!(out, "  {}", sink_words(sink))?;
    }
    writeln!(out)
}

/// An address, and what is expected there.
fn listener_words(listener: &ListenerPolicy) -> String {
    let mut words = listener.address.to_string();
    if let Some(tls) = &listener.tls {
        words.push_str(" (TLS");
        if let Some(clients) = &tls.clients {
            words.push_str(", client certificates ");
            words.push_str(if clients.required { "required" } else { "optional" });
        }
        words.push(')');
    }
    if listener.proxy_protocol {
        words.push_str(" (PROXY protocol)");
    }
    if listener.redirect_https {
        words.push_str(" (redirects to HTTPS)");
    }
    words
}

fn scheme_words(kind: &AuthKind) -> String {
    match kind {
        AuthKind::ApiKey(keys) => format!("api_key in {}, {} known", keys.header, keys.keys.len()),
        AuthKind::Jwt(jwt) => jwt_words(jwt),
        AuthKind::Forward(forward) => {
            let server = forward.upstream.servers.first();
            let server = server.map(ToString::to_string).unwrap_or_default();
            format!("forward to {server}{}", forward.path)
        }
        AuthKind::Hmac(hmac) => {
            let senders = join(hmac.secrets.iter().map(|secret| &secret.name));
            format!("webhooks signed in {} by {senders}", hmac.header)
        }
        AuthKind::Mtls(mtls) => format!("certificates of {} kinds", mtls.principals.len()),
        AuthKind::Signature(signature) => {
            format!("requests signed by {}", join(signature.keys.iter().map(|key| &key.id)))
        }
    }
}

fn jwt_words(jwt: &JwtPolicy) -> String {
    let keys = match &jwt.keys {
        JwtKeys::Url { upstream, path } => {
            let server = upstream.servers.first().map(ToString::to_string).unwrap_or_default();
            format!("keys from {server}{path}")
        }
        JwtKeys::Set { file, .. } | JwtKeys::Public { file: Some(file), .. } => {
            format!("keys in {}", file.display())
        }
        JwtKeys::Public { file: None, .. } => "a public key".to_owned(),
        JwtKeys::Secret { .. } => "a shared secret".to_owned(),
    };
    let issuer = jwt.issuer.as_deref().unwrap_or("any issuer");
    let algorithms = join(jwt.algorithms.iter().map(|algorithm| algorithm.name()));
    let audience = if jwt.audience.is_empty() { "anybody".to_owned() } else { join(&jwt.audience) };
    format!("jwt of {issuer} for {audience}, {algorithms}, {keys}")
}

fn write_http(http: &HttpPolicy, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nhttp")?;
    writeln!(out, "  listens on  {}", join(http.listeners.iter().map(listener_words)))?;
    for upstream in &http.upstreams {
        writeln!(out, "  upstream    {} = {}", upstream.name, join(&upstream.servers))?;
    }
    if http.error_shape == ErrorShape::ElizaOs {
        writeln!(out, "  refusals    as an ElizaOS server words them; paths in any case")?;
    }
    for route in &http.routes {
        write_route(route, http, out)?;
    }
    for auth in &http.auth {
        let (kind, mode) = (scheme_words(&auth.kind), mode_words(auth.mode));
        writeln!(out, "  auth        {}: {kind}{mode}", auth.name)?;
    }
    for cors in &http.cors {
        let origins = match &cors.origins {
            CorsOrigins::Any => "every origin".to_owned(),
            CorsOrigins::List(list) if list.is_empty() => "no other origin".to_owned(),
            CorsOrigins::List(list) => join(list.iter().map(origin_words)),
        };
        let credentials = if cors.credentials { ", with credentials" } else { "" };
        writeln!(
            out,
            "  cors        {}: {origins}{credentials}{}",
            cors.name,
            mode_words(cors.mode)
        )?;
    }
    if let Some(log) = &http.access_log {
        let (path, bytes, keep) = (log.path.display(), log.rotate_bytes, log.keep);
        let form = word(&log.format);
        writeln!(out, "  access log  {path}, {form} (rotated at {bytes} bytes, {keep} kept)")?;
    }
    writeln!(out, "  guard       {} failed attempts per client", rate_words(http.guard.failures))
}

fn write_route(route: &RoutePolicy, http: &HttpPolicy, out: &mut dyn Write) -> io::Result<()> {
    let kind = match &route.path {
        PathPattern::Exact(_) => " (exactly)",
        PathPattern::Prefix(_) => "",
        PathPattern::Glob(_) => " (glob)",
    };
    let upstream = &http.upstreams[route.upstream].name;
    writeln!(out, "  route       {}{kind} -> {upstream}", route.name)?;
    if !route.methods.is_empty() {
        writeln!(out, "    methods   {}", route.methods.join(", "))?;
    }
    let auth = match &route.auth {
        RouteAuth::Public => "none: public".to_owned(),
        RouteAuth::AnyOf(any) => join(any.iter().map(|at| &http.auth[*at].name)),
        RouteAuth::Optional(any) => {
            let names = join(any.iter().map(|at| &http.auth[*at].name));
            format!("{names}, or nothing presented: public")
        }
    };
    writeln!(out, "    auth      {auth}")?;
    if !route.second_auth.is_empty() {
        let names = join(route.second_auth.iter().map(|at| &http.auth[*at].name));
        writeln!(out, "    and       {names}")?;
    }
    if route.limits.is_empty() {
        writeln!(out, "    limits    none")?;
    }
    for at in &route.limits {
        writeln!(out, "    limits    {}", http_limit_words(&http.limits[*at]))?;
    }
    if let Some(allow) = &route.allow {
        writeln!(
            out,
            "    allow     {}",
            if allow.is_empty() { "nobody".to_owned() } else { join(allow) }
        )?;
    }
    if let Some(at) = route.cors {
        writeln!(out, "    cors      {}", http.cors[at].name)?;
    }
    if let Some(at) = route.headers {
        writeln!(out, "    headers   {}", http.headers[at].name)?;
    }
    for (what, edits) in
        [("request  ", &route.request_headers), ("response ", &route.response_headers)]
    {
        if !edits.remove.is_empty() {
            writeln!(out, "    {what} without {}", edits.remove.join(", "))?;
        }
        if !edits.set.is_empty() {
            let names = join(edits.set.iter().map(|(name, _)| name));
            writeln!(out, "    {what} with its own {names}")?;
        }
    }
    if let Some(bytes) = route.max_body_bytes {
        writeln!(out, "    bodies    at most {bytes} bytes")?;
    }
    if !route.content_types.is_empty() {
        writeln!(out, "    bodies    {}", route.content_types.join(", "))?;
    }
    if let Some(prefix) = &route.strip_prefix {
        writeln!(out, "    strips    {prefix}")?;
    }
    Ok(())
}

fn write_escalation(escalation: &EscalationPolicy, out: &mut dyn Write) -> io::Result<()> {
    if !escalation.enabled {
        return writeln!(out, "\nescalation: off (nobody is banned by evidence)");
    }
    let scores =
        escalation.scores.iter().map(|(refusal, points)| format!("{} {points}", refusal.label()));
    writeln!(out, "\nescalation{}", mode_words(escalation.mode))?;
    writeln!(
        out,
        "  {} points in {} ban: {}",
        escalation.threshold,
        duration_words(escalation.window),
        join(scores)
    )?;
    writeln!(
        out,
        "  first {}, then {} times longer up to {}; forgotten after {}; scope {}",
        duration_words(escalation.first_ban),
        escalation.factor,
        duration_words(escalation.max_ban),
        duration_words(escalation.decay),
        escalation.scope.label()
    )
}

fn write_store(store: &StorePolicy, out: &mut dyn Write) -> io::Result<()> {
    let without = match store.on_failure {
        OnFailure::Local => "each host counts for itself",
        OnFailure::Open => "nothing is limited",
        OnFailure::Closed => "what is limited is refused",
    };
    writeln!(out, "\nstore")?;
    writeln!(out, "  {store}: limits and bans are shared with all who use it")?;
    writeln!(out, "  without an answer in {}: {without}", duration_words(store.timeout))
}

fn sink_words(sink: &SinkPolicy) -> String {
    let to = match &sink.kind {
        SinkKind::Stderr => "stderr".to_owned(),
        SinkKind::File { path, rotate_bytes, keep } => {
            format!("{} (rotated at {rotate_bytes} bytes, {keep} kept)", path.display())
        }
    };
    let only = if sink.kinds.is_empty() {
        String::new()
    } else {
        format!(", only {}", sink.kinds.join(", "))
    };
    format!("{to}, {}{only}", word(&sink.format))
}

fn http_limit_words(limit: &LimitPolicy) -> String {
    let quota = limit.quota.as_ref().map_or_else(String::new, |quota| {
        let amounts = quota.amounts.each().into_iter().map(|(tier, amount)| {
            let tier = tier.map_or_else(String::new, |tier| format!("{tier} "));
            format!("{tier}{}{}", rate_words(amount.rate), burst_words(quota, amount))
        });
        let wait = if quota.max_delay.is_zero() {
            String::new()
        } else {
            format!(" waiting up to {}", duration_words(quota.max_delay))
        };
        format!(", {} {}{wait}", quota.algorithm.label(), amounts.collect::<Vec<_>>().join(", "))
    });
    let concurrent = limit.concurrent.map_or_else(String::new, |most| format!(", {most} at once"));
    let by = limit.key.iter().map(|part| match part {
        KeyPart::Client => "client".to_owned(),
        KeyPart::Principal => "principal".to_owned(),
        KeyPart::Route => "route".to_owned(),
        KeyPart::Header(name) => format!("header:{name}"),
    });
    let by = by.collect::<Vec<_>>().join(" and ");
    let who = match (limit.applies_to, limit.count) {
        (AppliesTo::All, Counting::All) => "all requests",
        (AppliesTo::All, Counting::Failures) => "failures of all",
        (AppliesTo::All, Counting::Successes) => "successes of all",
        (AppliesTo::Unauthenticated, Counting::All) => "unauthenticated requests",
        (AppliesTo::Unauthenticated, Counting::Failures) => "failures of the unauthenticated",
        (AppliesTo::Unauthenticated, Counting::Successes) => "successes of the unauthenticated",
    };
    let cost =
        if limit.cost == 1 { String::new() } else { format!(", each weighs {}", limit.cost) };
    let (name, mode) = (&limit.name, mode_words(limit.mode));
    format!("{name}{quota}{concurrent} by {by}, {who}{cost}{mode}")
}

/// What a bucket holds in force: less than is written where more would wait for too long.
fn burst_words(quota: &QuotaPolicy, amount: RateLimit) -> String {
    let burst = Meter::of(quota, amount).limit();
    match (quota.algorithm.is_bucket(), burst < amount.burst) {
        (false, _) => String::new(),
        (true, false) => format!(" burst {burst}"),
        (true, true) => format!(" burst {burst} (of {}, for max_delay)", amount.burst),
    }
}

fn origin_words(origin: &OriginPattern) -> String {
    let wildcard = if origin.subdomains { "*." } else { "" };
    let port = origin.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{wildcard}{}{port}", origin.scheme, origin.host)
}

fn rate_words(rate: Rate) -> String {
    let period = duration_words(rate.period);
    let period = if period == "1s" { "s" } else { &period };
    format!("{}/{period}", rate.count)
}

fn duration_words(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= length && ms.is_multiple_of(length) {
            return format!("{}{unit}", ms / length);
        }
    }
    format!("{ms}ms")
}

fn mode_words(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "",
        Mode::Monitor => " (monitor: counted, not enforced)",
    }
}

/// The name of a fieldless variant, as the configuration spells it.
fn word(value: &impl Debug) -> String {
    format!("{value:?}").to_ascii_lowercase()
}

fn join(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
